"""Notes on a teacher whose outputs are in another order than the data's classes, or are no logits."""

from __future__ import annotations

import pytest
import torch

import angularkd
from angularkd import InputError
from angularkd.models import cifar, read_metadata, save_weights
from angularkd.training.teacher_outputs import notes_on_outputs
from helpers import DIGITS, saved_weights


def outputs(samples: int, classes: int, right: float = 0.8) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of images, that share of them right, and their labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (samples,), generator=generator)
    logits = torch.randn(samples, classes, generator=generator)
    some = torch.rand(samples, generator=generator) < right
    logits[some, labels[some]] = 9.0
    return logits, labels


NUMBERS = [str(number) for number in range(12)]


@pytest.mark.parametrize(
    ("data", "teacher", "phrase"),
    [
        (sorted(NUMBERS), NUMBERS, "another order (by number, 2 before 10)"),
        (NUMBERS, sorted(NUMBERS), "another order (as text, 10 before 2)"),
        (NUMBERS, NUMBERS[1:] + NUMBERS[:1], "another order: with its output 0 as '1' and so on 8"),
    ],
)
def test_another_order_of_the_classes_is_told(data, teacher, phrase) -> None:
    logits, labels = outputs(300, 12)  # in the teacher's order
    (note,) = notes_on_outputs(logits, torch.tensor([data.index(teacher[label]) for label in labels]), data)
    assert phrase in note and "`teacher_classes`" in note


@pytest.mark.parametrize(
    ("samples", "classes", "right"), [(300, 10, 0.8), (150, 10, 0.0), (500, 1000, 0.3), (3, 2, 1.0)]
)
def test_no_order_is_found_where_there_is_none(samples, classes, right) -> None:
    logits, labels = outputs(samples, classes, right)
    assert notes_on_outputs(logits, labels, [str(k) for k in range(classes)]) == []


def test_probabilities_are_told_and_their_logarithms_are_logits() -> None:
    logits, labels = outputs(100, 4)
    names = list("abcd")
    (note,) = notes_on_outputs(logits.softmax(1), labels, names)
    assert "gives probabilities, not logits" in note
    assert notes_on_outputs(logits.log_softmax(1), labels, names) == []
    assert notes_on_outputs(logits.sigmoid(), labels, names) == []


def test_a_plan_says_it_and_so_does_its_refusal(digits_teacher, tmp_path) -> None:
    metadata = {**read_metadata(digits_teacher / "student.safetensors"), "classes": None}
    state = saved_weights(digits_teacher)
    for shift in (2, 10):
        order = torch.arange(10)
        order[:shift] = order[:shift].roll(1)
        model = cifar.create("resnet8", 10)
        model.load_state_dict({n: v[order] if n.startswith("linear.") else v for n, v in state.items()})
        folder = tmp_path / str(shift)
        folder.mkdir()
        save_weights(folder / "student.safetensors", model, metadata)
        options = {**DIGITS, "teacher": str(folder), "student": "cifar/resnet8", "loss": {"ce": 0.1, "kd": 0.9}}
        if shift == 10:
            with pytest.raises(
                InputError, match=r"no better than chance .*classes seem to be in another order"
            ) as caught:
                angularkd.plan(**options)
            assert "\n" not in str(caught.value)
        else:
            assert any(
                "seem to be in another order: with its output 0 as '1'" in n for n in angularkd.plan(**options).notes
            )
