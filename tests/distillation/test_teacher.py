"""A teacher is one protocol: who holds one gets the same from the live one, the cached one, and any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from angularkd import Distiller
from angularkd.distillation import About, CachedTeacher, LiveTeacher, Request, Teacher
from angularkd.features import FeatureExtractor, Head, ModelOutput, PowerMap, Trace, embedding_of, find_stages, trace
from angularkd.models import Preprocessing, cifar

ABOUT = About("teacher", "mean 0", "32-true", "data", {"ops": ["flip"]}, samples=40, views_count=2)
LOSSES = {"ce": 1.0, "kd": 0.9, "amd": 100.0, "pkt": 10.0}
TRANSFORM = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def network() -> nn.Module:
    torch.manual_seed(0)
    return cifar.create("resnet14", 10)


def batch(count: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, 16, 16, generator=generator), torch.arange(count) % 10, torch.arange(count)


class Recorded:
    """A third kind of teacher: no nn.Module and no relation of the others, it notes which of its methods are called."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module.eval()
        self.calls: list[str] = []
        self._request = Request()

    def trace(self, images: Tensor) -> Trace:
        self.calls.append("trace")
        return trace(self.module, TRANSFORM(images))

    def head_weight(self, head: Head) -> Tensor | None:
        self.calls.append("head_weight")
        return self.module.get_submodule(head.path).weight.detach()

    def prepare(self, request: Request) -> None:
        self.calls.append("prepare")
        self._request = request

    def __call__(self, images: Tensor, indices: Tensor | None = None, view: int | None = None) -> ModelOutput:
        self.calls.append("call")
        reductions = tuple(dict.fromkeys(self._request.reductions.values()))
        extractor = FeatureExtractor(self.module, self._request.stages, reductions, self._request.head)
        with extractor, torch.no_grad():
            return extractor(TRANSFORM(images))

    def compile(self, **options: Any) -> None:
        self.calls.append("compile")

    def uncompile(self) -> None:
        self.calls.append("uncompile")

    def close(self) -> None:
        self.calls.append("close")


def live(_: Path) -> LiveTeacher:
    return LiveTeacher(network(), TRANSFORM)


def cached(folder: Path) -> CachedTeacher:
    return CachedTeacher(live(folder), folder, ABOUT)


def recorded(_: Path) -> Recorded:
    return Recorded(network())


TEACHERS: dict[str, Callable[[Path], Teacher]] = {"live": live, "cached": cached, "recorded": recorded}


@pytest.fixture(params=TEACHERS)
def teacher(request, tmp_path) -> Teacher:
    return TEACHERS[request.param](tmp_path)


def request_for(teacher: Teacher) -> Request:
    """Two stages' maps, the embedding and the logits."""
    shown = teacher.trace(batch()[0][:1])
    stages = tuple(find_stages(teacher.module, shown)[-2:])
    signals = frozenset({"teacher_logits", "teacher_embedding", "teacher_features"})
    return Request(stages, {"amd": PowerMap()}, embedding_of(shown, teacher.module), signals)


def test_every_teacher_answers_alike(teacher) -> None:
    images, _, indices = batch()
    module = network().eval()
    request = request_for(teacher)
    teacher.prepare(request)
    with FeatureExtractor(module, request.stages, (PowerMap(),), request.head) as extractor, torch.no_grad():
        expected = extractor(TRANSFORM(images))
    for _ in range(2):  # a cache computes the first, and reads the second
        found = teacher(images, indices, 1)
        torch.testing.assert_close(found.logits, expected.logits, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(found.embedding, expected.embedding, rtol=2e-3, atol=2e-3)
        for ours, maps in zip(found.features[PowerMap()], expected.features[PowerMap()], strict=True):
            scale = maps.norm(dim=(1, 2), keepdim=True) / ours.norm(
                dim=(1, 2), keepdim=True
            )  # a cache stores unit maps
            torch.testing.assert_close(ours * scale, maps, rtol=5e-3, atol=1e-5)
        assert not found.logits.requires_grad
    torch.testing.assert_close(teacher(images).logits, expected.logits)  # without indices and view, live to the bit
    weight = teacher.head_weight(request.head)
    assert torch.equal(weight, module.linear.weight)
    teacher.close()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in teacher.module.modules())


