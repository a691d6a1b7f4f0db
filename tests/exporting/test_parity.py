"""Every engine gives what PyTorch gives: the benchmark of it, on a few images of CIFAR-10 with published weights."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("onnxruntime", reason="the extra export is not installed")
pytest.importorskip("onnxscript", reason="the extra export is not installed")
pytest.importorskip("openvino", reason="the extra openvino is not installed")


@pytest.fixture
def parity(monkeypatch) -> ModuleType:
    from angularkd.exporting import checks

    monkeypatch.setattr(checks, "REPEATS", 2)
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    import export_parity

    return export_parity


def test_all_engines_agree_on_real_images(parity, shared_folder, tmp_path, monkeypatch, capsys) -> None:
    arguments = ["--folder", str(shared_folder), "--images", "20", "--cases", "cifar"]
    monkeypatch.setattr(sys, "argv", ["export_parity.py", *arguments, "--json-file", str(tmp_path / "found.json")])
    with pytest.raises(SystemExit) as stop:
        parity.main()
    printed = capsys.readouterr().out
    assert stop.value.code == 0 and "every engine gives what PyTorch gives" in printed
    assert (tmp_path / "found.json").stat().st_size > 500


@pytest.mark.parametrize(
    ("other", "same", "holds"),
    [
        ([[0.7, 0.3], [0.2, 0.8]], 2, True),
        ([[0.70005, 0.29995], [0.2, 0.8]], 2, True),
        ([[0.702, 0.298], [0.2, 0.8]], 2, False),
        ([[0.7, 0.3], [0.8, 0.2]], 1, False),
    ],
)
def test_what_differs_does_not_hold(parity, other, same, holds) -> None:
    original = torch.tensor([[0.7, 0.3], [0.2, 0.8]])
    found = parity.agreeing(original, torch.tensor(other), torch.tensor([0, 1]))
    assert (found.same_class, found.holds, found.images) == (same, holds, 2)
    assert found.accuracy == same / 2
