"""Which share of the first gradient a loss gets whose weight is `auto`."""

from __future__ import annotations

import pytest
import torch
from timm.models import VisionTransformer
from torch import Tensor, nn

from angularkd import Distiller
from angularkd.models import cifar

IMAGES = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 4


def share_of_amd(student: nn.Module, weight: object, images: Tensor = IMAGES) -> float:
    """Return AMD's part of the sum of gradient norms once its weight is found."""
    distiller = Distiller(cifar.create("resnet8", 4), student, losses={"ce": 1.0, "amd": weight}, example=images)
    distiller.resolve_weights([distiller.gradient_norms(images, LABELS)])
    norms = distiller.gradient_norms(images, LABELS)
    return norms["amd"] / sum(norms.values())


def transformer() -> nn.Module:
    """Return a transformer of four blocks on 8 x 8 patches."""
    return VisionTransformer(img_size=32, patch_size=4, embed_dim=24, depth=4, num_heads=2, num_classes=4)


@pytest.mark.parametrize(
    ("weight", "share"),
    [("auto", 0.9), ({"weight": "auto", "share": 0.3}, 0.3)],
    ids=["its own", "as asked"],
)
def test_convolutional_students_get_the_share_of_the_loss_or_the_one_asked_for(weight: object, share: float) -> None:
    assert share_of_amd(cifar.create("resnet8", 4), weight) == pytest.approx(share, rel=1e-3)


def test_tokens_get_half_unless_asked_otherwise() -> None:
    assert share_of_amd(transformer(), "auto") == pytest.approx(0.5, rel=1e-3)
    assert share_of_amd(transformer(), {"weight": "auto", "share": 0.9}) == pytest.approx(0.9, rel=1e-3)


def test_maps_of_8x8_at_most_get_half_unless_asked_otherwise() -> None:
    assert share_of_amd(cifar.create("resnet8", 4), "auto", IMAGES[..., :8, :8]) == pytest.approx(0.5, rel=1e-3)
    asked = share_of_amd(cifar.create("resnet8", 4), {"weight": "auto", "share": 0.9}, IMAGES[..., :8, :8])
    assert asked == pytest.approx(0.9, rel=1e-3)
