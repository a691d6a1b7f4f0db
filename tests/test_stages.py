"""Stages of many kinds of networks by one dry forward."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from angularkd import InputError
from angularkd.features import FeatureExtractor
from angularkd.models import cifar
from angularkd.stages import Head, dry_run, find_head, find_stages, stages_at


class Bottleneck(nn.Module):
    """Halves the resolution in its middle, as torchvision's ResNets do: the first layers inside still see the old size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels, 1)
        self.stride = nn.Conv2d(channels, channels * 2, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.stride(self.reduce(x))


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Bottleneck(4), Bottleneck(8))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.body(x)).flatten(1))


class Transformer(nn.Module):
    """A vision transformer with a class token and two register tokens."""

    def __init__(self, blocks: int = 6) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.prefix = nn.Parameter(torch.zeros(1, 3, 8))
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(blocks))
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.prefix.expand(len(x), -1, -1), tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens[:, 0])


class ChannelsLast(nn.Module):
    """Features laid out [B, H, W, C], as in torchvision's Swin transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 8)
        self.down = nn.Linear(8, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.permute(0, 2, 3, 1))
        return self.head(self.down(x[:, ::2, ::2]).mean(dim=(1, 2)))


def images(height: int = 32, width: int = 32) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "paths", "shapes"),
    [
        ("resnet20", ["layer1", "layer2", "layer3"], [(16, 32, 32), (32, 16, 16), (64, 8, 8)]),
        ("resnet8x4", ["layer1", "layer2", "layer3"], [(64, 32, 32), (128, 16, 16), (256, 8, 8)]),
        ("wrn_16_2", ["block1", "block2", "block3"], [(32, 32, 32), (64, 16, 16), (128, 8, 8)]),
    ],
)
def test_stages_of_cifar_networks(name, paths, shapes) -> None:
    stages = find_stages(cifar.create(name, 10), images())
    assert [stage.path for stage in stages] == paths
    assert [(s.channels, s.height, s.width) for s in stages] == shapes
    assert [stage.stride for stage in stages] == [1, 2, 4]


def test_every_cifar_network_has_three_or_more_stages() -> None:
    for name in cifar.names():
        if "wrn_28" in name or "wrn_40" in name or "110" in name:
            continue  # as their smaller sisters
        stages = find_stages(cifar.create(name, 10), images())
        assert len(stages) >= 3, name
        assert [s.stride for s in stages] == sorted({s.stride for s in stages}), name


def test_the_last_shallow_output_before_the_resolution_changes_is_the_stage() -> None:
    stages = find_stages(Nested(), images())
    assert [(s.path, s.stride) for s in stages] == [("body.0", 1), ("body.1", 2), ("body", 4)]


def test_a_transformer_is_sampled_at_evenly_spaced_blocks_without_its_extra_tokens() -> None:
    model = Transformer()
    stages = find_stages(model, images(32, 48), blocks=3)
    assert [stage.path for stage in stages] == ["blocks.1", "blocks.3", "blocks.5"]
    assert all((s.layout, s.height, s.width) == ("tokens", 8, 12) for s in stages)
    seen: list[Tensor] = []
    model.blocks[5].register_forward_hook(lambda _m, _i, output: seen.append(output))
    with FeatureExtractor(model.eval(), stages) as extractor:
        features = extractor(images(32, 48)).features
    row, column = 3, 7
    assert torch.equal(features[None][2][:, :, row, column], seen[0][:, 3 + row * 12 + column])


@pytest.mark.parametrize(
    ("name", "paths", "shapes"),
    [
        ("resnet50", ["relu", "layer1", "layer2", "layer3", "layer4"], [(64, 32, 32), (256, 16, 16), (512, 8, 8)]),
        ("swin_t", ["features.1", "features.3", "features.5", "features"], [(96, 16, 16), (192, 8, 8), (384, 4, 4)]),
        ("vit_b_32", [f"encoder.layers.encoder_layer_{i}" for i in (2, 5, 8, 11)], [(768, 7, 7)] * 4),
    ],
)
def test_stages_of_torchvisions_networks(name, paths, shapes) -> None:
    size = 224 if name == "vit_b_32" else 64
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
        stages = find_stages(model, torch.zeros(1, 3, size, size))
    assert [stage.path for stage in stages] == paths
    assert [stage.shape for stage in stages][: len(shapes)] == shapes


def test_channels_last_features_become_maps() -> None:
    model = ChannelsLast()
    stages = find_stages(model, images(32, 48))
    assert [(s.path, s.layout, s.channels, s.height, s.width) for s in stages] == [
        ("stem", "channels_last", 8, 32, 48),
        ("down", "channels_last", 16, 16, 24),
    ]
    with FeatureExtractor(model, stages) as extractor:
        features = extractor(images(32, 48)).features
    assert features[None][1].shape == (2, 16, 16, 24)


def test_maps_of_one_position_are_no_stages() -> None:
    stages = find_stages(cifar.create("resnet20", 10), images(4, 4))
    assert [(s.height, s.width) for s in stages] == [(4, 4), (2, 2)]


def test_a_module_that_runs_twice_is_no_stage() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.conv, self.down = nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.down(self.act(self.conv(x)))).mean(dim=(2, 3))

    assert [stage.path for stage in find_stages(Shared(), images())] == ["conv", "down"]


def test_a_dry_forward_leaves_no_trace() -> None:
    model = cifar.create("resnet8", 10)
    model.train()
    model.layer1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    find_stages(model, images())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module._forward_hooks for module in model.modules())


def test_stages_at_named_modules() -> None:
    model = cifar.create("resnet8", 10)
    assert [s.path for s in stages_at(model, ["layer3", "layer1"], images())] == ["layer3", "layer1"]
    with pytest.raises(
        InputError,
        match=r"the model, a ResNet, has no module 'layer4'\. Did you mean 'layer\d'.*At its top are: conv1, bn1",
    ):
        stages_at(model, ["layer4"], images())
    with pytest.raises(InputError, match="'linear' of the model gives no single feature map"):
        stages_at(model, ["linear"], images())
    with pytest.raises(InputError, match="1x1 map"):
        stages_at(model, ["layer3"], images(4, 4))


def test_dry_run_lists_modules_in_the_order_in_which_they_finish() -> None:
    paths = [stage.path for stage in dry_run(Nested(), images())]
    assert paths.index("body.0") < paths.index("body.1.reduce") < paths.index("body.1") < paths.index("body")


def test_a_convolution_may_classify() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(5, 10, 1), nn.Flatten())
    assert find_head(model, images()) == Head("2", 5)
    with pytest.raises(InputError, match="no layer whose output is its logits"):
        find_head(nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten()), images())
