"""The table of losses: every row trains through the distiller, and fits its class."""

from __future__ import annotations

import inspect

import pytest
import torch

from angularkd import Distiller, InputError
from angularkd.defaults import DEFAULT_LOSSES
from angularkd.losses import (
    DISTILLATION_LOGITS,
    EMBEDDINGS,
    FEATURES,
    LOGITS,
    LOSSES,
    Loss,
    WeightedLosses,
    read_terms,
    signals_of,
)
from angularkd.losses.objective import WeightSchedule, read_objective
from angularkd.models import cifar
from angularkd.types import LossContext, Signals

SIGNALS = {*FEATURES, *EMBEDDINGS, *LOGITS, DISTILLATION_LOGITS, "labels", "indices"}
EQUAL_CHANNELS = {"fsp", "hcl"}
TWO_HEADS = {"token"}
OPTIONS = {"crd": {"num_negatives": 20}, "amd": {"grid": 2}}


class TwoHeads(torch.nn.Module):
    """A student with a distillation head beside its own, as timm's distilled models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = cifar.create("resnet8", 10)
        self.second = torch.nn.Linear(10, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        first = self.body(images)
        second = self.second(first)
        return (first, second) if self.training else (first + second) / 2


@pytest.mark.parametrize("name", LOSSES)
def test_rows_fit_their_classes(name) -> None:
    row = LOSSES[name]
    assert list(inspect.signature(row.build.forward).parameters)[1:] == list(row.inputs)
    assert set(row.inputs) <= SIGNALS <= set(Signals.__dataclass_fields__)
    assert set(row.built_for) <= set(inspect.signature(row.build).parameters)
    assert set(row.built_for) <= set(LossContext.__dataclass_fields__)
    assert set(row.short.values()) <= set(row.options())
    assert all(default is not inspect.Parameter.empty for default in row.options().values())


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_lowers_itself_through_the_distiller(name) -> None:
    torch.manual_seed(0)
    teacher = cifar.create("resnet14" if name in EQUAL_CHANNELS else "resnet8x4", 10)
    student = cifar.create("resnet8", 10) if name not in TWO_HEADS else TwoHeads()
    body = student.body if isinstance(student, TwoHeads) else student
    images, labels, indices = torch.rand(6, 3, 16, 16), torch.arange(6), torch.arange(6) * 2
    distiller = Distiller(
        teacher,
        student,
        {name: {"weight": 1.0, **OPTIONS.get(name, {})}},
        example=images,
        train_labels=torch.arange(30) % 10,
        class_logits=torch.randn(10, 4, 10),
    )
    optimizer = torch.optim.Adam(distiller.parameters(), lr=2e-3)
    totals = []
    for step in range(12):
        out = distiller(images, labels, indices)
        out.total.backward()
        if step == 0:
            first = body.conv1.weight.grad
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
    with pytest.raises(InputError, match="give the Distiller an `example`"):
        Distiller(*models, {"fitnet": 1.0})


def test_learned_parts_are_trained_and_saved_with_the_student() -> None:
    teacher, student = cifar.create("resnet8x4", 10), cifar.create("resnet8", 10)
    distiller = Distiller(teacher, student, {"fitnet": 1.0}, example=torch.rand(1, 3, 16, 16))
    learned = [name for name, _ in distiller.named_parameters() if not name.startswith("student.")]
    assert learned
    assert set(learned) <= set(distiller.state_dict())


def test_signals_are_those_of_the_terms_with_weight() -> None:
    assert signals_of(read_terms({"ce": 1.0, "kd": 0, "pkt": 2.0})) == {"student_logits", "labels", *EMBEDDINGS}


def test_a_table_is_read_as_it_is_given_and_terms_carry_its_rows() -> None:
    class Distance(torch.nn.Module):
        def __init__(self, factor: float = 1.0) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, student_embedding: torch.Tensor, teacher_embedding: torch.Tensor) -> torch.Tensor:
            return self.factor * (student_embedding - teacher_embedding).abs().sum()

    table = {"mine": Loss(Distance, EMBEDDINGS, "a loss that is not in the table")}
    terms = read_objective({"mine": {"weight": 2.0, "factor": 3.0}}, table)
    assert signals_of(terms) == set(EMBEDDINGS)
    signals = Signals(student_embedding=torch.ones(1, 4), teacher_embedding=torch.zeros(1, 4))
    assert WeightedLosses(terms)(signals)["mine"].item() == 2 * 3 * 4
    for objective in ({"ce": 1.0}, {"mine": {"weight": 1.0, "power": 2}}):
        with pytest.raises(InputError, match=r"All of them: mine|It takes: factor"):
            read_objective(objective, table)


def test_signals_include_those_of_an_attention_mechanism() -> None:
    signals = signals_of(read_terms({"amd": {"weight": 1.0, "attention": "gradcam"}}))
    assert signals == {*FEATURES, *LOGITS, "labels"}
    assert signals_of(read_terms({"at": {"weight": 1.0, "attention": "max"}})) == {*FEATURES}


@pytest.mark.parametrize(
    ("schedule", "at", "factor"),
    [
        ({}, 3.0, 1.0),
        ({"warmup_epochs": 2}, 0.0, 0.0),
        ({"warmup_epochs": 2}, 0.5, 0.25),
        ({"warmup_epochs": 2}, 2.0, 1.0),
        ({"warmup_epochs": 2}, 9.0, 1.0),
        ({"decay_to": 0.2}, 0.0, 1.0),
        ({"decay_to": 0.2}, 5.0, 0.6),
        ({"decay_to": 0.2}, 10.0, 0.2),
        ({"warmup_epochs": 2, "decay_to": 0}, 6.0, 0.5),
        ({"warmup_epochs": 12, "decay_to": 0}, 9.0, 0.75),
    ],
)
def test_weights_follow_their_schedule(schedule, at, factor) -> None:
    assert WeightSchedule(**schedule).factor(at, 10) == pytest.approx(factor)
    models = cifar.create("resnet14", 10), cifar.create("resnet8", 10)
    distiller = Distiller(*models, {"ce": 1.0, "kd": {"weight": 2.0, **schedule}}).eval()
    images, labels = torch.rand(3, 3, 16, 16), torch.arange(3)
    whole = distiller(images, labels).terms
    distiller.set_epoch(at, 10)
    now = distiller(images, labels).terms
    torch.testing.assert_close(now["kd"], factor * whole["kd"])
    assert torch.equal(now["ce"], whole["ce"])


@pytest.mark.parametrize("value", ["soon", -1, float("inf"), True])
def test_a_schedule_that_is_none_is_named(value) -> None:
    with pytest.raises(InputError, match="warmup_epochs of loss 'kd' must be a number >= 0"):
        read_terms({"kd": {"weight": 1.0, "warmup_epochs": value}})


def test_what_does_not_fit_is_named_by_its_modules() -> None:
    models = cifar.create("resnet8x4", 10), cifar.create("resnet8", 10)
    for stages, named in (("all", 0), ("last", 2), ([2, 3], 1)):
        distiller = Distiller(*models, {"hcl": {"weight": 1.0, "stages": stages}})
        with pytest.raises(InputError, match=rf"stage {named} \(teacher's layer{named + 1} .*: the student has"):
            distiller(torch.rand(2, 3, 16, 16), torch.arange(2))


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"amd": "auto"}, "the weights of amd are auto, .* add one with a number, such as `loss=ce=1`"),
        ({"CE": 1.0}, "there is no loss 'CE'. Did you mean 'ce'"),
        ({"amdd": 1.0}, "there is no loss 'amdd'. Did you mean 'amd'"),
        ({"ce": {"weight": 1.0, "kd": 0.9}}, "kd is a loss of its own"),
        ({"kd": {"weight": 1.0, "temprature": 4}}, "Did you mean 'temperature'"),
    ],
)
def test_objectives_that_are_none_say_what_was_meant(objective, message) -> None:
    with pytest.raises(InputError, match=message):
        read_terms(objective)


def test_without_losses_a_distiller_takes_the_default_objective() -> None:
    teacher, student, images = cifar.create("resnet14", 10), cifar.create("resnet8", 10), torch.rand(4, 3, 16, 16)
    labels = torch.arange(4)
    distiller, named = Distiller(teacher, student), Distiller(teacher, student, DEFAULT_LOSSES)
    for name, term in distiller(images, labels).terms.items():
        torch.testing.assert_close(term, named(images, labels).terms[name])
    assert list(distiller.losses.weights) == list(DEFAULT_LOSSES)
    assert list(Distiller(None, student)(images, labels).terms) == ["ce"]
    with pytest.raises(InputError, match="the objective is empty"):
        Distiller(teacher, student, {})
