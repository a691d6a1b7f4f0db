"""The averaged student: against a slow average and timm's, in whole runs, and without any effect on the training itself."""

from __future__ import annotations

import json

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

import angularkd
from angularkd import InputError
from angularkd.config import TrainConfig
from angularkd.training import Silent
from angularkd.training.ema import AveragedStudent
from helpers import distillation_job, same, saved_weights

DECAY = 0.9
RUN = {
    "data": "digits",
    "model": "cifar/resnet8",
    "image_size": 8,
    "batch_size": 64,
    "augment": ("crop", "flip"),
    "epochs": 2,
    "device": "cpu",
}


def small_student() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))


def step(student: nn.Module, number: int) -> None:
    """As if trained: every weight moves, and the statistics of batch normalisation too."""
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)
        student.train()(torch.randn(8, 3, 4, 4, generator=generator))


def slow_average(history: list[dict[str, Tensor]], decay: float) -> dict[str, Tensor]:
    """One tensor after the other, in float64: every student, weighted by what is left of it at the end."""
    average = {name: tensor.double() for name, tensor in history[0].items()}
    for t, student in enumerate(history[1:], start=1):
        share = max(1 - decay, (1 + t) ** (-2 / 3))
        for name, tensor in student.items():
            average[name] += share * (tensor.double() - average[name])
    counters = {name: tensor for name, tensor in history[-1].items() if not tensor.is_floating_point()}
    return {name: counters.get(name, tensor.float()) for name, tensor in average.items()}


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def saved(run: angularkd.Run, file: str = "student.safetensors") -> dict[str, Tensor]:
    return saved_weights(run.folder, file)


def trained(run: angularkd.Run) -> dict[str, Tensor]:
    """The student as the optimiser left it."""
    checkpoint = torch.load(run.folder / "checkpoints/last.ckpt", weights_only=True)
    return {name.removeprefix("student."): value for name, value in checkpoint["distiller"].items()}


# The average


@pytest.mark.parametrize("decay", [0.5, DECAY, 0.999])
def test_it_is_the_slow_average_and_timms(decay) -> None:
    student = small_student()
    average = AveragedStudent(student, decay)
    timms = ModelEmaV3(student, decay=decay, use_warmup=True)
    history = []
    for number in range(40):
        step(student, number)
        average.update()
        timms.update(student, step=number + 1)
        history.append(snapshot(student))
    torch.testing.assert_close(average.module.state_dict(), slow_average(history, decay), rtol=1e-5, atol=1e-5)
    assert same(average.module.state_dict(), timms.module.state_dict())


def test_the_first_update_copies_the_student() -> None:
    student = small_student()
    average = AveragedStudent(student, 0.999)
    step(student, 0)
    assert not same(average.module.state_dict(), student.state_dict())
    average.update()
    assert same(average.module.state_dict(), student.state_dict())


def test_the_student_is_left_alone_and_the_copy_never_trained() -> None:
    student = small_student()
    average = AveragedStudent(student, DECAY)
    step(student, 0)
    before = snapshot(student)
    average.update()
    assert same(before, student.state_dict())
    assert student.training and all(parameter.requires_grad for parameter in student.parameters())
    assert not any(part.training for part in average.module.modules())
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
    shared = {tensor.data_ptr() for tensor in student.state_dict().values()}
    assert not shared & {tensor.data_ptr() for tensor in average.module.state_dict().values()}


def test_a_weight_that_two_layers_share_is_averaged_once() -> None:
    student = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    student[1].weight = student[0].weight
    average = AveragedStudent(student, 0.5)
    values = [1.0, 2.0, 4.0, 8.0]
    for value in values:
        nn.init.constant_(student[0].weight, value)
        average.update()
    assert average.module[1].weight is average.module[0].weight
    history = [{"weight": torch.full((4, 4), value)} for value in values]
    torch.testing.assert_close(average.module[0].weight.detach(), slow_average(history, 0.5)["weight"])


def test_it_goes_on_from_its_state() -> None:
    student = small_student()
    average = AveragedStudent(student, 0.999)
    for number in range(5):
        step(student, number)
        average.update()
    resumed = AveragedStudent(student, 0.999)
    resumed.load_state_dict(average.state_dict())
    for number in range(5, 8):
        step(student, number)
        average.update(), resumed.update()
    assert same(resumed.module.state_dict(), average.module.state_dict())


