"""Teachers without a classification layer, and students with two: what the distiller compares then."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd import Distiller, InputError
from angularkd.distillation import About, CachedTeacher, LiveTeacher
from angularkd.features import embedding_of, trace
from angularkd.losses import LOSSES
from angularkd.models import cifar
from helpers import same

IMAGES = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS, INDICES = torch.arange(6), torch.arange(6)
EMBEDDING_LOSSES = ("embedding", "srd", "cc", "pkt", "rkd", "crd")


class Headless(nn.Module):
    """A network without a classification layer: it gives its pooled features, 24 an image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 24, 3, 4, 1), nn.BatchNorm2d(24), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images).mean(dim=(2, 3))


def student() -> nn.Module:
    torch.manual_seed(0)
    return cifar.create("resnet8", 10)


def headless() -> nn.Module:
    torch.manual_seed(1)
    return Headless()


@pytest.mark.parametrize("name", EMBEDDING_LOSSES)
def test_a_teacher_without_a_head_teaches_by_its_output(name: str) -> None:
    assert not any("head_weight" in LOSSES[each].built_for for each in EMBEDDING_LOSSES)
    teacher = headless()
    options = {"num_negatives": 20} if name == "crd" else {}
    losses = {"ce": 1.0, name: {"weight": 1.0, **options}}
    distiller = Distiller(teacher, student(), losses, example=IMAGES, train_labels=torch.arange(30) % 10)
    optimizer = torch.optim.Adam(distiller.parameters(), lr=2e-3)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    totals = []
    for _ in range(8):
        out = distiller(IMAGES, LABELS, INDICES)
        out.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        totals.append(out.total.item())
    assert totals[-1] < totals[0]
    assert same(teacher.state_dict(), before)


def test_the_embedding_of_a_teacher_without_a_head_is_what_it_gives() -> None:
    teacher, pupil = headless(), student()
    distiller = Distiller(
        teacher,
        pupil,
        {"embedding": {"weight": 1.0, "distance": "mse"}},
        example=IMAGES,
        teacher_transform=lambda x: 2 * x,
    ).eval()
    seen: list[Tensor] = []
    pupil.linear.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    value = distiller(IMAGES).total
    projected = distiller.losses.losses["embedding"].projector(seen[-1])
    torch.testing.assert_close(value, F.mse_loss(projected, teacher.eval()(2 * IMAGES)))


def test_a_head_is_no_convolution_whose_output_is_not_the_models() -> None:
    """At 32 pixels every convolution of the last stage gives a 1x1 map of as many channels as the network gives numbers."""
    for name in ("resnet10t", "resnet26"):
        model = timm.create_model(name, num_classes=0).eval()
        found = trace(model, IMAGES)
        assert found.head is None and embedding_of(found, model).dim == found.output_shape[1]
        distiller = Distiller(model, student(), {"embedding": 1.0}, example=IMAGES).eval()
        assert torch.equal(distiller.teacher(IMAGES).embedding, model(IMAGES))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit3_small_patch16_224"])
def test_transformers_without_a_head(name: str) -> None:
    model = timm.create_model(name, num_classes=0, img_size=32, depth=1).eval()
    distiller = Distiller(model, student(), {"ce": 1.0, "embedding": 1.0}, example=IMAGES).train()
    assert torch.equal(distiller.teacher(IMAGES).embedding, model(IMAGES))
    assert distiller(IMAGES, LABELS).total.isfinite()


def test_a_convolution_may_be_the_head() -> None:
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 10, 1), nn.Flatten()
    )
    assert trace(body, IMAGES).head.path == "3"


def test_a_cache_stores_the_embedding_of_a_teacher_without_a_head(tmp_path: Path) -> None:
    live = LiveTeacher(headless())
    about = About("teacher", "none", "32-true", "data", {"ops": []}, samples=6, views_count=1)
    cached = CachedTeacher(live, tmp_path, about)
    distiller = Distiller(cached, student(), {"embedding": 1.0}, example=IMAGES).train()
    cold, warm = (distiller(IMAGES, None, INDICES, 0).total for _ in range(2))
    torch.testing.assert_close(cold, distiller(IMAGES).total, rtol=1e-2, atol=1e-3)
    assert not cached.cache.missing(0, INDICES).any() and warm.isfinite()


