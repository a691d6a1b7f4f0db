"""Attention mechanisms against slow loops, and through the distiller on convolutional networks and transformers."""

from __future__ import annotations

import copy
import math

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from angularkd import AMDLoss, Distiller, InputError
from angularkd.features import (
    ATTENTIONS,
    ClassToken,
    FeatureExtractor,
    GradCAM,
    MaxMap,
    PowerMap,
    TokenNorm,
    mechanism,
    to_map,
    with_class_maps,
)
from angularkd.models import cifar
from traced import named_stages, stages_of


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def vit(depth: int = 4, **options: object) -> nn.Module:
    torch.manual_seed(0)
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": depth, "num_heads": 3, "num_classes": 10}
    return timm.models.VisionTransformer(**{**shape, **options}).eval()


def heavy_attention(model: nn.Module) -> nn.Module:
    """Fresh weights attend to all tokens alike; larger ones do not."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "qkv.weight" in name or "in_proj_weight" in name:
                parameter.mul_(30)
    return model


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_maps_of_features_equal_slow_loops(power) -> None:
    stage = features(2, 3, 4, 5)
    for b, y, x in ((0, 0, 0), (1, 3, 4), (0, 2, 1)):
        powers = [abs(channel[y][x]) ** power for channel in stage[b].tolist()]
        assert PowerMap(power)(stage)[b, y, x].item() == pytest.approx(sum(powers))
        assert MaxMap(power)(stage)[b, y, x].item() == pytest.approx(max(powers))
        assert TokenNorm(power)(stage)[b, y, x].item() == pytest.approx(sum(powers) ** (1 / power))


@pytest.mark.parametrize("build", [PowerMap, MaxMap, TokenNorm])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_maps_are_wide_and_their_gradients_finite_at_zero(build, dtype) -> None:
    stage = torch.zeros(2, 3, 4, 4, dtype=dtype)
    stage[0] = 300
    stage.requires_grad_()
    maps = build()(stage)
    assert maps.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    maps.sum().backward()
    assert maps.isfinite().all() and stage.grad.isfinite().all()
    assert torch.autograd.gradcheck(build(3.0), (features(2, 3, 2, 3).requires_grad_(),))


def test_several_powers_are_the_mean_of_their_losses() -> None:
    student, teacher = features(3, 4, 6, 6, seed=1), features(3, 5, 6, 6, seed=2)
    together = AMDLoss(power=[1, 2, 4])([student], [teacher])
    apart = [AMDLoss(power=p)([student], [teacher]) for p in (1, 2, 4)]
    torch.testing.assert_close(together, sum(apart) / 3)
    assert hash(mechanism("power", [1, 2])) == hash(mechanism("power", [1.0, 2.0]))


def test_grad_cam_equals_gradients_by_finite_differences() -> None:
    """The classifier is linear in the stage, so that differences are exact; the score is that of the label's class."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stage = nn.Conv2d(3, 4, 3, padding=1)
            self.head = nn.Linear(4 * 36, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.stage(x).flatten(1))

    torch.manual_seed(0)
    model = Linear().double()
    images, labels = torch.rand(2, 3, 6, 6, dtype=torch.float64), torch.tensor([3, 1])
    stages = stages_of(model, images)
    with FeatureExtractor(model, stages, (GradCAM(), GradCAM("teacher"))) as extractor:
        output, teacher_logits = extractor(images), torch.eye(5, dtype=torch.float64)[[0, 4]]
        reductions = extractor.reductions
        maps = with_class_maps(output, stages, reductions, labels, teacher_logits, create_graph=False).features
    stage = model.stage(images)
    for of, classes in (("label", [3, 1]), ("teacher", [0, 4])):
        for b, y in enumerate(classes):
            weights = model.head.weight[y].view(4, 36).mean(1)
            expected = (weights[:, None, None] * stage[b]).sum(0).clamp(min=0)
            torch.testing.assert_close(maps[GradCAM(of)][0][b], expected.detach())
    assert not maps[GradCAM()][0].requires_grad


def test_a_frozen_model_that_overwrites_its_features_has_grad_cam_too() -> None:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Flatten(),
        nn.Linear(256, 3),
    ]
    model = nn.Sequential(*layers).requires_grad_(False)
    images = torch.rand(2, 3, 8, 8)
    stages, reductions = named_stages(model, ["0"], images), (GradCAM("teacher"),)
    with FeatureExtractor(model, stages, reductions) as extractor, torch.no_grad():
        output = extractor(images)
        maps = with_class_maps(output, stages, reductions, None, output.logits.detach(), create_graph=False)
    assert maps.features[GradCAM("teacher")][0].sum() > 0 and not images.requires_grad


