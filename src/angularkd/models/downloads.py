"""Load what other libraries offer: quietly, and with one line when it cannot be fetched."""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import sys
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar
from urllib.parse import urlsplit

from angularkd.errors import InputError

T = TypeVar("T")


def fetched(what: str, load: Callable[[], T], remedy: str) -> T:
    """Return the result of a library's own download.

    The library's log lines, warnings and retries are hidden; its progress is visible on a terminal.

    Args:
        what: what errors call the result.
        load: fetches it, by the library's own means.
        remedy: what errors advise.

    Raises:
        InputError: one line, when it cannot be fetched.
    """
    try:
        with _quiet(), _hub_offline_without_an_address():
            return load()
    except InputError:
        raise
    except ModuleNotFoundError as error:
        raise InputError(f"{what} needs the package {error.name}: install it") from None
    except (OSError, RuntimeError, ValueError, KeyError, ImportError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = (lines or [type(error).__name__])[0].rstrip(".:")
        raise InputError(f"{what} could not be had ({reason}): {remedy}") from None


def fetch_weights(spec: str, load: Callable[[], T]) -> T:
    """Return what a library loads with the pretrained weights of a SPEC; raise InputError when they cannot be fetched."""
    remedy = "fetch them where there is a network and give the file as weights"
    return fetched(f"the pretrained weights of {spec}", load, remedy)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress log records and warnings inside, and text too unless standard error is a terminal."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.ExitStack() as stack:
            warnings.simplefilter("ignore")
            if not sys.stderr.isatty():
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
                stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def _hub_offline_without_an_address() -> Iterator[None]:
    """Search the hub's cache alone where its host has no address, rather than retry for a minute."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _has_address(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _has_address(url: str) -> bool:
    """Return whether the host's name can be resolved; behind a proxy that is the proxy's business."""
    if urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(url).hostname, None)
    except OSError:
        return False
    return True