# Whole runs


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> angularkd.Run:
    return angularkd.train(**RUN, out=str(tmp_path_factory.mktemp("plain") / "run"))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> tuple[angularkd.Run, list[dict[str, Tensor]]]:
    """A run with an average, and its student after every step of the optimiser."""
    history: list[dict[str, Tensor]] = []
    update = AveragedStudent.update

    def recording(self: AveragedStudent) -> None:
        history.append(snapshot(self.student))
        update(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AveragedStudent, "update", recording)
        run = angularkd.train(**RUN, ema=DECAY, out=str(tmp_path_factory.mktemp("ema") / "run"))
    return run, history


def test_the_student_trains_as_it_would_without(plain, recorded) -> None:
    run, history = recorded
    assert same(trained(run), trained(plain))
    assert same(history[-1], trained(run))
    assert same(saved(plain), trained(plain))
    assert "average" not in torch.load(plain.folder / "checkpoints/last.ckpt", weights_only=True)


def test_the_average_over_all_steps_is_what_is_saved(recorded) -> None:
    run, history = recorded
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert len(history) == rows[-1]["step"]
    torch.testing.assert_close(saved(run), slow_average(history, DECAY), rtol=1e-4, atol=1e-6)
    selected = slow_average(history[: rows[run.results["selected_epoch"] - 1]["step"]], DECAY)
    torch.testing.assert_close(saved(run, "checkpoints/best.safetensors"), selected, rtol=1e-4, atol=1e-6)


def test_the_average_is_what_is_validated_and_measured(plain, recorded) -> None:
    run, _ = recorded
    last = json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[-1])
    for split, expected in (
        ("val", {name.removeprefix("val_"): value for name, value in last.items() if name.startswith("val_")}),
        ("test", run.results["metrics"]["last epoch"]),
    ):
        measured = angularkd.evaluate(data="digits", model=str(run.folder), split=split, device="cpu")
        figures = measured["metrics"][str(run.folder)]
        assert {name: figures[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert run.results["metrics"] != plain.results["metrics"]
    assert run.results["parameters"] == plain.results["parameters"]


@pytest.mark.parametrize("stop_at", ["epoch", "step"])
def test_a_stopped_run_goes_on_with_the_same_average(recorded, tmp_path, monkeypatch, stop_at) -> None:
    whole, _ = recorded

    def stop(self: Silent, *arguments) -> None:
        if stop_at == "epoch" or arguments[:2] == (1, 5):  # after the first epoch, or within the second
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Silent, stop_at, stop)
        with pytest.raises(KeyboardInterrupt):
            angularkd.train(**RUN, ema=DECAY, out=str(tmp_path / "run"))
    resumed = angularkd.train(**RUN, ema=DECAY, out=str(tmp_path / "run"), resume=True)
    assert same(saved(resumed), saved(whole))
    assert same(saved(resumed, "checkpoints/best.safetensors"), saved(whole, "checkpoints/best.safetensors"))
    assert same(trained(resumed), trained(whole))
    assert resumed.results["metrics"] == whole.results["metrics"]


def test_a_run_is_not_resumed_with_another_average(recorded) -> None:
    run, _ = recorded
    for ema in ({}, {"ema": 0.99}):
        with pytest.raises(InputError, match=r"was started with other options \(ema\)"):
            angularkd.train(**RUN, **ema, out=str(run.folder), resume=True)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, 1.5])
def test_a_decay_outside_of_0_and_1_is_refused_in_one_line(decay) -> None:
    with pytest.raises(InputError, match=r"`ema`: .* (greater|less) than") as refusal:
        TrainConfig.from_options(data="digits", model="cifar/resnet8", ema=decay)
    assert "\n" not in str(refusal.value)


def test_the_average_of_an_observed_student_lies_channels_last_and_carries_no_hooks(plain) -> None:
    options = {name: value for name, value in RUN.items() if name != "model"}
    job = distillation_job(**options, teacher=str(plain.folder), student=RUN["model"], ema=DECAY)

    def hooks(module: nn.Module) -> int:
        return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())

    assert hooks(job.student.module) == hooks(job.result.module) == 0
    assert job.result.module.layer2[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert same(job.result.module.state_dict(), job.student.module.state_dict())
