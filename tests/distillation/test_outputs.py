"""Networks whose output is no tensor, always or in training alone, in both roles."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd import Distiller, InputError
from angularkd.distillation import LiveTeacher
from angularkd.features import heads_of, trace
from angularkd.models import ClassMapping, cifar

IMAGES, LABELS = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(4)
LOSSES = {"ce": 1.0, "kd": 1.0, "amd": 10.0, "pkt": 1.0}


class Heads(NamedTuple):
    logits: Tensor
    aux: Tensor


WRAPPED: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "pair": lambda logits, aux, images: (logits, aux),
    "three": lambda logits, aux, images: (logits, aux, aux),
    "list": lambda logits, aux, images: [logits],
    "beside a map": lambda logits, aux, images: (images, logits),
    "named tuple": lambda logits, aux, images: Heads(logits, aux),
    "object": lambda logits, aux, images: SimpleNamespace(logits=logits, aux=aux),
    "mapping": lambda logits, aux, images: {"aux": aux, "logits": logits},
    "mapping of one": lambda logits, aux, images: {"out": logits, "map": images},
}
UNCLEAR: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "unequal matrices": lambda logits, aux, images: (logits, aux[:, :5]),
    "a mapping of two": lambda logits, aux, images: {"first": logits, "second": aux},
    "text": lambda logits, aux, images: "logits",
    "nothing": lambda logits, aux, images: None,
}


class Wrapping(nn.Module):
    """Gives its logits inside of something else, always or in training alone."""

    def __init__(self, wrap: Callable[[Tensor, Tensor, Tensor], Any], always: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.aux, self.wrap, self.always = cifar.create("resnet8", 10), nn.Linear(10, 10), wrap, always

    def forward(self, images: Tensor) -> Any:
        logits = self.net(images)
        return self.wrap(logits, self.aux(logits), images) if self.training or self.always else logits


def other() -> nn.Module:
    torch.manual_seed(1)
    return cifar.create("resnet8", 10)


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("always", [True, False])
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_logits_are_found_where_there_is_no_doubt(wrap, always, role) -> None:
    totals = []
    for make in (lambda logits, aux, images: logits, wrap):
        network = Wrapping(make, always)
        both = (network, other()) if role == "teacher" else (other(), network)
        distiller = Distiller(*both, LOSSES, example=IMAGES).train()
        out = distiller(IMAGES, LABELS)
        out.total.backward()
        totals.append((out.total, distiller.student.state_dict(), out.student_logits))
        if role == "student":
            torch.testing.assert_close(out.terms["ce"], F.cross_entropy(out.student_logits, LABELS))
    torch.testing.assert_close(totals[1], totals[0])


@pytest.mark.parametrize("wrap", UNCLEAR.values(), ids=UNCLEAR)
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_anything_else_is_refused_in_one_line(wrap, role) -> None:
    both = (Wrapping(wrap), other()) if role == "teacher" else (other(), Wrapping(wrap))
    for losses in (LOSSES, {"ce": 1.0, "kd": 1.0}):
        with pytest.raises(InputError, match=r"gives a|no embedding") as refusal:
            Distiller(*both, losses).train()(IMAGES, LABELS)
        assert "\n" not in str(refusal.value)


def test_the_classes_of_a_wrapped_teacher_are_mapped() -> None:
    teacher = Wrapping(WRAPPED["mapping"])
    live = LiveTeacher(teacher, mapping=ClassMapping(((2,), (0,))))
    assert torch.equal(live(IMAGES).logits, teacher(IMAGES)["logits"][:, [2, 0]])


def test_a_trace_names_the_head_of_wrapped_logits() -> None:
    found = trace(Wrapping(WRAPPED["mapping"]), IMAGES)
    assert (found.output_shape, found.output_kind, found.head.path) == ((2, 10), "dict", "net.linear")


def test_the_only_matrix_is_an_embedding_where_there_is_no_head() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv2d(3, 24, 3, 4, 1)

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            features = self.body(images)
            return {"features": features, "pooled": features.mean((2, 3))}

    teacher = Pooled()
    distiller = Distiller(teacher, other(), {"ce": 1.0, "embedding": 1.0}, example=IMAGES).train()
    assert torch.equal(distiller.teacher(IMAGES).embedding, teacher(IMAGES)["pooled"])
    assert distiller(IMAGES, LABELS).total.isfinite()


def test_second_heads_are_of_pairs_alone() -> None:
    first, second = torch.rand(2, 3), torch.rand(2, 3)
    assert heads_of((first, second)) == (first, second)
    assert heads_of((first, second, second))[1] is None
    assert heads_of({"logits": first, "aux": second}) == (first, None)


def test_an_inception_network_with_auxiliary_heads_is_a_student_and_a_teacher() -> None:
    torch.manual_seed(0)
    network = torchvision.models.googlenet(num_classes=10, init_weights=False)
    images = torch.rand(2, 3, 64, 64)
    for both in ((network, other()), (other(), network)):
        out = Distiller(*both, {"ce": 1.0, "kd": 1.0}, example=images).train()(images, LABELS[:2])
        assert out.total.isfinite() and out.student_logits.shape == (2, 10)


def test_a_transformer_of_hugging_face_is_a_student_and_a_teacher_as_it_is() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    config = transformers.ViTConfig(**sizes, image_size=16, patch_size=4, num_labels=10)
    network = transformers.ViTForImageClassification(config)
    for both in ((network, other()), (other(), network)):
        out = Distiller(*both, LOSSES, example=IMAGES).train()(IMAGES, LABELS)
        assert out.total.isfinite() and out.student_logits.shape == (4, 10)
