"""Which tensors of a file are a module's: under any key, behind any prefix, beside whatever else is there; and what is told of it."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from angularkd import InputError
from angularkd.models import fingerprint, open_classifier
from angularkd.models.names import bare, renamings
from angularkd.models.selecting import select_weights
from angularkd.models.weights import load_into

State = dict[str, Any]


def network(classes: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LazyLinear(classes)).eval()


def ready(classes: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    module = network(classes)
    module(torch.zeros(1, 3, 5, 5))
    return module


def loaded(content: Any, tmp_path) -> tuple[nn.Module, tuple[str, ...]]:
    """A module with what a file holds for it, and the notes."""
    torch.save(content, tmp_path / "a.pth")
    module = ready(seed=1)
    selected = select_weights(module, str(tmp_path / "a.pth"), 4)
    load_into(module, selected.state, "a.pth")
    return module, selected.notes


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


def inside(state: State, part: str) -> State:
    return {name.replace(".", f".{part}.", 1): value for name, value in state.items()}


def circular(state: State) -> State:
    content: State = {"model": state}
    content["self"] = content
    content["model"] = {**state, "again": content}
    return content


CASES = {
    "plain": (lambda s: s, None),
    "usual key": (lambda s: {"state_dict": s, "epoch": 3}, None),
    "empty average": (lambda s: {"model": s, "ema": {}}, None),
    "average of something else": (
        lambda s: {"model": s, "ema": {"decay": torch.tensor(0.9), "shadow": [1]}},
        "the weights under 'model' are taken",
    ),
    "unusual key": (lambda s: {"net": s, "epoch": 3}, "the weights under 'net' are taken"),
    "deep": (lambda s: {"a": {"b": {"weights": s}}}, "under 'a.b.weights'"),
    "circular": (circular, "left out (again)"),
    "compiled": (lambda s: prefixed(s, "_orig_mod."), "'_orig_mod.' is taken out"),
    "compiled inside": (lambda s: inside(s, "_orig_mod"), "'_orig_mod.' is taken out"),
    "FSDP": (lambda s: inside(s, "_fsdp_wrapped_module"), "'_fsdp_wrapped_module.' is taken out"),
    "checkpointed": (lambda s: inside(s, "_checkpoint_wrapped_module"), "'_checkpoint_wrapped_module.' is"),
    "parallel": (lambda s: prefixed(s, "module."), "'module.' is taken out"),
    "parallel inside": (lambda s: inside(s, "module"), "'module.' is taken out"),
    "both": (lambda s: prefixed(inside(s, "module"), "_orig_mod."), "'_orig_mod.' and 'module.' are taken out"),
    "net": (lambda s: prefixed(s, "net."), "'net.' is taken out"),
    "backbone": (lambda s: {"state_dict": prefixed(s, "backbone.")}, "'backbone.' is taken out"),
    "model": (lambda s: prefixed(s, "model."), "'model.' is taken out"),
    "two parts": (lambda s: prefixed(s, "learner.encoder."), "'learner.encoder.' is taken out"),
    "a loss beside": (
        lambda s: {"state_dict": {**prefixed(s, "net."), "criterion.weight": torch.ones(3)}},
        "left out (criterion.weight)",
    ),
    "no tensors": (lambda s: {**s, "epoch": 3, "name": "x", "rng": [1]}, "left out (epoch, name, rng)"),
    "equal twice": (lambda s: {"one": s, "two": s}, "under 'one'"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_one_mapping_that_fits_is_found_and_said(tmp_path, case) -> None:
    wrap, message = CASES[case]
    trained = ready()
    module, notes = loaded(wrap(trained.state_dict()), tmp_path)
    assert fingerprint(module) == fingerprint(trained)
    if message is None:
        assert notes == ()
    else:
        (note,) = notes
        assert message in note


def test_a_head_of_other_classes_is_found_behind_a_prefix(tmp_path) -> None:
    torch.save({"state_dict": prefixed(ready(7).state_dict(), "net.")}, tmp_path / "a.pth")
    assert select_weights(ready(4), str(tmp_path / "a.pth"), 4).classes == 7


def test_several_networks_that_fit_are_refused(tmp_path) -> None:
    first, second = ready().state_dict(), ready(seed=2).state_dict()
    for content in ({"one": first, "two": second}, {**prefixed(first, "student."), **prefixed(second, "teacher.")}):
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(InputError, match=r"holds several networks that fit, .* and .*: save the one") as caught:
            select_weights(ready(), str(tmp_path / "a.pth"), 4)
        assert "\n" not in str(caught.value)


def test_a_compiled_modules_own_names_are_met_by_plain_ones() -> None:
    module = ready()
    compiled = torch.compile(ready(seed=1), backend="eager")
    load_into(compiled, module.state_dict(), "a")
    assert torch.equal(compiled.state_dict()["_orig_mod.0.weight"], module[0].weight)


def test_names_that_collide_are_not_lost() -> None:
    one = torch.ones(1)
    assert bare("a.module.b") == "a.b" and bare("module") == "module"
    (found,) = renamings({"weight": one, "module.weight": one}, ["weight", "bias"])
    assert len(found.state) == 2
    (found,) = renamings({"weight": one}, ["weight", "module.weight"])
    assert found.state.keys() == {"weight"}


SCALAR = torch.tensor(1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {**s, "0.weight": (s["0.weight"] * 100).to(torch.int8)}, "0.weight holds int8"),
        (lambda s: {**s, "0.weight": torch.full_like(s["0.weight"], torch.nan)}, "0.weight holds numbers that are not"),
        (lambda s: {**s, "1.running_var": torch.full((2,), torch.inf)}, "1.running_var holds numbers that are not"),
        (lambda s: {**s, "0.weight": s["0.weight"].to_sparse()}, "0.weight is quantised, sparse or without values"),
        (lambda s: {**s, "0.weight": s["0.weight"].to("meta")}, "0.weight is quantised, sparse or without values"),
        (lambda s: {**s, "0.weight": s["0.weight"].to(torch.complex64)}, "0.weight holds complex64"),
        (lambda s: {**s, "0.weight": 3}, "1 of another kind: 0.weight"),
        (lambda s: {**s, "0.weight": SCALAR, "0.bias": SCALAR}, "2 of another shape"),
        (lambda s: {**s, "1.num_batches_tracked": torch.ones(3)}, "1 of another shape: 1.num_batches_tracked"),
    ],
)
def test_values_that_are_no_weights_are_refused_and_nothing_is_loaded(tmp_path, change, message) -> None:
    torch.save(change(dict(ready().state_dict())), tmp_path / "a.pth")
    module = ready(seed=1)
    before = fingerprint(module)
    with pytest.raises(InputError, match=message) as caught:
        load_into(module, select_weights(module, str(tmp_path / "a.pth"), 4).state, "a.pth")
    assert "\n" not in str(caught.value)
    assert fingerprint(module) == before


def test_half_precision_in_a_file_is_widened(tmp_path) -> None:
    trained = ready()
    module, _ = loaded({name: value.half() for name, value in trained.state_dict().items()}, tmp_path)
    assert torch.equal(module[0].weight, trained[0].weight.half().float())


class Stateful(nn.Linear):
    """Keeps something beside its weights."""

    def __init__(self) -> None:
        super().__init__(2, 3)
        self.kept: Any = {"step": 3}

    def get_extra_state(self) -> Any:
        return self.kept

    def set_extra_state(self, state: Any) -> None:
        self.kept = state


def test_extra_state_is_loaded_and_part_of_the_fingerprint(tmp_path) -> None:
    first, second = Stateful(), Stateful()
    second.kept = {"step": 4}
    torch.save(second.state_dict(), tmp_path / "a.pth")
    second.load_state_dict({**first.state_dict(), "_extra_state": second.kept})
    assert fingerprint(first) != fingerprint(second)
    load_into(first, select_weights(first, str(tmp_path / "a.pth"), 3).state, "a.pth")
    assert first.kept == {"step": 4}


def test_layers_without_shapes_take_those_of_the_file(tmp_path) -> None:
    trained, module = ready(), network()
    torch.save(trained.state_dict(), tmp_path / "a.pth")
    load_into(module, select_weights(module, str(tmp_path / "a.pth"), 4).state, "a.pth")
    assert fingerprint(module) == fingerprint(trained)


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors", "empty.pth", "script.pt", "numbers.pth", "nothing.pth"])
def test_files_that_cannot_be_read_are_one_line(tmp_path, name) -> None:
    state: dict[str, Tensor] = ready().state_dict()
    torch.save(state, tmp_path / "whole.pth")
    save_file(state, tmp_path / "whole.safetensors")
    for kind in ("pth", "safetensors"):
        (tmp_path / f"cut.{kind}").write_bytes((tmp_path / f"whole.{kind}").read_bytes()[:-100])
    (tmp_path / "empty.pth").write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")
    torch.save(list(range(3)), tmp_path / "numbers.pth")
    torch.save({}, tmp_path / "nothing.pth")
    with pytest.raises(InputError, match=rf"{name} cannot be read") as caught:
        select_weights(ready(), str(tmp_path / name), 4)
    assert "\n" not in str(caught.value)


def test_what_was_stripped_is_a_note_of_the_classifier(tmp_path) -> None:
    state = open_classifier("cifar/resnet8", 10).module.state_dict()
    torch.save({"net": prefixed(state, "backbone.")}, tmp_path / "a.pth")
    (note,) = open_classifier("cifar/resnet8", 10, weights=str(tmp_path / "a.pth")).notes
    assert note.endswith("a.pth: the weights under 'net' are taken, 'backbone.' is taken out of their names")


def test_the_index_of_several_files_is_read_as_one(tmp_path) -> None:
    module = ready()
    names = list(module.state_dict())
    places = {name: f"model-{1 + (number > 2)}.safetensors" for number, name in enumerate(names)}
    for file in set(places.values()):
        part = {name: value for name, value in module.state_dict().items() if places[name] == file}
        save_file(part, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    other = ready(seed=1)
    load_into(other, select_weights(other, str(index), 4).state, "index")
    assert fingerprint(other) == fingerprint(module)
    index.write_text(json.dumps({"weight_map": {**places, names[0]: "model-2.safetensors"}}))
    with pytest.raises(InputError, match=rf"names tensors that its files do not hold, such as {names[0]}: get all"):
        select_weights(other, str(index), 4)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(InputError, match=r"there is no weights file .*model-2\.safetensors"):
        select_weights(other, str(index), 4)
    for content in ("{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": "../model.safetensors.index.json"}}'):
        index.write_text(content)
        with pytest.raises(InputError, match="index"):
            select_weights(other, str(index), 4)
