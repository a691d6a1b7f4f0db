"""A distiller that is copied, saved, averaged, closed or dropped, and the networks that it observes meanwhile."""

from __future__ import annotations

import copy
import gc
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from angularkd import Distiller, InputError
from angularkd.distillation import About, CachedTeacher, LiveTeacher
from angularkd.models import Preprocessing, cifar
from helpers import same

LOSSES = {"ce": 1.0, "kd": 1.0, "amd": 10.0, "pkt": 1.0}
IMAGES, LABELS = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(4)


def distiller() -> Distiller:
    torch.manual_seed(0)
    teacher, student = cifar.create("resnet14", 10), cifar.create("resnet8", 10)
    transforms = {f"{role}_transform": Preprocessing((0.5,) * 3, (0.2,) * 3) for role in ("teacher", "student")}
    return Distiller(teacher, student, LOSSES, example=IMAGES, **transforms).train()


def hooks(model: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


def saved_and_loaded(module: Any) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "torch.save": saved_and_loaded,
    "AveragedModel": lambda module: AveragedModel(module).module,
}


@pytest.mark.parametrize("run_before", [False, True])
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_of_a_distiller_trains_networks_of_its_own(copied, run_before) -> None:
    ours = distiller()
    if run_before:
        ours(IMAGES, LABELS).total.backward()
        ours.zero_grad()
    other = copied(ours)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    out = other(IMAGES, LABELS)
    out.total.backward()
    assert other.student.conv1.weight.grad.abs().sum() > 0 and ours.student.conv1.weight.grad is None
    assert other.teacher.module is not ours.teacher.module
    assert same(before, ours.state_dict())
    torch.testing.assert_close(ours(IMAGES, LABELS).terms, out.terms)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_of_a_distiller_with_a_cached_teacher_answers_from_the_same_cache(copied, tmp_path) -> None:
    torch.manual_seed(0)
    about = About("teacher", "", "32-true", "data", {}, samples=8, views_count=1)
    cached = CachedTeacher(LiveTeacher(cifar.create("resnet14", 10)), tmp_path, about)
    ours = Distiller(cached, cifar.create("resnet8", 10), LOSSES, example=IMAGES).train()
    expected = ours(IMAGES, LABELS, torch.arange(4), 0).terms
    other = copied(ours)
    assert other.teacher.module is not cached.module and not other.teacher.cache.missing(0, torch.arange(4)).any()
    other.teacher.live = None  # so that it must be the cache that answers
    torch.testing.assert_close(other(IMAGES, LABELS, torch.arange(4), 0).terms, expected)
    with pytest.raises(InputError, match="fills the teacher cache"):  # while the first one does
        other.teacher.cache.write(0, torch.arange(4, 8), values_of(cached, IMAGES))
    cached.cache.close()
    other.teacher.cache.write(0, torch.arange(4, 8), values_of(cached, IMAGES))
    assert cached.cache.missing_rows == 0 and cached.cache.check() == 8


def values_of(teacher: CachedTeacher, images: Tensor) -> dict[str, Tensor]:
    stored = teacher.cache.read(0, torch.arange(4), images.device)
    return teacher.live_answers(images, stored)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_of_an_observed_network_is_the_network_alone(copied) -> None:
    ours = distiller()
    ours(IMAGES, LABELS)
    for network in (ours.student, ours.teacher.module):
        other = copied(network)
        assert hooks(other) == hooks(network) == 0
        assert torch.equal(other.eval()(IMAGES), network.eval()(IMAGES))


def test_a_copy_of_a_compiled_distiller_runs_as_it_is_written() -> None:
    ours = distiller()
    ours.compile(backend="eager")
    other = copy.deepcopy(ours)
    assert other._compiled is None and other.teacher._compiled is None
    other(IMAGES, LABELS).total.backward()
    assert ours.student.conv1.weight.grad is None


def test_a_closed_distiller_says_so() -> None:
    ours = distiller()
    ours.close()
    with pytest.raises(InputError, match="was closed: make a new Distiller") as refusal:
        ours(IMAGES, LABELS)
    assert "\n" not in str(refusal.value)
    again = Distiller(ours.teacher.module, ours.student, LOSSES).train()
    assert again(IMAGES, LABELS).total.isfinite()


def test_a_dropped_distiller_leaves_nothing_behind_also_when_a_forward_has_failed() -> None:
    ours = distiller()
    teacher, student = ours.teacher.module, ours.student
    with pytest.raises(RuntimeError):
        ours(torch.rand(4, 5, 16, 16), LABELS)
    assert hooks(teacher) == hooks(student) == 0
    del ours
    gc.collect()
    assert hooks(teacher) == hooks(student) == 0


def test_two_distillers_observe_one_student() -> None:
    first = distiller()
    second = Distiller(first.teacher.module, first.student, {"amd": 10.0}, example=IMAGES).train()
    torch.testing.assert_close(first(IMAGES, LABELS).total.isfinite(), torch.tensor(True))
    assert second(IMAGES, LABELS).total.isfinite()
    second.close()
    assert first(IMAGES, LABELS).total.isfinite()
