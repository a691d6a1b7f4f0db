"""Weights: loaded strictly or refused with every reason, saved whole, told apart by their fingerprint."""

from __future__ import annotations

import argparse

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from angularkd import InputError
from angularkd.models import cifar
from angularkd.models.weights import (
    fingerprint,
    load_into,
    read_description,
    read_metadata,
    read_weights,
    save_weights,
)
from angularkd.runs import Description


def test_tied_weights_are_written_and_read_back(tmp_path) -> None:
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"one": torch.nn.Linear(3, 3)})
    model["two"] = model["one"]
    save_weights(tmp_path / "tied.safetensors", model, {})
    torch.manual_seed(1)
    other = torch.nn.ModuleDict({"one": torch.nn.Linear(3, 3)})
    other["two"] = other["one"]
    load_into(other, read_weights(str(tmp_path / "tied.safetensors")), "tied")
    assert torch.equal(other["one"].weight, model["one"].weight)


def test_saved_weights_come_back_with_their_metadata(tmp_path) -> None:
    model = cifar.create("resnet8", 10)
    save_weights(tmp_path / "a.safetensors", model, {"classes": ["a", "b"], "mean": [0.5], "std": [1.0]})
    other = cifar.create("resnet8", 10)
    assert fingerprint(other) != fingerprint(model)
    load_into(other, read_weights(tmp_path / "a.safetensors"), "a")
    assert fingerprint(other) == fingerprint(model)
    assert read_metadata(tmp_path / "a.safetensors") == {"classes": ["a", "b"], "mean": [0.5], "std": [1.0]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s, "args": argparse.Namespace(lr=0.1)},
        lambda s: {"model_state_dict": s},
        lambda s: {"ema": {"state_dict": s}},
        lambda s: {"state_dict": {"model": s}},
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod.", "model.module."])
def test_checkpoints_of_training_scripts_are_understood(tmp_path, wrap, prefix) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    torch.save(wrap({prefix + name: value for name, value in model.state_dict().items()}), tmp_path / "a.pth")
    other = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    load_into(other, read_weights(tmp_path / "a.pth"), "a")
    assert fingerprint(other) == fingerprint(model)


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema", "ema"])
def test_the_moving_average_goes_before_the_last_weights(tmp_path, key) -> None:
    model, average = nn.Linear(2, 3), torch.optim.swa_utils.AveragedModel(nn.Linear(2, 3))
    torch.save(
        {"model": model.state_dict(), "state_dict": model.state_dict(), key: average.state_dict()}, tmp_path / "a.pth"
    )
    load_into(model, read_weights(tmp_path / "a.pth"), "a")
    assert torch.equal(model.weight, average.module.weight)


@pytest.mark.parametrize("name", ["model", "module", "_orig_mod"])
def test_a_module_whose_own_names_begin_like_a_prefix_keeps_them(tmp_path, name) -> None:
    model = nn.Sequential()
    model.add_module(name, nn.Linear(2, 3))
    other = nn.Sequential()
    other.add_module(name, nn.Linear(2, 3))
    save_weights(tmp_path / "a.safetensors", model, {})
    load_into(other, read_weights(tmp_path / "a.safetensors"), "a")
    assert fingerprint(other) == fingerprint(model)
    load_into(other, {f"module.{key}": value for key, value in model.state_dict().items()}, "a")


def test_every_missing_unexpected_and_misshaped_name_is_told_and_nothing_loaded() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))
    before = fingerprint(model)
    wide = {f"{layer}.{i}": torch.ones(9) for layer in ("conv", "norm") for i in range(9)}
    state = {"0.weight": torch.zeros(4, 2), "1.weight": torch.ones(3), "1.bias": torch.ones(3), "extra": torch.ones(1)}
    with pytest.raises(InputError) as caught:
        load_into(model, {**state, **wide, "1.running_var": torch.ones(5)}, "file.pth")
    assert str(caught.value) == (
        "file.pth does not fit a Sequential: 6 missing: 0.bias, 1.running_mean, 2.*; "
        "19 unexpected: extra, conv.*, norm.*; "
        "2 of another shape: 0.weight ([4, 2], not [3, 2]), 1.running_var ([5], not [3]). "
        "Name the architecture that the weights were trained with"
    )
    assert fingerprint(model) == before


def test_unreadable_files_are_refused(tmp_path) -> None:
    class Code:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"a": Code()}, tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"model": {"a": 1, "b": 3}}, tmp_path / "number.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    (tmp_path / "text.pth").write_text("hello")
    for name in ("code.pth", "list.pth", "number.pth", "cut.safetensors", "text.pth"):
        with pytest.raises(InputError, match=f"{name} cannot be read") as caught:
            read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="there is no weights file"):
        read_weights(tmp_path / "absent.pth")


def test_a_json_file_beside_the_weights_describes_them(tmp_path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert read_description(tmp_path / "a.safetensors") == Description()
    (tmp_path / "a.json").write_text('{"input": {"mean": [1, 2, 3], "std": 0.5, "size": [3, 32, 24]}}')
    found = read_description(tmp_path / "a.safetensors")
    assert (found.mean, found.std, found.image_size) == ((1.0, 2.0, 3.0), (0.5, 0.5, 0.5), (32, 24))
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match=r"a.json is not JSON"):
        read_description(tmp_path / "a.safetensors")


def test_the_fingerprint_sees_values_names_and_types() -> None:
    model = nn.Linear(2, 2)
    first = fingerprint(model)
    with torch.no_grad():
        model.bias[0] += 1e-7
    assert fingerprint(model) != first
    assert fingerprint(nn.Sequential(model)) != fingerprint(model) != fingerprint(model.double())


def test_variances_below_zero_are_no_weights() -> None:
    module = cifar.create("resnet8", 10)
    state = {**module.state_dict(), "bn1.running_var": -module.bn1.running_var}
    with pytest.raises(InputError, match=r"bn1\.running_var holds variances below 0"):
        load_into(module, state, "a.pt")
