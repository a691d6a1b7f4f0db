"""A run's default folder has a name that file systems take, however long those of model and data are."""

from __future__ import annotations

from pathlib import Path

from angularkd.config import DistillConfig
from angularkd.training.run import _folder, _short


def test_long_names_make_a_folder_that_can_be(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = DistillConfig(data="d" * 255, teacher="é" * 127, student="\udcff" * 255, seed=2**32 - 1)
    with _folder(config, f"{_short(config.student)}-from-{_short(config.teacher)}").claimed(resume=False) as claimed:
        folder = claimed.path
        assert folder.parent == Path("runs") and len(folder.name.encode(errors="surrogateescape")) <= 255
        folder.mkdir(parents=True, exist_ok=True)


def test_usual_names_stay_whole() -> None:
    assert [_short(spec) for spec in ("cifar/resnet8", "runs/a/", "cifar10:/data/c", "net.py:build")] == [
        *("resnet8", "a", "c", "build"),
    ]
