"""What cannot be fetched is one line, told at once, with nothing printed before it."""

from __future__ import annotations

import logging
import socket
import sys
import urllib.request
import warnings

import pytest
from huggingface_hub import constants

from angularkd import InputError
from angularkd.models.downloads import fetched
from angularkd.models.opening import open_classifier


@pytest.fixture
def _no_network(monkeypatch) -> None:
    def nowhere(*_args, **_options):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    monkeypatch.setattr(urllib.request, "getproxies", dict)


def test_what_was_loaded_is_handed_on() -> None:
    assert fetched("it", lambda: 3, "do something") == 3


@pytest.mark.usefixtures("_no_network")
def test_nothing_is_printed_before_the_one_line(capfd) -> None:
    logger = logging.getLogger("a.library")
    logger.addHandler(logging.StreamHandler())  # to this standard error, as libraries do when they are imported

    def load() -> None:
        logger.warning("Retrying in 1s")
        warnings.warn("unreachable", stacklevel=1)
        print("Downloading")
        print("0%", file=sys.stderr)
        raise OSError("no route to host.\nsecond line")

    with pytest.raises(InputError, match=r"^it could not be had \(no route to host\): do something$"):
        fetched("it", load, "do something")
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET
    with pytest.warns(UserWarning, match="heard again"):
        warnings.warn("heard again", stacklevel=1)


@pytest.mark.usefixtures("_no_network")
def test_the_hub_is_not_tried_where_it_has_no_address(monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert fetched("it", lambda: constants.HF_HUB_OFFLINE, "x")
    assert not constants.HF_HUB_OFFLINE
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "proxy:1"})
    assert not fetched("it", lambda: constants.HF_HUB_OFFLINE, "x")


def test_the_hub_is_tried_where_it_has_an_address(monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
    assert not fetched("it", lambda: constants.HF_HUB_OFFLINE, "x")


def test_a_package_that_is_not_there_is_named_and_faults_of_ours_pass() -> None:
    def needs_more() -> None:
        raise ModuleNotFoundError("No module named 'x'", name="x")

    with pytest.raises(InputError, match="it needs the package x: install it"):
        fetched("it", needs_more, "y")

    def told_already() -> None:
        raise InputError("as it is")

    with pytest.raises(InputError, match=r"^as it is$"):
        fetched("it", told_already, "y")


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize("spec", ["timm/test_resnet", "torchvision/squeezenet1_1", "hf/microsoft/resnet-18"])
def test_libraries_without_a_network(spec, capfd, monkeypatch, tmp_path) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=rf"of {spec} could not be had \(.*\): fetch") as caught:
        open_classifier(spec, 10, pretrained=True)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
