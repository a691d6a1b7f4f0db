"""Distiller: the right losses on the right tensors, and a teacher that nothing changes."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd import AMDLoss, Distiller, InputError
from angularkd.losses.logit import HintonKD
from angularkd.models import Preprocessing, cifar, fingerprint

LOSSES = {"ce": 0.1, "kd": {"weight": 0.9, "T": 2.0}, "amd": {"weight": 50.0, "grid": 2}}


@pytest.fixture
def models() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return cifar.create("resnet14", 10), cifar.create("resnet8", 10)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(4, 3, 16, 16, generator=generator), torch.randint(0, 10, (4,), generator=generator)


def stage_outputs(model: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    features = [model.layer1(F.relu(model.bn1(model.conv1(images))))]
    features += [model.layer2(features[0])]
    features += [model.layer3(features[1])]
    return model.linear(features[2].mean(dim=(2, 3))), features


def test_logits_may_come_beside_those_of_auxiliary_heads() -> None:
    teacher = cifar.create("resnet8", 10)
    student = torchvision.models.googlenet(num_classes=10, init_weights=False)
    distiller = Distiller(teacher, student, {"ce": 1.0, "kd": 1.0}).train()
    out = distiller(torch.rand(2, 3, 64, 64), torch.tensor([1, 2]))
    out.total.backward()
    assert out.student_logits.shape == (2, 10) and student.conv1.conv.weight.grad.abs().sum() > 0


def test_a_teacher_that_was_put_into_training_mode_is_taken_out_of_it() -> None:
    teacher, student = cifar.create("resnet8", 10), cifar.create("resnet8", 10)
    distiller = Distiller(teacher, student, {"kd": 1.0})
    before = teacher.bn1.running_mean.clone()
    teacher.train()
    distiller(torch.rand(4, 3, 16, 16))
    assert torch.equal(teacher.bn1.running_mean, before) and not teacher.training


def test_the_terms_are_the_weighted_losses_of_both_models(models, batch) -> None:
    teacher, student = models
    student.eval()
    out = Distiller(teacher, student, LOSSES).train(False)(*batch)
    with torch.no_grad():
        teacher_logits, teacher_features = stage_outputs(teacher.eval(), batch[0])
        student_logits, student_features = stage_outputs(student, batch[0])
    expected = {
        "ce": 0.1 * F.cross_entropy(student_logits, batch[1]),
        "kd": 0.9 * HintonKD(2.0)(student_logits, teacher_logits),
        "amd": 50.0 * AMDLoss(grid=2)(student_features, teacher_features),
    }
    assert list(out.terms) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(out.terms[name], value, rtol=1e-5, atol=0)
    torch.testing.assert_close(out.total, sum(expected.values()))
    torch.testing.assert_close(out.student_logits, student_logits)


def test_training_moves_the_student_and_never_the_teacher(models, batch) -> None:
    teacher, student = models
    teacher.train()
    before, student_before = fingerprint(teacher), fingerprint(student)
    distiller = Distiller(teacher, student, LOSSES, example=batch[0])
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1)
    distiller.train()
    for _ in range(3):
        distiller(*batch).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert fingerprint(teacher) == before
    assert fingerprint(student) != student_before
    assert not any(module.training for module in teacher.modules())
    assert all(module.training for module in student.modules())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_teacher_is_neither_parameter_nor_state_nor_child(models, batch) -> None:
    teacher, student = models
    distiller = Distiller(teacher, student, LOSSES, example=batch[0])
    assert len(list(distiller.parameters())) == len(list(student.parameters()))
    assert set(distiller.state_dict()) == {f"student.{name}" for name in student.state_dict()}
    assert teacher not in list(distiller.modules())


def test_the_teacher_moves_along(models) -> None:
    teacher, student = models
    Distiller(teacher, student, {"ce": 1.0}).to(torch.float64)
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.float64}


def test_gradients_of_every_loss_reach_the_first_layer(models, batch) -> None:
    teacher, student = models
    for losses in ({"ce": 1.0}, {"kd": 1.0}, {"amd": 100.0}):
        student.zero_grad()
        Distiller(teacher, student, losses)(*batch).total.backward()
        assert student.conv1.weight.grad.abs().sum() > 0


def test_the_teacher_runs_only_when_a_loss_uses_it(models, batch) -> None:
    teacher, student = models
    runs: list[int] = []
    teacher.register_forward_pre_hook(lambda _m, inputs: runs.append(len(inputs[0])))
    Distiller(teacher, student, {"ce": 1.0})(*batch)
    assert not runs
    Distiller(None, student, {"ce": 1.0})(*batch)
    distiller = Distiller(teacher, student, {"kd": 1.0})
    for _ in range(3):
        distiller(*batch)
    assert runs == [4, 4, 4], "one forward a batch, and none beside it"


def test_pairs_are_made_once_from_the_example_or_the_first_batch(models, batch) -> None:
    teacher, student = models
    distiller = Distiller(teacher, student, {"amd": 1.0})
    assert distiller.pairs == ()
    distiller(*batch)
    assert [(p.teacher.path, p.student.path) for p in distiller.pairs] == [(f"layer{i}",) * 2 for i in (1, 2, 3)]
    named = Distiller(teacher, student, {"amd": 1.0}, pairs="layer3:layer3", example=batch[0])
    assert [p.teacher.path for p in named.pairs] == ["layer3"]
    again = Distiller(teacher, student, {"amd": 1.0}, pairs=named.pairs)
    torch.testing.assert_close(again(*batch).total, named(*batch).total)


def test_each_model_gets_its_own_preprocessing(models, batch) -> None:
    teacher, student = models
    transform = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), size=(32, 32))
    losses = {"kd": 1.0, "amd": 10.0}
    distiller = Distiller(copy.deepcopy(teacher), copy.deepcopy(student), losses, teacher_transform=transform)
    out = distiller.eval()(batch[0])
    teacher_logits, teacher_features = stage_outputs(teacher.eval(), transform(batch[0]))
    student_logits, student_features = stage_outputs(student.eval(), batch[0])
    torch.testing.assert_close(out.terms["kd"], HintonKD()(student_logits, teacher_logits))
    torch.testing.assert_close(out.terms["amd"], 10 * AMDLoss()(student_features, teacher_features), rtol=1e-4, atol=0)
    assert teacher_features[0].shape[-1] == 32


def test_close_leaves_both_models_without_hooks(models, batch) -> None:
    teacher, student = models
    distiller = Distiller(teacher, student, LOSSES, example=batch[0])
    distiller.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for model in models for m in model.modules())


def test_a_student_equal_to_its_teacher_has_nothing_to_learn_from_it(models, batch) -> None:
    teacher, _ = models
    out = Distiller(teacher, copy.deepcopy(teacher), {"kd": 1.0, "amd": 1000.0}).eval()(*batch)
    assert out.total.abs().item() < 1e-5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t, s, b: Distiller(t, s, {"adm": 1.0}), r"no loss 'adm'\. Did you mean 'amd'"),
        (lambda t, s, b: Distiller(t, s, {}), "objective is empty"),
        (lambda t, s, b: Distiller(t, s, {"ce": 0}), "objective is empty"),
        (lambda t, s, b: Distiller(t, s, {"kd": {"weight": 1, "temp": 2}}), r"no option 'temp'\. Did you mean 'temp"),
        (lambda t, s, b: Distiller(t, s, {"kd": {"T": 2}}), "needs a number >= 0 as its weight"),
        (lambda t, s, b: Distiller(t, s, {"kd": {"weight": "much"}}), "needs a number >= 0 as its weight"),
        (lambda t, s, b: Distiller(None, s, {"kd": 1.0}), "there is none"),
        (lambda t, s, b: Distiller(t, s, {"ce": 1.0})(b[0]), "these losses use labels"),
        (lambda t, s, b: Distiller(cifar.create("resnet8", 7), s, {"kd": 1.0})(*b), r"logits \[4, 7\]"),
        (lambda t, s, b: Distiller(t, s, {"amd": 1.0}, pairs="layer7:layer1")(*b), "no module 'layer7'"),
    ],
)
def test_what_cannot_work_is_named(models, batch, make, message) -> None:
    with pytest.raises(InputError, match=message):
        make(*models, batch)


@pytest.mark.parametrize("example", [True, False])
def test_what_a_loss_cannot_do_with_two_classes_is_warned_of_once(batch, example) -> None:
    teacher, student = cifar.create("resnet8", 2), cifar.create("resnet8", 2)
    images, labels = batch[0], batch[1] % 2
    distiller = Distiller(teacher, student, {"dkd": 1.0}, example=images if example else None).train()
    with pytest.warns(UserWarning, match="dkd: .*beta has no effect") as warned:
        distiller(images, labels)
    assert len(warned) == 1 and warned[0].filename == __file__
    distiller(images, labels)
    silent = Distiller(teacher, student, {"dkd": 1.0})
    silent.warns = False
    silent(images, labels)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("losses", [{"ce": 1.0, "kd": 1.0}, {"amd": 10.0}, {"kd": 1.0, "pkt": 1.0}])
@pytest.mark.parametrize("kind", ["int8", "extra state"])
def test_a_teacher_whose_state_holds_more_than_tensors(batch, losses, kind) -> None:
    class WithExtraState(type(cifar.create("resnet8", 10))):
        def get_extra_state(self) -> dict[str, object]:
            return {"version": 3, "names": ["a", "b"]}

    torch.manual_seed(0)
    plain = cifar.create("resnet8", 10)
    teacher = copy.deepcopy(plain)
    if kind == "int8":
        teacher = torch.ao.quantization.quantize_dynamic(teacher.eval(), {nn.Linear})
    else:
        teacher.__class__ = WithExtraState
    assert not all(isinstance(value, Tensor) for value in teacher.state_dict().values())
    student = cifar.create("resnet8", 10)
    out = Distiller(teacher, student, losses).train()(*batch)
    out.total.backward()
    assert student.conv1.weight.grad.isfinite().all() and student.conv1.weight.grad.abs().sum() > 0
    expected = Distiller(plain, copy.deepcopy(student), losses).train()(*batch)
    torch.testing.assert_close(out.total, expected.total, rtol=0.05, atol=1e-2)
