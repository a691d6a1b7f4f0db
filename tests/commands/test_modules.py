"""Networks passed as `torch.nn.Module`s to train, distill, plan and evaluate."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

import angularkd
from angularkd import InputError
from angularkd.models import module_spec, same_network
from helpers import DIGITS, same, saved_weights


class Net(nn.Module):
    """A small network of two stages."""

    def __init__(self, width: int = 6, classes: int = 10) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Linear(2 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stage2(self.stage1(images)).mean(dim=(2, 3)))


def net(seed: int, **options: int) -> Net:
    torch.manual_seed(seed)
    return Net(**options)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Net:
    module = net(0, width=16)
    folder = tmp_path_factory.mktemp("module") / "run"
    angularkd.train(**DIGITS, model=module, epochs=8, lr=0.1, out=folder)
    return module


def test_a_module_is_trained_in_place_and_its_run_holds_its_state(tmp_path: Path) -> None:
    module, before = net(1), net(1).state_dict()
    run = angularkd.train(**DIGITS, model=module, epochs=1, out=tmp_path / "run")
    assert same(module.state_dict(), saved_weights(run.folder)) and not same(module.state_dict(), before)
    stored = yaml.safe_load((run.folder / "config.yaml").read_text())["model"]
    assert stored == module_spec(net(1)) != module_spec(module)
    assert stored.endswith("test_modules.Net") and same_network(stored, module_spec(module))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_teacher_and_student_are_modules_and_the_teacher_stays_as_it_is(teacher: Net, tmp_path: Path) -> None:
    before, student = copy.deepcopy(teacher.state_dict()), net(1)
    run = angularkd.distill(**DIGITS, teacher=teacher, student=student, epochs=1, out=tmp_path / "run")
    assert same(before, teacher.state_dict()) and same(student.state_dict(), saved_weights(run.folder))
    plan = yaml.safe_load((run.folder / "plan.json").read_text())
    assert plan["pairs"] and [note for note in plan["notes"] if "Net is a module of Python" in note]
    found = angularkd.evaluate(**EVALUATED, model=net(2), weights=run.folder / "student.safetensors", teacher=teacher)
    expected = run.results["metrics"]["last epoch"]
    assert next(iter(found["metrics"].values()))["nll"] == pytest.approx(expected["nll"], rel=1e-5)


EVALUATED = {name: value for name, value in DIGITS.items() if name != "schedule"}


def test_a_plan_of_modules(teacher: Net) -> None:
    plan = angularkd.plan(**DIGITS, teacher=teacher, student=net(1))
    assert plan.student["spec"] == module_spec(net(1)) and plan.teacher_validation["accuracy"] > 0.3
    assert not any(part._forward_hooks for part in teacher.modules())


@pytest.mark.parametrize("again", ["another object", "the object that was trained"])
def test_a_run_goes_on_with_the_module_passed_again(teacher: Net, tmp_path: Path, again: str, monkeypatch) -> None:
    whole = net(1)
    options = {**DIGITS, "teacher": teacher, "epochs": 2}
    angularkd.distill(**options, student=whole, out=tmp_path / "whole")
    student = net(1)
    interrupt_after_an_epoch(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        angularkd.distill(**options, student=student, out=tmp_path / "run")
    monkeypatch.undo()
    student = student if again == "the object that was trained" else net(5)
    run = angularkd.distill(**options, student=student, out=tmp_path / "run", resume=True)
    assert same(saved_weights(run.folder), whole.state_dict())
    with pytest.raises(InputError, match=r"started with other options \(student\)"):
        angularkd.distill(**options, student=net(1, width=7), out=tmp_path / "run", resume=True)


def interrupt_after_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    from angularkd.training.checkpoint import Checkpointer

    save = Checkpointer.save

    def interrupted(self: Checkpointer, state: object) -> None:
        save(self, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpointer, "save", interrupted)


def test_a_module_is_fitted_as_the_teacher_first(teacher: Net, tmp_path: Path) -> None:
    module = copy.deepcopy(teacher)
    run = angularkd.distill(
        **DIGITS, teacher=module, teacher_train=1, student="cifar/resnet8", epochs=1, out=tmp_path / "run"
    )
    fitted = saved_weights(run.folder / "teacher")
    assert same(module.state_dict(), fitted) and not torch.equal(fitted["head.weight"], teacher.head.weight)
    assert torch.equal(fitted["stage1.0.weight"], teacher.stage1[0].weight)


def test_what_no_spec_builds_again_says_so(tmp_path: Path) -> None:
    run = angularkd.train(**DIGITS, model=net(1), epochs=1, out=tmp_path / "run")
    for options in ({"model": str(run.folder)}, {"model": module_spec(net(1))}):
        with pytest.raises(InputError, match="Net' is a module that was passed in Python, which no SPEC builds again"):
            angularkd.evaluate(**EVALUATED, **options)


def test_a_module_of_other_classes_is_refused(teacher: Net, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tells apart 7 classes, the data has 10: give it a layer for as many"):
        angularkd.train(**DIGITS, model=net(1, classes=7), epochs=1, out=tmp_path / "run")
    with pytest.raises(InputError, match="the teacher tells apart 7 classes, the data has 10"):
        angularkd.plan(**DIGITS, teacher=net(1, classes=7), student=net(1))


def test_one_module_is_no_pair(teacher: Net) -> None:
    with pytest.raises(InputError, match="one module, which cannot learn from itself"):
        angularkd.plan(**DIGITS, teacher=teacher, student=teacher)


@pytest.mark.parametrize("command", ["plan", "distill", "fit", "train", "evaluate"])
def test_a_module_is_counted_and_traced_by_one_dry_forward(teacher: Net, tmp_path: Path, command: str) -> None:
    found: list[tuple[int, int]] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, Net):
            found.append((module.head.in_features, len(inputs[0])))

    module, student = copy.deepcopy(teacher), net(1)
    both = {"teacher": module, "student": student, "loss": {"ce": 1.0, "amd": 1.0}, "insist": True}
    calls = {
        "plan": lambda: angularkd.plan(**DIGITS, **both),
        "distill": lambda: angularkd.distill(**DIGITS, **both, epochs=1, out=tmp_path / "run"),
        "fit": lambda: angularkd.distill(**DIGITS, **both, epochs=1, teacher_train=1, out=tmp_path / "run"),
        "train": lambda: angularkd.train(**DIGITS, model=student, epochs=1, out=tmp_path / "run"),
        "evaluate": lambda: angularkd.evaluate(**EVALUATED, model=student, teacher=module),
    }
    handle = nn.modules.module.register_module_forward_pre_hook(count)
    try:
        calls[command]()
    finally:
        handle.remove()
    # No batch has two images: those of a dry forward.
    assert found.count((12, 2)) == 1 and found.count((32, 2)) == (command != "train")


class WithExtraState(Net):
    """Its state holds more than tensors, as those of quantised modules do."""

    def get_extra_state(self) -> dict[str, object]:
        return {"version": 3, "names": ["a", "b"]}


def test_a_module_whose_state_holds_more_than_tensors_teaches_and_is_measured_but_does_not_learn(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    module = WithExtraState()
    assert 0 <= next(iter(angularkd.evaluate(**EVALUATED, model=module)["metrics"].values()))["accuracy"] <= 1
    both = {"student": net(1), "loss": {"ce": 1.0, "kd": 0.1}, "insist": True, "epochs": 1, "augment": ("flip",)}
    run = angularkd.distill(**DIGITS, teacher=module, **both, cache=tmp_path / "cache", out=tmp_path / "run")
    assert run.results["epochs"] == 1
    with pytest.raises(InputError, match=r"keeps more than plain tensors .*_extra_state.* can only be a teacher"):
        angularkd.train(**DIGITS, model=module, epochs=1, out=tmp_path / "other")
