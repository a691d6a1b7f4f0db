"""Gradient checkpoints inside of a network: the same losses and gradients as without, or a refusal."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from angularkd import Distiller, InputError
from angularkd.models import cifar

IMAGES, LABELS = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(4)


class Checkpointed(nn.Module):
    """A residual network whose stages run inside of checkpoints; with None for `reentrant` it has none."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.reentrant = cifar.create("resnet8", 10), reentrant

    def forward(self, images: Tensor) -> Tensor:
        net = self.net
        x = torch.relu(net.bn1(net.conv1(images)))
        for stage in (net.layer1, net.layer2, net.layer3):
            x = stage(x) if self.reentrant is None else checkpoint(stage, x, use_reentrant=self.reentrant)
        return net.linear(x.mean((2, 3)))


def other() -> nn.Module:
    torch.manual_seed(1)
    return cifar.create("resnet8", 10)


def results(losses, student: nn.Module, teacher: nn.Module | None = None) -> tuple[Tensor, list[Tensor | None]]:
    torch.manual_seed(2)
    distiller = Distiller(teacher or other(), student, losses, example=IMAGES).train()
    out = distiller(IMAGES, LABELS)
    out.total.backward()
    return out.total.detach(), [parameter.grad for parameter in student.parameters()]


@pytest.mark.parametrize(
    "losses",
    [{"amd": 10.0}, {"ce": 1.0, "amd": 10.0, "at": 1.0, "fitnet": 1.0, "pkt": 1.0}, {"ofd": 1.0}, {"vid": 1.0}],
    ids=lambda losses: ",".join(losses),
)
def test_a_student_with_checkpoints_gets_the_gradients_of_one_without(losses) -> None:
    torch.testing.assert_close(results(losses, Checkpointed(False)), results(losses, Checkpointed(None)))


def test_grad_cam_goes_through_checkpoints_of_convolutions() -> None:
    losses = {"amd": {"weight": 10.0, "attention": "gradcam"}}
    torch.testing.assert_close(results(losses, Checkpointed(False)), results(losses, Checkpointed(None)))
    found = results(losses, other(), Checkpointed(False))
    torch.testing.assert_close(found, results(losses, other(), Checkpointed(None)))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_grad_cam_of_a_frozen_network_in_reentrant_checkpoints_is_refused() -> None:
    losses = {"amd": {"weight": 10.0, "attention": "gradcam"}}
    with pytest.raises(InputError, match=r"stage net\.layer1 .* runs without gradients, which Grad-CAM needs"):
        results(losses, other(), Checkpointed(True).requires_grad_(False))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_reentrant_checkpoints_are_refused_by_name_in_training_alone() -> None:
    student = Checkpointed(True)
    with pytest.raises(InputError, match=r"module 'net\.layer1' runs without gradients.*use_reentrant=False"):
        results({"amd": 10.0}, student)
    with torch.no_grad():
        assert Distiller(other(), student, {"amd": 10.0}).eval()(IMAGES, LABELS).total.isfinite()
    results({"ce": 1.0, "amd": 10.0}, Frozen())
    results({"ce": 1.0, "amd": 10.0}, other(), Checkpointed(True))


class Frozen(nn.Module):
    """A network whose first stage is frozen and runs without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.net = other()
        for part in (self.net.conv1, self.net.bn1, self.net.layer1):
            part.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        net = self.net
        with torch.no_grad():
            x = net.layer1(torch.relu(net.bn1(net.conv1(images))))
        return net.linear(net.layer3(net.layer2(x)).mean((2, 3)))


def transformer(checkpoints: bool) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 4, "depth": 3, "embed_dim": 24, "num_heads": 3}
    network = timm.create_model("vit_tiny_patch16_224", num_classes=10, attn_drop_rate=0.1, proj_drop_rate=0.1, **sizes)
    network.set_grad_checkpointing(checkpoints)
    return network


@pytest.mark.parametrize("attention", ["token_norm", "class_token", "rollout"])
def test_transformers_with_checkpoints(attention) -> None:
    losses = {"ce": 1.0, "amd": {"weight": 10.0, "attention": attention}}
    found = results(losses, transformer(True), transformer(False))
    torch.testing.assert_close(found, results(losses, transformer(False), transformer(False)))


def test_grad_cam_of_attention_in_checkpoints_is_refused() -> None:
    losses = {"ce": 1.0, "amd": {"weight": 10.0, "attention": "gradcam"}}
    with pytest.raises(InputError, match="Grad-CAM needs second derivatives of attention"):
        results(losses, transformer(True), transformer(False))


class Encoder(nn.Module):
    """A transformer of PyTorch's own attention modules, in checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.token = nn.Conv2d(3, 24, 4, 4), nn.Parameter(torch.zeros(1, 1, 24))
        block = [nn.TransformerEncoderLayer(24, 3, 48, batch_first=True) for _ in range(2)]
        self.blocks, self.head = nn.ModuleList(block), nn.Linear(24, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return self.head(x[:, 0])


def test_attention_modules_in_checkpoints_are_refused() -> None:
    losses = {"ce": 1.0, "amd": {"weight": 10.0, "attention": "class_token"}}
    with pytest.raises(InputError, match=r"nn\.MultiheadAttention inside of a gradient checkpoint"):
        results(losses, Encoder(), transformer(False))
