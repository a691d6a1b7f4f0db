"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

os.environ.pop(
    "COLUMNS", None
)  # the processes that pytest-xdist starts have one of 80, where readline was imported before


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """The networks here are so small that threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_bf16() -> Iterator[None]:
    """Let `precision=auto` be float32 on every processor, so that what is compared digit by digit is so everywhere."""
    from angularkd.system import devices

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "processor_has_bf16", lambda: False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_reports() -> Iterator[None]:
    """Leave out the reports of finished runs, which take longer than most runs here; those who test them ask for `reports`."""
    import angularkd.commands.distill
    import angularkd.commands.train

    with pytest.MonkeyPatch.context() as patch:
        for command in (angularkd.commands.distill, angularkd.commands.train):
            patch.setattr(command, "reporting", lambda config, reporter: None)
        yield


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs leave reports, as they do by default."""
    from angularkd.commands import distill, report, train

    for command in (distill, train):
        monkeypatch.setattr(command, "reporting", report.reporting)


@pytest.fixture(scope="session")
def digits_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small teacher of the embedded digits, trained for a few epochs; tests leave it as it is."""
    import angularkd
    from helpers import DIGITS

    folder = tmp_path_factory.mktemp("digits-teacher") / "run"
    return angularkd.train(**DIGITS, model="cifar/resnet8", epochs=4, out=str(folder)).folder


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """Real weights and images, kept outside the repository: ANGULARKD_TEST_DATA, or `shared` beside the repository."""
    beside = Path(__file__).resolve().parents[1].parent / "shared"
    folder = Path(os.environ.get("ANGULARKD_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no folder of test data at {folder}; ANGULARKD_TEST_DATA names another place")
    return folder
