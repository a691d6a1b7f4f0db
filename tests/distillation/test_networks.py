"""What two networks must be: apart, with weights, in one mode; and what a distiller says where they are not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from angularkd import Distiller, InputError
from angularkd.distillation import LiveTeacher
from angularkd.models import cifar
from helpers import same

IMAGES, LABELS = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(4)
LOSSES = {"ce": 1.0, "kd": 1.0, "amd": 10.0}


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return cifar.create("resnet14", 10), cifar.create("resnet8", 10)


def refusal(teacher: nn.Module, student: nn.Module, losses: dict[str, float] | None = None) -> str:
    with pytest.raises(InputError) as error:
        Distiller(teacher, student, losses or LOSSES).train()(IMAGES, LABELS)
    assert "\n" not in str(error.value)
    return str(error.value)


# Modes


def test_a_teacher_that_is_partly_in_training_mode_is_taken_out_of_it() -> None:
    teacher, student = networks()
    distiller = Distiller(teacher, student, LOSSES, example=IMAGES).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    expected = distiller(IMAGES, LABELS).terms["kd"]
    student.load_state_dict(networks()[1].state_dict())
    for part in (teacher.layer1, teacher.layer3[0].bn1, nn.ModuleList([teacher])):
        part.train()
        found = distiller(IMAGES, LABELS).terms["kd"]
        assert not any(each.training for each in teacher.modules())
        assert same(teacher.state_dict(), before)
    torch.testing.assert_close(found, expected)


class Counting(nn.Module):
    """Counts its calls in a buffer, in evaluation mode too; and keeps a constant that it is not saved with."""

    def __init__(self, persistent: bool) -> None:
        super().__init__()
        self.net = networks()[0]
        self.register_buffer("calls", torch.zeros(()), persistent=persistent)

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return self.net(images)


@pytest.mark.parametrize("losses", [LOSSES, {"ce": 1.0, "kd": 1.0}])
def test_a_teacher_whose_buffers_move_in_evaluation_is_found_out_at_its_first_answer(losses) -> None:
    teacher = Counting(persistent=True)
    assert "the teacher changes its buffer 'calls'" in refusal(teacher, networks()[1], losses)
    Distiller(Counting(persistent=False), networks()[1], losses).train()(IMAGES, LABELS)


def test_statistics_that_are_no_numbers_have_not_moved() -> None:
    teacher, _ = networks()
    teacher.bn1.running_var[0] = float("nan")
    assert LiveTeacher(teacher)(IMAGES).logits.shape == (4, 10)


# Apart


def test_one_network_does_not_teach_itself() -> None:
    teacher, _ = networks()
    assert "are one module" in refusal(teacher, teacher)


def test_what_is_trained_is_not_shared() -> None:
    teacher, student = networks()
    student.conv1 = teacher.conv1
    assert "share the module 'conv1'" in refusal(teacher, student)
    student.conv1.requires_grad_(False)
    assert Distiller(teacher, student, LOSSES).train()(IMAGES, LABELS).total.isfinite()

    teacher, student = networks()
    student.linear.weight = teacher.linear.weight
    assert "share the weights 'linear.weight'" in refusal(teacher, student)

    teacher, _ = networks()
    student = copy.deepcopy(teacher)
    student.load_state_dict(teacher.state_dict(), assign=True)
    assert "share the weights 'conv1.weight'" in refusal(teacher, student)

    teacher, student = networks()
    student.bn1.running_mean = teacher.bn1.running_mean
    assert "share the statistics of 'bn1'" in refusal(teacher, student)


def test_a_dropout_is_not_shared_and_an_activation_may_be() -> None:
    def network(activation: nn.Module, dropout: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), activation, dropout, nn.Flatten(), nn.Linear(4 * 14 * 14, 10))

    activation, dropout = nn.ReLU(), nn.Dropout()
    kd = {"kd": 1.0}
    assert "share the module '2'" in refusal(network(activation, dropout), network(activation, dropout), kd)
    Distiller(network(activation, nn.Dropout()), network(activation, nn.Dropout()), kd).train()(IMAGES, LABELS)


# Weights


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_network_without_values_is_named(role) -> None:
    for make, message in (
        (
            lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)),
            f"the {role}'s '1.weight' has no shape before its first",
        ),
        (lambda: networks()[0].to("meta"), f"the {role}'s 'conv1.weight' is on the device meta"),
    ):
        both = (make(), networks()[1]) if role == "teacher" else (networks()[0], make())
        assert message in refusal(*both)


@pytest.mark.parametrize("losses", [LOSSES, {"ce": 1.0, "kd": 1.0}])
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_weights_of_another_type_than_the_images_are_named(role, losses) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        teacher, student = networks()
        (teacher if role == "teacher" else student).to(dtype)
        assert f"the {role}'s weights are {dtype} and its images torch.float32" in refusal(teacher, student, losses)


def test_a_half_precision_teacher_gets_half_precision_images_from_its_transform() -> None:
    teacher, student = networks()
    distiller = Distiller(teacher.bfloat16(), student, LOSSES, teacher_transform=lambda images: images.bfloat16())
    assert distiller.train()(IMAGES, LABELS).total.isfinite()
    teacher, student = networks()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Distiller(teacher.bfloat16(), student, LOSSES).train()(IMAGES, LABELS).total.isfinite()


class Plain(nn.Module):
    """Small enough for TorchScript and export, which cannot read annotated shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(8, 10)

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.head(self.two(self.one(x)).mean((2, 3)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_what_shows_no_parts_is_named_where_they_are_needed(role) -> None:
    def both(special: nn.Module) -> tuple[nn.Module, nn.Module]:
        return (special, Plain()) if role == "teacher" else (Plain(), special)

    for script in (lambda: torch.jit.script(Plain()), lambda: torch.jit.trace(Plain(), IMAGES)):
        assert f"the {role} is a ScriptModule" in refusal(*both(script()))
        assert Distiller(*both(script()), {"ce": 1.0, "kd": 1.0}).train()(IMAGES, LABELS).total.isfinite()
    part = Plain()
    part.two = torch.jit.script(part.two)
    assert Distiller(*both(part), LOSSES).train()(IMAGES, LABELS).total.isfinite()
    exported = torch.export.export(Plain().eval(), (IMAGES,)).module()
    assert f"the {role} is the module of an exported program" in refusal(*both(exported), {"ce": 1.0, "kd": 1.0})


class WithoutGradients(nn.Module):
    """Runs without gradients, in training too."""

    def __init__(self, context: type) -> None:
        super().__init__()
        self.net, self.context = networks()[1], context

    def forward(self, images: Tensor) -> Tensor:
        with self.context():
            return self.net(images)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_student_whose_forward_runs_without_gradients_is_named(context) -> None:
    student = WithoutGradients(context)
    assert "no loss reaches the student's weights" in refusal(networks()[0], student, {"ce": 1.0, "kd": 1.0})
    assert Distiller(networks()[0], student, {"kd": 1.0}).eval()(IMAGES).total.isfinite()
    student.requires_grad_(False)
    assert Distiller(networks()[0], student, {"kd": 1.0}).train()(IMAGES).total.isfinite(), "it is not to be trained"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_traced_student_would_stay_in_one_mode() -> None:
    teacher, student = networks()
    traced = torch.jit.trace(student.eval(), IMAGES)
    assert "stay in the mode in which it was traced" in refusal(teacher, traced, {"kd": 1.0})
    assert "stay in the mode in which it was traced" in refusal(teacher, nn.Sequential(traced), {"kd": 1.0})
    assert Distiller(traced, teacher, {"kd": 1.0}).train()(IMAGES).total.isfinite()