def test_losses_that_need_classes_of_the_teacher_say_so() -> None:
    with pytest.raises(InputError, match=r"the teacher gives logits \[6, 24\], the student \[6, 10\]"):
        Distiller(headless(), student(), {"kd": 1.0})(IMAGES, LABELS)
    for name, message in (("srrl", "got None: give the weight"), ("wkd", "got None: WKD takes the cost")):
        with pytest.raises(InputError, match=message):
            Distiller(headless(), student(), {name: 1.0}, example=IMAGES)


def test_a_teacher_that_gives_a_map_has_no_embedding() -> None:
    with pytest.raises(InputError, match=r"gives \[2, 24, 8, 8\] for a batch of 2 images, not an embedding"):
        Distiller(headless().body, student(), {"embedding": 1.0}, example=IMAGES)


def test_wkd_takes_its_costs_from_the_teachers_head_and_needs_none_of_the_student() -> None:
    teacher = cifar.create("resnet14", 10)
    pupil = nn.Sequential(student(), nn.LogSoftmax(dim=1))
    distiller = Distiller(teacher, pupil, {"wkd": 1.0}, example=IMAGES)
    directions = F.normalize(teacher.linear.weight.detach(), dim=1)
    torch.testing.assert_close(
        distiller.losses.losses["wkd"].cost, 1 - (directions @ directions.mT - 1).exp(), atol=1e-6, rtol=0
    )
    distiller(IMAGES, LABELS).total.backward()
    assert pupil[0].conv1.weight.grad.abs().sum() > 0


# Students with a distillation head


def distilled() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(
        "deit_tiny_distilled_patch16_224", num_classes=10, img_size=32, depth=1, embed_dim=24, num_heads=3
    )


def test_the_token_learns_from_the_teacher_and_the_class_head_from_the_labels() -> None:
    teacher, pupil = cifar.create("resnet8", 10), distilled()
    distiller = Distiller(teacher, pupil, {"ce": 0.5, "token": 0.5}).train()
    out = distiller(IMAGES, LABELS)
    first, second = pupil(IMAGES)
    assert torch.equal(out.student_logits, first)
    torch.testing.assert_close(out.terms["ce"], 0.5 * F.cross_entropy(first, LABELS))
    torch.testing.assert_close(out.terms["token"], 0.5 * F.cross_entropy(second, teacher(IMAGES).argmax(dim=1)))
    out.terms["token"].backward(retain_graph=True)
    assert pupil.head_dist.weight.grad.abs().sum() > 0 and pupil.head.weight.grad is None
    out.terms["ce"].backward()
    assert pupil.head.weight.grad.abs().sum() > 0


def test_in_evaluation_the_mean_of_both_heads_stands_for_each() -> None:
    teacher, pupil = cifar.create("resnet8", 10), distilled()
    out = Distiller(teacher, pupil, {"ce": 1.0, "token": 1.0}).eval()(IMAGES, LABELS)
    torch.testing.assert_close(out.student_logits, pupil.eval()(IMAGES))
    torch.testing.assert_close(out.terms["token"], F.cross_entropy(out.student_logits, teacher(IMAGES).argmax(dim=1)))


def test_without_a_loss_for_it_a_distillation_head_is_left_alone() -> None:
    pupil = distilled()
    out = Distiller(None, pupil, {"ce": 1.0}).train()(IMAGES, LABELS)
    torch.testing.assert_close(out.student_logits, pupil(IMAGES))
    pupil.set_distilled_training(True)
    assert torch.equal(Distiller(None, pupil, {"ce": 1.0}).train()(IMAGES, LABELS).student_logits, pupil(IMAGES)[0])


def test_a_student_without_a_second_head_is_refused() -> None:
    distiller = Distiller(cifar.create("resnet8", 10), student(), {"ce": 1.0, "token": 1.0}).train()
    with pytest.raises(InputError, match="use a student with two heads"):
        distiller(IMAGES, LABELS)


def test_a_pair_of_unequal_matrices_is_refused() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = cifar.create("resnet8", 10)

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return self.body(images), images.flatten(1)

    with pytest.raises(InputError, match="the model gives a tuple, not logits"):
        Distiller(None, Pair(), {"ce": 1.0})(IMAGES, LABELS)


def test_losses_are_given_the_epoch() -> None:
    distiller = Distiller(cifar.create("resnet8", 10), student(), {"ce": 1.0, "ctkd": 1.0})
    distiller.set_epoch(5.0, 20.0)
    assert distiller.losses.losses["ctkd"].reversal.item() == pytest.approx(0.5)
    assert any(parameter is distiller.losses.losses["ctkd"].theta for parameter in distiller.parameters())