def test_grad_cam_of_soft_labels_mixes_the_classes_scores() -> None:
    logits = torch.randn(2, 4)
    soft = torch.tensor([[0.25, 0.75, 0, 0], [0, 0, 0, 1.0]])
    assert torch.equal(GradCAM().class_weights(logits, soft, logits), soft)
    assert torch.equal(GradCAM().class_weights(logits, torch.tensor([1, 3]), logits)[1], torch.tensor([0, 0, 0, 1]))


def test_the_student_learns_through_its_grad_cam() -> None:
    """The gradient of a loss on Grad-CAM maps, itself made of gradients, against central differences."""
    torch.manual_seed(0)
    teacher, student = (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 4, 3, padding=1), nn.Tanh(),
                                      nn.Flatten(), nn.Linear(4 * 64, 3)).double() for _ in range(2))  # fmt: skip
    images, labels = torch.rand(2, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 2])
    losses = {"amd": {"weight": 100.0, "attention": "gradcam", "scale": 4.0}}
    distiller = Distiller(teacher, student, losses, pairs="1:1", example=images)
    distiller(images, labels).total.backward()
    weight = student[0].weight
    gradient, step = weight.grad[1, 2, 0, 1].item(), 1e-5
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[1, 2, 0, 1] += sign * step
            values.append(distiller(images, labels).total.item())
            weight[1, 2, 0, 1] -= sign * step
    assert gradient == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)
    assert abs(gradient) > 1e-8
    assert all(parameter.grad is None for parameter in teacher.parameters())


def slow_class_attention(block: nn.Module, tokens: Tensor, patches: int) -> Tensor:
    """[batch, tokens, tokens] from a timm block's weights, head by head."""
    attention = block.attn
    qkv = attention.qkv(block.norm1(tokens))
    batch, number, width = tokens.shape
    heads = attention.num_heads
    total = torch.zeros(batch, number, number)
    for head in range(heads):
        size = width // heads
        q = qkv[:, :, head * size : (head + 1) * size]
        k = qkv[:, :, width + head * size : width + (head + 1) * size]
        total += torch.stack([(q[b] @ k[b].T / math.sqrt(size)).softmax(dim=-1) for b in range(batch)])
    return total / heads


def test_class_token_attention_and_rollout_equal_slow_loops() -> None:
    model = heavy_attention(vit(depth=4))
    images = torch.rand(2, 3, 32, 32)
    given: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _m, inputs: given.append(inputs[0].detach()))
    stages = named_stages(model, [f"blocks.{i}" for i in range(4)], images)
    given.clear()
    with FeatureExtractor(model, stages, (ClassToken(), ClassToken(rollout=True))) as extractor, torch.no_grad():
        output = extractor(images)
        rolled = torch.eye(17).expand(2, 17, 17)
        for i, (block, tokens) in enumerate(zip(model.blocks, given, strict=True)):
            attention = slow_class_attention(block, tokens, 16)
            rolled = (attention + torch.eye(17)) / 2 @ rolled
            torch.testing.assert_close(output.features[ClassToken()][i].flatten(1), attention[:, 0, 1:])
            torch.testing.assert_close(output.features[ClassToken(rollout=True)][i].flatten(1), rolled[:, 0, 1:])
            assert attention[:, 0, 1:].std() > 0.01


def test_attention_is_read_where_it_is_computed_by_hand() -> None:
    images = torch.rand(2, 3, 32, 32)
    fused, by_hand = heavy_attention(vit()), heavy_attention(vit())
    for block in by_hand.blocks:
        block.attn.fused_attn = False
    maps = [class_maps(model, [f"blocks.{i}" for i in range(4)], images) for model in (fused, by_hand)]
    for reduction in maps[0]:
        torch.testing.assert_close(maps[0][reduction], maps[1][reduction])


def test_attention_is_read_in_pytorchs_own_module() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 32)
    model = torchvision.models.VisionTransformer(32, 8, 2, 3, 24, 48, num_classes=10).eval()
    paths = [f"encoder.layers.encoder_layer_{i}" for i in range(2)]
    given: list[Tensor] = []
    for path in paths:
        attention = model.get_submodule(path).self_attention
        attention.in_proj_weight.data.mul_(3)
        attention.register_forward_pre_hook(lambda _m, inputs: given.append(inputs[0]))
    with torch.no_grad():
        model(images)
        weights = [
            model.get_submodule(path).self_attention(x, x, x)[1] for path, x in zip(paths, list(given), strict=True)
        ]
    maps = class_maps(model, paths, images)
    rolled = torch.eye(17)
    for i, attention in enumerate(weights):
        rolled = (attention + torch.eye(17)) / 2 @ rolled
        torch.testing.assert_close(maps[ClassToken()][i].flatten(1), attention[:, 0, 1:])
        torch.testing.assert_close(maps[ClassToken(rollout=True)][i].flatten(1), rolled[:, 0, 1:])


