"""The table of losses: every row trains through the distiller, and fits its class."""

from __future__ import annotations

import inspect

import pytest
import torch

from angularkd import Distiller, InputError
from angularkd.losses.weighted import EMBEDDINGS, FEATURES, LOGITS, LOSSES, read_terms, signals_of
from angularkd.models import cifar
from angularkd.types import Signals, Surroundings

SIGNALS = {*FEATURES, *EMBEDDINGS, *LOGITS, "labels", "indices"}
EQUAL_CHANNELS = {"fsp", "hcl"}
OPTIONS = {"crd": {"num_negatives": 20}, "amd": {"grid": 2}}


@pytest.mark.parametrize("name", LOSSES)
def test_rows_fit_their_classes(name) -> None:
    row = LOSSES[name]
    assert list(inspect.signature(row.build.forward).parameters)[1:] == list(row.inputs)
    assert set(row.inputs) <= SIGNALS <= set(Signals.__dataclass_fields__)
    assert set(row.built_for) <= set(inspect.signature(row.build).parameters)
    assert set(row.built_for) <= set(Surroundings.__dataclass_fields__)
    assert set(row.short.values()) <= set(row.options())
    assert all(default is not inspect.Parameter.empty for default in row.options().values())


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_lowers_itself_through_the_distiller(name) -> None:
    torch.manual_seed(0)
    teacher = cifar.create("resnet14" if name in EQUAL_CHANNELS else "resnet8x4", 10)
    student = cifar.create("resnet8", 10)
    images, labels, indices = torch.rand(6, 3, 16, 16), torch.arange(6), torch.arange(6) * 2
    distiller = Distiller(
        teacher,
        student,
        {name: {"weight": 1.0, **OPTIONS.get(name, {})}},
        example=images,
        train_labels=torch.arange(30) % 10,
    )
    optimizer = torch.optim.Adam(distiller.parameters(), lr=2e-3)
    totals = []
    for step in range(12):
        out = distiller(images, labels, indices)
        out.total.backward()
        if step == 0:
            first = student.conv1.weight.grad
            assert first is not None and first.isfinite().all() and first.abs().sum() > 0
            assert all(p.grad is not None and p.grad.isfinite().all() for p in distiller.losses.parameters())
        optimizer.step()
        optimizer.zero_grad()
        totals.append(out.total.item())
    assert min(totals[-3:]) < totals[0]


def test_losses_of_one_reduction_share_the_maps_and_others_get_the_features() -> None:
    teacher, student = cifar.create("resnet14", 10), cifar.create("resnet8", 10)
    images = torch.rand(4, 3, 16, 16)
    shared = Distiller(teacher, student, {"amd": 1.0, "at": 1.0}, example=images)
    assert len(shared.losses.reductions) == 1
    mixed = Distiller(teacher, student, {"amd": 1.0, "sp": 1.0}, example=images)
    assert mixed.losses.reductions[1] is None
    out = mixed.eval()(images)
    for name in ("amd", "sp"):
        alone = Distiller(teacher, student, {name: 1.0}, example=images).eval()(images)
        torch.testing.assert_close(out.terms[name], alone.total)


def test_losses_with_learned_parts_need_an_example() -> None:
    models = cifar.create("resnet14", 10), cifar.create("resnet8", 10)
    with pytest.raises(InputError, match="give the Distiller an example"):
        Distiller(*models, {"fitnet": 1.0})


def test_learned_parts_are_trained_and_saved_with_the_student() -> None:
    teacher, student = cifar.create("resnet8x4", 10), cifar.create("resnet8", 10)
    distiller = Distiller(teacher, student, {"fitnet": 1.0}, example=torch.rand(1, 3, 16, 16))
    learned = [name for name, _ in distiller.named_parameters() if not name.startswith("student.")]
    assert learned
    assert set(learned) <= set(distiller.state_dict())


def test_signals_are_those_of_the_terms_with_weight() -> None:
    assert signals_of(read_terms({"ce": 1.0, "kd": 0, "pkt": 2.0})) == {"student_logits", "labels", *EMBEDDINGS}
