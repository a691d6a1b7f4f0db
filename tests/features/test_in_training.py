"""What a network does in training alone, where it was traced in evaluation: overwriting, and other sizes."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd import Distiller, InputError
from angularkd.features import FeatureExtractor, GradCAM, PowerMap, trace
from angularkd.features.stages import stages_at
from angularkd.models import ClassMapping, Preprocessing, cifar
from angularkd.models.classifier import predict

IMAGES, LABELS = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(4)

CHANGES = {
    "dropout2d": lambda x, inplace: F.dropout2d(x, 0.5, True, inplace),
    "dropout": lambda x, inplace: F.dropout(x, 0.5, True, inplace),
    "alpha": lambda x, inplace: F.alpha_dropout(x, 0.5, True, inplace),
    "rrelu": lambda x, inplace: F.rrelu(x, training=True, inplace=inplace),
    "relu": lambda x, inplace: x.relu_() if inplace else x.relu(),
    "noise": lambda x, inplace: x.add_(1.0) if inplace else x + 1.0,
}


class Changing(nn.Module):
    """Ends its stages in batch normalisation, which `change` overwrites in training, or does not."""

    def __init__(self, change: str | None, inplace: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8))
        self.two = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8))
        self.head, self.change, self.inplace = nn.Linear(8, 10), change, inplace

    def _changed(self, x: Tensor) -> Tensor:
        return CHANGES[self.change](x, self.inplace) if self.training and self.change is not None else x

    def forward(self, images: Tensor) -> Tensor:
        x = self._changed(self.two(self._changed(self.one(images)).tanh())).tanh()
        return self.head(self._changed(x.mean((2, 3), keepdim=True)).flatten(1))


def steps(student: nn.Module, loss: str, count: int = 2) -> list[tuple[Tensor, Tensor, Tensor]]:
    torch.manual_seed(1)
    teacher = Changing(None, False)
    nn.init.normal_(teacher.one[0].weight, std=0.3)
    distiller = Distiller(teacher, student, {loss: 1.0}, pairs="one:one,two:two", example=IMAGES).train()
    found = []
    for _ in range(count):
        student.zero_grad()
        out = distiller(IMAGES, LABELS)
        out.total.backward()
        found.append((out.total.detach(), student.one[0].weight.grad.clone(), torch.rand(1)))
    return [*found, list(student.buffers())]


@pytest.mark.parametrize("loss", ["fitnet", "hcl", "ab", "fsp", "sp", "at", "amd", "ofd", "pkt"])
def test_a_dropout_in_place_behind_a_stage_changes_no_loss(loss) -> None:
    found, expected = (steps(Changing("dropout2d", inplace), loss) for inplace in (True, False))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("change", CHANGES)
def test_nor_does_anything_else_in_place(change) -> None:
    for loss in ("hcl", "ofd"):
        found, expected = (steps(Changing(change, inplace), loss) for inplace in (True, False))
        torch.testing.assert_close(found, expected)


class SometimesInPlace(Changing):
    """Overwrites from its second forward in training on."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        self.inplace = self.training or self.inplace
        return logits


def test_overwriting_that_begins_later_is_refused() -> None:
    student = SometimesInPlace("dropout2d", False)
    with pytest.raises(InputError, match="'one' was changed in place in this forward, unlike in the first one"):
        steps(student, "hcl")


class ActivatingInPlace(nn.Module):
    """Calls an activation function that works in place in training alone, whose input no module shows."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.inplace = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 10), inplace
        self.block = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.conv(images) - 0.1, inplace=self.inplace and self.training)
        return self.head(self.block(x).mean((2, 3)))


def test_an_activation_in_place_in_training_is_read_before_it_works() -> None:
    totals = []
    for inplace in (True, False):
        student = ActivatingInPlace(inplace)
        distiller = Distiller(ActivatingInPlace(False), student, {"ab": 1.0}, pairs="block:block", example=IMAGES)
        torch.manual_seed(3)
        totals.append([distiller.train()(IMAGES + 0.1, LABELS).total.detach() for _ in range(2)])
    torch.testing.assert_close(*totals)


def test_tokens_of_images_of_another_size_are_refused() -> None:
    def network() -> nn.Module:
        sizes = {"img_size": 32, "patch_size": 4, "depth": 2, "embed_dim": 24, "num_heads": 3}
        return timm.create_model("vit_tiny_patch16_224", num_classes=10, dynamic_img_size=True, **sizes)

    distiller = Distiller(network(), network(), {"amd": 1.0}, example=torch.rand(1, 3, 32, 32)).train()
    assert distiller(torch.rand(2, 3, 32, 32)).total.isfinite()
    with pytest.raises(
        InputError, match=r"stage blocks\.0 \[24, 8, 8\] gives 257 tokens, and gave 65 when it was paired"
    ):
        distiller(torch.rand(2, 3, 64, 64))
    losses = {"amd": {"weight": 1.0, "attention": "class_token"}}
    distiller = Distiller(network(), network(), losses, example=torch.rand(1, 3, 32, 32)).train()
    with pytest.raises(InputError, match="gives 257 tokens"):
        distiller(torch.rand(2, 3, 64, 64))


def test_maps_without_positions_or_channels_are_no_stages() -> None:
    class Empty(nn.Module):
        def __init__(self, *shape: int) -> None:
            super().__init__()
            self.conv, self.empty, self.shape = nn.Conv2d(3, 4, 3), nn.Identity(), shape

        def forward(self, images: Tensor) -> Tensor:
            self.empty(torch.zeros(self.shape))
            return self.conv(images).mean((2, 3))

    for shape in ((2, 3, 0, 0), (2, 0, 4, 4), (2, 5, 0), (2, 0, 5)):
        assert [each.stage.path for each in trace(Empty(*shape), IMAGES).maps] == ["conv"]


# Inference mode


def test_constants_that_inference_mode_makes_serve_training_too() -> None:
    preprocessing, mapping = Preprocessing((0.51, 0.41, 0.31), (0.21, 0.31, 0.41)), ClassMapping(((3,), (0, 2), (1,)))
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    with torch.inference_mode():
        predict(model, IMAGES, preprocessing, mapping)
    images = IMAGES.clone().requires_grad_()
    predict(model, images, preprocessing, mapping).sum().backward()
    assert images.grad.abs().sum() > 0


def test_grad_cam_in_inference_mode_is_that_outside_of_it() -> None:
    torch.manual_seed(0)
    losses = {"ce": 1.0, "amd": {"weight": 10.0, "attention": "gradcam"}}
    distiller = Distiller(cifar.create("resnet14", 10), cifar.create("resnet8", 10), losses).eval()
    for frozen in (False, True):
        distiller.teacher.module.requires_grad_(not frozen)
        for labels in (LABELS, F.one_hot(LABELS, 10).float()):
            with torch.inference_mode():
                found = distiller(IMAGES.clone(), labels.clone()).terms
            with torch.no_grad():
                expected = distiller(IMAGES, labels).terms
            torch.testing.assert_close(found, expected)
            assert not found["amd"].requires_grad
    distiller.train()(IMAGES, LABELS).total.backward()


def test_an_extractor_of_class_maps_runs_in_inference_mode() -> None:
    model = cifar.create("resnet8", 10).eval()
    stages = stages_at(model, ["layer2"], trace(model, IMAGES))
    with FeatureExtractor(model, stages, (GradCAM(), PowerMap())) as extractor, torch.inference_mode():
        assert extractor(IMAGES.clone()).stage_outputs[0].requires_grad