def class_maps(model: nn.Module, paths: list[str], images: Tensor) -> dict:
    stages = named_stages(model, paths, images)
    with FeatureExtractor(model, stages, (ClassToken(), ClassToken(rollout=True))) as extractor, torch.no_grad():
        output = extractor(images)
        torch.testing.assert_close(output.logits, model(images))
    return dict(output.features)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_every_mechanism_teaches_through_the_distiller(name) -> None:
    images, labels = torch.rand(3, 3, 32, 32), torch.tensor([1, 2, 3])
    transformers = name in ("class_token", "rollout")
    torch.manual_seed(1)
    teacher = heavy_attention(vit(embed_dim=36)) if transformers else cifar.create("resnet14", 10)
    student = vit(depth=2) if transformers else cifar.create("resnet8", 10)
    losses = {"amd": {"weight": 1.0, "attention": name}, "at": {"weight": 1.0, "attention": name}}
    blocks = [f"blocks.{i}" for i in (0, 1)]
    pairs = ",".join(f"{block}:{block}" for block in blocks) if transformers else None
    distiller = Distiller(teacher, student.train(), losses, pairs=pairs, example=images)
    assert len(distiller.losses.reductions) == 1
    out = distiller(images, labels)
    out.total.backward()
    first = next(parameter for parameter in student.parameters() if parameter.grad is not None)
    assert first.grad.isfinite().all() and first.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())
    same = Distiller(copy.deepcopy(teacher), teacher, losses, pairs=pairs, example=images).eval()
    assert same(images, labels).total.item() == pytest.approx(0.0, abs=1e-12)


def test_a_transformer_learns_through_its_grad_cam() -> None:
    torch.manual_seed(0)
    losses = {"amd": {"weight": 100.0, "attention": "gradcam"}}
    student = vit().train()
    distiller = Distiller(
        vit(embed_dim=36), student, losses, pairs="blocks.1:blocks.1", example=torch.rand(1, 3, 32, 32)
    )
    distiller(torch.rand(2, 3, 32, 32), torch.tensor([1, 2])).total.backward()
    gradient = student.blocks[0].attn.qkv.weight.grad
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


def test_grad_cam_of_a_stage_beside_the_logits_is_refused_by_name() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.side, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 3)

        def forward(self, images: Tensor) -> Tensor:
            features = self.stem(images)
            self.side(features)
            return self.head(features.mean((2, 3)))

    losses = {"amd": {"weight": 1.0, "attention": "gradcam"}}
    distiller = Distiller(Beside(), Beside(), losses, pairs="side:side")
    with pytest.raises(InputError, match="do not depend on stage side"):
        distiller(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))


def test_attention_is_not_read_outside_of_a_forward_and_after_an_error() -> None:
    model = vit()
    stages = named_stages(model, ["blocks.1"], torch.rand(1, 3, 32, 32))
    with FeatureExtractor(model, stages, (ClassToken(),)) as extractor:
        with pytest.raises((RuntimeError, AssertionError)):
            extractor(torch.rand(1, 3, 48, 48))
        assert not torch.overrides._get_current_function_mode_stack()
        assert extractor(torch.rand(1, 3, 32, 32)).features


@pytest.mark.parametrize("model", ["resnet", "no class token"])
def test_a_model_without_a_class_token_is_refused_with_the_stage(model) -> None:
    made = cifar.create("resnet8", 10) if model == "resnet" else vit(class_token=False, global_pool="avg")
    losses = {"amd": {"weight": 1.0, "attention": "class_token"}}
    distiller = Distiller(copy.deepcopy(made), made, losses, example=torch.rand(1, 3, 32, 32))
    with pytest.raises(InputError, match=r"stage \S+ \[.* use attention=token_norm"):
        distiller(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "gradcma"}, "no attention 'gradcma'.*'gradcam'"),
        ({"attention": "rollout", "power": 3.0}, "takes no power"),
        ({"power": []}, "power holds no number"),
        ({"power": [2, 0.5]}, "power must be at least 1"),
    ],
)
def test_mechanisms_that_are_not_are_named(options, message) -> None:
    with pytest.raises(InputError, match=message):
        AMDLoss(**options)


def test_features_cannot_stand_for_what_a_mechanism_needs_beside_them() -> None:
    with pytest.raises(InputError, match="let a Distiller compute it"):
        to_map(features(1, 2, 3, 3), GradCAM())
    student, teacher = features(2, 4, 4), features(2, 4, 4, seed=1)
    assert AMDLoss(attention="gradcam")([student.abs()], [teacher.abs()]) > 0