def test_a_distiller_gives_the_same_terms_whichever_it_holds(teacher) -> None:
    images, labels, indices = batch()
    outs = []
    for held in (LiveTeacher(network(), TRANSFORM), teacher):
        torch.manual_seed(3)
        distiller = Distiller(held, cifar.create("resnet8", 10), LOSSES, example=images[:1]).train()
        for view in (0, 0):
            out = distiller(images, labels, indices, view)
        out.total.backward()
        outs.append((out, distiller.student.conv1.weight.grad))
    (expected, gradient), (found, ours) = outs
    assert list(found.terms) == list(LOSSES)
    for name, term in expected.terms.items():
        torch.testing.assert_close(found.terms[name], term, rtol=5e-3, atol=1e-5)
    assert (ours - gradient).norm() < 2e-2 * gradient.norm()


def test_a_teacher_is_no_part_of_its_distiller(teacher) -> None:
    images, labels, indices = batch()
    distiller = Distiller(teacher, cifar.create("resnet8", 10), LOSSES, example=images[:1])
    assert distiller.teacher is teacher and not isinstance(teacher, nn.Module)
    assert set(distiller.state_dict()) == {f"student.{name}" for name in distiller.student.state_dict()}
    own = {id(parameter) for parameter in teacher.module.parameters()}
    assert not own & {id(parameter) for parameter in distiller.parameters()}
    distiller.train()
    distiller(images, labels, indices, 0)
    assert not any(part.training for part in teacher.module.modules())
    distiller.to(torch.float64)
    assert {parameter.dtype for parameter in teacher.module.parameters()} == {torch.float64}


def test_a_distiller_asks_any_teacher_for_the_protocol_alone(tmp_path) -> None:
    teacher = recorded(tmp_path)
    images, labels, indices = batch()
    distiller = Distiller(teacher, cifar.create("resnet8", 10), {"ce": 1.0, "amd": 1.0}, example=images[:1]).train()
    assert teacher.calls == ["trace", "prepare"]
    distiller(images, labels, indices, 0).total.backward()
    distiller(images, labels)
    assert teacher.calls[2:] == ["call", "call"]
    distiller.compile(backend="eager")
    distiller.uncompile()
    distiller.close()
    assert teacher.calls[4:] == ["compile", "uncompile", "close"]


def test_a_live_teacher_is_traced_once(tmp_path) -> None:
    runs: list[int] = []
    module = network()
    module.register_forward_pre_hook(lambda _m, inputs: runs.append(len(inputs[0])))
    teacher = LiveTeacher(module, TRANSFORM)
    assert teacher.trace(batch()[0]) is teacher.trace(batch()[0]) and runs == [2]
    assert LiveTeacher(module, TRANSFORM, traced=teacher.trace(batch()[0])).classes == 10 and runs == [2]


def test_a_cached_teacher_runs_its_network_for_what_is_missing(tmp_path) -> None:
    teacher = cached(tmp_path)
    runs: list[int] = []
    teacher.module.register_forward_pre_hook(lambda _m, inputs: runs.append(len(inputs[0])))
    teacher.prepare(request_for(teacher))
    images, _, indices = batch()
    assert teacher.fill(images[:4], indices[:4], 0) == 4
    assert teacher.fill(images, indices, 0) == 4 and teacher.fill(images, indices, 0) == 0
    assert runs == [2, 4, 8], "the dry forward, and whole batches where something is missing"
    first = teacher(images, indices, 0)
    other = CachedTeacher(live(tmp_path), tmp_path, ABOUT)
    other.prepare(request_for(other))
    assert torch.equal(other(images, indices, 0).logits, first.logits)
    renamed = CachedTeacher(live(tmp_path), tmp_path, replace(ABOUT, teacher="another"))
    renamed.prepare(request_for(renamed))
    assert renamed.cache.missing(0, indices).all()
