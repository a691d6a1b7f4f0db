"""Every loss of the table, given what is no input of it: one line that says so, never a traceback or a number that means nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from angularkd import InputError
from angularkd.losses import FEATURES, LOSSES, read_terms
from angularkd.types import LossContext
from losses.feature_laws import without_shape_checks

pytestmark = without_shape_checks

SHAPES = ((4, 8, 8), (8, 4, 4))
CONTEXT = LossContext(
    student_shapes=SHAPES,
    teacher_shapes=SHAPES,
    student_dim=8,
    teacher_dim=8,
    head_weight=torch.randn(5, 8),
    class_logits=torch.randn(5, 4, 5),
    num_classes=5,
    labels=torch.arange(20) % 5,
    num_samples=20,
)
GOOD: dict[str, Any] = {
    **{signal: [torch.rand(3, *shape) for shape in SHAPES] for signal in FEATURES},
    **dict.fromkeys(("student_logits", "teacher_logits", "student_distillation_logits"), torch.randn(3, 5)),
    **dict.fromkeys(("student_embedding", "teacher_embedding"), torch.rand(3, 8)),
    "labels": torch.arange(3),
    "indices": torch.arange(3),
}
BAD_FEATURES: dict[str, Any] = {
    "tokens": [torch.rand(3, 197, 192)] * 2,
    "vectors": [torch.rand(3, 8)] * 2,
    "videos": [torch.rand(3, 4, 2, 8, 8)] * 2,
    "none": None,
    "nones": [None, None],
    "a bare tensor": torch.rand(3, 4, 8, 8),
    "an empty batch": [torch.rand(0, 4, 8, 8)] * 2,
    "no stage": [],
    "whole numbers": [torch.ones(3, 4, 8, 8, dtype=torch.long)] * 2,
    "lists": [[1.0], [2.0]],
    "maps of 0x0": [torch.rand(3, 4, 0, 0)] * 2,
}
BAD_ROWS: dict[str, Any] = {
    "tokens": torch.rand(3, 7, 5),
    "a vector": torch.rand(5),
    "videos": torch.rand(3, 5, 2, 2, 2),
    "none": None,
    "a list": [torch.rand(3, 5)],
    "an empty batch": torch.rand(0, 5),
    "whole numbers": torch.ones(3, 5, dtype=torch.long),
    "no column": torch.rand(3, 0),
}
BAD_LABELS: dict[str, Any] = {
    "none": None,
    "floats": torch.rand(3),
    "a class too many": torch.tensor([0, 1, 9]),
    "a class below 0": torch.tensor([0, -1, 2]),
    "one-hot whole numbers": torch.zeros(3, 5, dtype=torch.long),
    "too few": torch.tensor([0, 1]),
    "a list": [0, 1, 2],
}


def built(name: str) -> torch.nn.Module:
    """Return a loss, for all stages where it is on some."""
    stages = {"stages": "all"} if LOSSES[name].on_features else {}
    return read_terms({name: {"weight": 1.0, **stages}})[0].build(CONTEXT)


def bad_inputs(name: str) -> list[tuple[str, dict[str, Any]]]:
    """Return what is wrong, and the signals that are: one at a time, and both sides alike."""
    row = LOSSES[name]
    wrong = []
    sides = [signal for signal in row.inputs if signal not in ("labels", "indices")]
    kinds = BAD_FEATURES if row.on_features else BAD_ROWS
    for what, value in kinds.items():
        wrong += [(f"{what} as {signal}", {signal: value}) for signal in sides]
        wrong.append((f"{what} on all sides", dict.fromkeys(sides, value)))
    if "labels" in row.inputs:
        wrong += [(f"{what} as labels", {"labels": value}) for what, value in BAD_LABELS.items()]
    return wrong


@pytest.mark.parametrize("name", LOSSES)
def test_it_is_refused_in_one_line(name: str) -> None:
    loss = built(name)
    for what, wrong in bad_inputs(name):
        signals = {**GOOD, **wrong}
        assert outcome(loss, [signals[signal] for signal in LOSSES[name].inputs]) == "refused", what


def outcome(loss: torch.nn.Module, inputs: list[Any]) -> str:
    """Return "refused" where a loss raises InputError of one line, else what it does."""
    try:
        return str(loss(*inputs))
    except InputError as error:
        return str(error) if "\n" in str(error) else "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_right_is_taken(name: str) -> None:
    loss = built(name)
    assert loss(*(GOOD[signal] for signal in LOSSES[name].inputs)).isfinite()


def test_cross_entropy_leaves_out_what_torch_leaves_out() -> None:
    loss = read_terms({"ce": 1.0})[0].build(None)
    logits = torch.randn(3, 5)
    expected = torch.nn.functional.cross_entropy(logits[:2], torch.tensor([0, 1]))
    torch.testing.assert_close(loss(logits, torch.tensor([0, 1, -100])), expected)
    with pytest.raises(InputError, match="soft labels are"):
        loss(logits, torch.rand(3, 4))
