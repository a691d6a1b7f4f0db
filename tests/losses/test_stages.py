"""The options `stages` and `stage_weights`: which of the paired stages a loss acts on, and how much each counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from angularkd.errors import StageError
from angularkd.features import PowerMap, PreActivation
from angularkd.losses import LOSSES, WeightedLosses, read_terms
from angularkd.losses.stages import chosen, read_stages
from angularkd.types import LossContext, Signals
from losses.feature_laws import Shapes, assert_refused, random_features

STUDENT: Shapes = [(3, 6, 6), (4, 5, 5), (2, 4, 4)]
TEACHER: Shapes = [(5, 6, 6), (6, 5, 5), (4, 4, 4)]
CONTEXT = LossContext(student_shapes=tuple(STUDENT), teacher_shapes=tuple(TEACHER))
BY_STAGE = [name for name, row in LOSSES.items() if row.on_features and not row.linked]
LINKED = [name for name, row in LOSSES.items() if row.linked]


def signals(student: list[Tensor], teacher: list[Tensor]) -> Signals:
    forms = (None, PreActivation(), PowerMap(2.0))
    return Signals(student_features=dict.fromkeys(forms, student), teacher_features=dict.fromkeys(forms, teacher))


def built(name: str, **options: Any) -> WeightedLosses:
    """The objective of this loss alone, in evaluation mode, so that nothing is drawn."""
    torch.manual_seed(0)
    same = name in ("hcl", "fsp")
    context = LossContext(CONTEXT.student_shapes, CONTEXT.student_shapes) if same else CONTEXT
    return WeightedLosses(read_terms({name: {"weight": 1.0, **options}}), context).double().eval()


def features(name: str) -> tuple[list[Tensor], list[Tensor]]:
    teacher = STUDENT if name in ("hcl", "fsp") else TEACHER
    return random_features(STUDENT, 0), random_features(teacher, 1)


@pytest.mark.parametrize(
    ("stages", "count", "expected"),
    [
        ("all", 3, (0, 1, 2)),
        ("last", 3, (2,)),
        ("middle", 1, (0,)),
        ("middle", 2, (0,)),
        ("middle", 3, (1,)),
        ("middle", 4, (1,)),
        ("middle", 5, (2,)),
        ("1,3", 3, (0, 2)),
        ([1, 3], 3, (0, 2)),
        (2, 3, (1,)),
        ("-1", 3, (2,)),
        ([-2, -1], 4, (2, 3)),
    ],
)
def test_stages_are_chosen_by_name_or_number(stages: Any, count: int, expected: tuple[int, ...]) -> None:
    assert chosen("at", read_stages("at", stages), count) == expected


def test_defaults_are_those_of_the_references() -> None:
    defaults = {name: row.stages for name, row in LOSSES.items() if row.on_features}
    last = {name for name, stages in defaults.items() if stages == "last"}
    assert last == {"sp", "ft", "mgd"}
    assert {name for name, stages in defaults.items() if stages == "middle"} == {"fitnet"}
    assert all(stages == "all" for name, stages in defaults.items() if name not in last | {"fitnet"})


@pytest.mark.parametrize("name", ["at", "sp", "vid", "fitnet", "ft", "review", "amd"])
def test_a_loss_gets_its_stages_alone_and_is_built_for_them(name: str) -> None:
    student, teacher = features(name)
    few = built(name, stages=[1, 3])
    if LOSSES[name].built_for:
        alone = LossContext(CONTEXT.student_shapes[::2], CONTEXT.teacher_shapes[::2])
        torch.manual_seed(0)
        expected = LOSSES[name].build(alone.student_shapes, alone.teacher_shapes).double().eval()
        assert few.losses[name].state_dict().keys() == expected.state_dict().keys()
    else:
        expected = LOSSES[name].build()
    value = few(signals(student, teacher))[name]
    assert torch.equal(value, expected(student[::2], teacher[::2]))
    gradients = torch.autograd.grad(value, student, allow_unused=True)
    assert [gradient is not None for gradient in gradients] == [True, False, True]


@pytest.mark.parametrize("name", BY_STAGE)
def test_stage_weights_weigh_the_stages(name: str) -> None:
    student, teacher = features(name)
    weights = [2.0, 0.0, 0.5]
    weighted = built(name, stages="all", stage_weights=weights)
    total = torch.zeros((), dtype=torch.float64)
    for i, weight in enumerate(weights):
        single = built(name, stages=[i + 1])
        parts = {key.replace(f".losses.{i}.", "."): value for key, value in weighted.state_dict().items()}
        if LOSSES[name].built_for and not LOSSES[name].weighs_stages:
            single.load_state_dict({key: parts[key] for key in single.state_dict()})
        elif LOSSES[name].built_for:
            projectors = zip(single.losses[name].projectors, [weighted.losses[name].projectors[i]], strict=True)
            for mine, other in projectors:
                mine.load_state_dict(other.state_dict())
        total += weight * single(signals(student, teacher))[name]
    torch.testing.assert_close(weighted(signals(student, teacher))[name], total, rtol=1e-12, atol=1e-14)


def test_weighted_stages_share_the_reduction_of_their_loss() -> None:
    assert built("at", stage_weights=[1, 2, 3]).reductions == built("at").reductions == (PowerMap(2.0),)
    assert WeightedLosses(read_terms({"at": {"weight": 1.0, "stage_weights": [1, 2]}})).reductions == (PowerMap(2.0),)


@pytest.mark.parametrize("name", LINKED)
def test_losses_that_link_stages_take_no_weights_for_them(name: str) -> None:
    assert "stages" in LOSSES[name].options()
    assert_refused(lambda: built(name, stage_weights=[1, 1, 1]), f"loss '{name}' has no option 'stage_weights'")


def test_losses_on_logits_have_no_stages() -> None:
    assert_refused(lambda: read_terms({"kd": {"weight": 1.0, "stages": "last"}}), "loss 'kd' has no option 'stages'")


@pytest.mark.parametrize("stages", ["lst", "", [], 0, [1, 0], 1.5, True, "1;3", None, ["last"]])
def test_stages_that_are_none_are_named(stages: Any) -> None:
    assert_refused(
        lambda: read_terms({"sp": {"weight": 1.0, "stages": stages}}),
        "stages of loss 'sp' must be all, last, middle or",
    )


@pytest.mark.parametrize("weights", [[], [0, 0], [-1, 1], "none", [True], [float("inf")]])
def test_stage_weights_that_are_none_are_named(weights: Any) -> None:
    assert_refused(
        lambda: read_terms({"sp": {"weight": 1.0, "stage_weights": weights}}), "stage_weights of loss 'sp' must be"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": [4]}, "loss 'at' is to act on stages [4], and 3 are paired: number them from 1 to 3"),
        ({"stages": [-4]}, "and 3 are paired"),
        ({"stages": [3, 1]}, "name each once, from shallow to deep"),
        ({"stages": [3, -1]}, "name each once, from shallow to deep"),
        ({"stage_weights": [1, 1]}, "loss 'at' has 2 stage_weights for 3 stages"),
        ({"stages": "last", "stage_weights": [1, 1, 1]}, "loss 'at' has 3 stage_weights for 1 stages"),
    ],
)
def test_stages_that_are_not_paired_are_named(options: dict[str, Any], message: str) -> None:
    """With the shapes of the stages at once, without them when the first features come."""
    assert_refused(lambda: built("at", **options), message)
    late = WeightedLosses(read_terms({"at": {"weight": 1.0, **options}}))
    assert_refused(lambda: late(signals(*features("at"))), message)


@pytest.mark.parametrize("weights", [None, [1.0, 1.0]])
def test_errors_name_a_stage_by_its_place_among_all(weights: list[float] | None) -> None:
    student, teacher = features("nst")
    student[2] = student[2][:2]
    with pytest.raises(StageError) as refusal:
        built("nst", stages=[1, 3], stage_weights=weights)(signals(student, teacher))
    assert refusal.value.stage == 2


def test_weighted_stages_train_and_are_saved() -> None:
    student, teacher = features("fitnet")
    objective = built("fitnet", stages="all", stage_weights=[1, 2, 3]).train()
    objective(signals(student, teacher))["fitnet"].backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())
    assert isinstance(objective.losses["fitnet"], nn.Module) and len(objective.state_dict()) == 3 * 7
