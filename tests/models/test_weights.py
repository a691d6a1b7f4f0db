"""Weights: loaded strictly or refused with every reason, saved whole, told apart by their fingerprint."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from angularkd import InputError
from angularkd.models import cifar
from angularkd.models.weights import fingerprint, load_into, read_metadata, read_weights, save_weights


def test_saved_weights_come_back_with_their_metadata(tmp_path) -> None:
    model = cifar.create("resnet8", 10)
    save_weights(tmp_path / "a.safetensors", model, {"classes": ["a", "b"], "mean": [0.5]})
    other = cifar.create("resnet8", 10)
    assert fingerprint(other) != fingerprint(model)
    load_into(other, read_weights(tmp_path / "a.safetensors"), "a")
    assert fingerprint(other) == fingerprint(model)
    assert read_metadata(tmp_path / "a.safetensors") == {"classes": ["a", "b"], "mean": [0.5]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module._orig_mod."])
def test_checkpoints_of_training_scripts_are_understood(tmp_path, wrap, prefix) -> None:
    model = cifar.create("resnet8", 10)
    torch.save(wrap({prefix + name: value for name, value in model.state_dict().items()}), tmp_path / "a.pth")
    other = cifar.create("resnet8", 10)
    load_into(other, read_weights(tmp_path / "a.pth"), "a")
    assert fingerprint(other) == fingerprint(model)


def test_every_missing_unexpected_and_misshaped_name_is_told_and_nothing_loaded() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = fingerprint(model)
    state = {"0.weight": torch.zeros(4, 2), "1.weight": torch.ones(3), "1.bias": torch.ones(3), "extra": torch.ones(1)}
    with pytest.raises(InputError) as caught:
        load_into(model, state, "file.pth")
    for part in (
        "file.pth",
        "3 missing: 0.bias",
        "1 unexpected: extra",
        "1 of another shape: 0.weight ([4, 2], not [3",
    ):
        assert part in str(caught.value)
    assert fingerprint(model) == before


def test_unreadable_files_are_refused(tmp_path) -> None:
    class Code:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"a": Code()}, tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    (tmp_path / "text.pth").write_text("hello")
    for name in ("code.pth", "list.pth", "cut.safetensors", "text.pth"):
        with pytest.raises(InputError, match=f"{name} cannot be read") as caught:
            read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="there is no weights file"):
        read_weights(tmp_path / "absent.pth")


def test_a_json_file_beside_the_weights_describes_them(tmp_path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert read_metadata(tmp_path / "a.safetensors") == {}
    (tmp_path / "a.json").write_text('{"input": {"mean": [1, 2, 3]}}')
    assert read_metadata(tmp_path / "a.safetensors") == {"input": {"mean": [1, 2, 3]}}
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match=r"a.json is not JSON"):
        read_metadata(tmp_path / "a.safetensors")


def test_the_fingerprint_sees_values_names_and_types() -> None:
    model = nn.Linear(2, 2)
    first = fingerprint(model)
    with torch.no_grad():
        model.bias[0] += 1e-7
    assert fingerprint(model) != first
    assert fingerprint(nn.Sequential(model)) != fingerprint(model) != fingerprint(model.double())
