"""Stages of many kinds of networks by one dry forward."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from angularkd import InputError
from angularkd.features import FeatureExtractor, Head, PowerMap, Stage, head_of, trace
from angularkd.models import cifar
from helpers import same
from traced import named_stages, stages_of


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
    stages = stages_of(cifar.create(name, 10), images())
    assert [stage.path for stage in stages] == paths
    assert [(s.channels, s.height, s.width) for s in stages] == shapes
    assert [stage.stride for stage in stages] == [1, 2, 4]


def test_every_cifar_network_has_three_or_more_stages() -> None:
    for name in cifar.MODELS:
        if "wrn_28" in name or "wrn_40" in name or "110" in name:
            continue  # as their smaller sisters
        stages = stages_of(cifar.create(name, 10), images())
        assert len(stages) >= 3, name
        assert [s.stride for s in stages] == sorted({s.stride for s in stages}), name


def test_the_last_shallow_output_before_the_resolution_changes_is_the_stage() -> None:
    stages = stages_of(Nested(), images())
    assert [(s.path, s.stride) for s in stages] == [("body.0", 1), ("body.1", 2), ("body.2", 4)]


def test_a_transformer_is_sampled_at_evenly_spaced_blocks_without_its_extra_tokens() -> None:
    model = Transformer()
    stages = stages_of(model, images(32, 48), blocks=3)
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
        ("swin_t", ["features.1", "features.3", "features.5", "features.7"], [(96, 16, 16), (192, 8, 8), (384, 4, 4)]),
        ("vit_b_32", [f"encoder.layers.encoder_layer_{i}" for i in (2, 5, 8, 11)], [(768, 7, 7)] * 4),
    ],
)
def test_stages_of_torchvisions_networks(name, paths, shapes) -> None:
    size = 224 if name == "vit_b_32" else 64
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
        stages = stages_of(model, torch.zeros(1, 3, size, size))
    assert [stage.path for stage in stages] == paths
    assert [stage.shape for stage in stages][: len(shapes)] == shapes


def test_channels_last_features_become_maps() -> None:
    model = ChannelsLast()
    stages = stages_of(model, images(32, 48))
    assert [(s.path, s.layout, s.channels, s.height, s.width) for s in stages] == [
        ("stem", "channels_last", 8, 32, 48),
        ("down", "channels_last", 16, 16, 24),
    ]
    with FeatureExtractor(model, stages) as extractor:
        features = extractor(images(32, 48)).features
    assert features[None][1].shape == (2, 16, 16, 24)


def test_maps_of_one_position_are_no_stages() -> None:
    stages = stages_of(cifar.create("resnet20", 10), images(4, 4))
    assert [(s.height, s.width) for s in stages] == [(4, 4), (2, 2)]


def test_a_module_that_runs_twice_is_no_stage() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.conv, self.down = nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.down(self.act(self.conv(x)))).mean(dim=(2, 3))

    assert [stage.path for stage in stages_of(Shared(), images())] == ["conv", "down"]


def test_a_dry_forward_leaves_no_trace() -> None:
    model = cifar.create("resnet8", 10)
    model.train()
    model.layer1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    stages_of(model, images())
    assert same(model.state_dict(), before)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module._forward_hooks for module in model.modules())


def test_stages_at_named_modules() -> None:
    model = cifar.create("resnet8", 10)
    assert [s.path for s in named_stages(model, ["layer3", "layer1"], images())] == ["layer3", "layer1"]
    with pytest.raises(
        InputError,
        match=r"the model, a ResNet, has no module 'layer4'\. Did you mean 'layer\d'.*At its top are: conv1, bn1",
    ):
        named_stages(model, ["layer4"], images())
    with pytest.raises(InputError, match="'linear' of the model gives no single feature map"):
        named_stages(model, ["linear"], images())
    with pytest.raises(InputError, match="1x1 map"):
        named_stages(model, ["layer3"], images(4, 4))


def test_a_trace_lists_modules_in_the_order_in_which_they_finish_and_what_they_took() -> None:
    maps = trace(Nested(), images()).maps
    paths = [each.stage.path for each in maps]
    assert paths.index("body.0") < paths.index("body.1.reduce") < paths.index("body.1") < paths.index("body")
    grids = {each.stage.path: each.input_grid for each in maps}
    assert grids["body.0"] is None and grids["body.1"] == (32, 32) and grids["body.2"] == (16, 16)


def test_a_convolution_may_classify() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(5, 10, 1), nn.Flatten())
    assert head_of(trace(model, images()), model) == Head("2", 5)
    without = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten())
    with pytest.raises(InputError, match="the Sequential has no layer whose output is its logits"):
        head_of(trace(without, images()), without)


class WindowBlock(nn.Module):
    """Attends inside of 4x4 windows and across channels: its inner layers see windows and attention matrices."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.table, self.drop = nn.Linear(2, channels), nn.Dropout()
        self.qkv, self.out = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.talking_heads = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        windows = x.reshape(batch, height // 4, 4, width // 4, 4, channels).transpose(2, 3).reshape(-1, 16, channels)
        attended = self.drop((self.qkv(windows) @ windows.mT)[:, None]) @ windows[:, None]
        back = attended.reshape(batch, height // 4, width // 4, 4, 4, channels).transpose(2, 3).reshape(x.shape)
        tokens = x.flatten(1, 2)
        matrix = self.talking_heads(torch.stack([tokens.mT @ tokens, tokens.mT @ tokens], dim=1).softmax(dim=-1))
        position = self.table(torch.zeros(1, height, width, 2))
        return x + position + self.out(back + (tokens @ matrix[:, 0]).reshape(x.shape))


class Windows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 2, stride=2)
        self.stages = nn.ModuleList(
            [nn.Sequential(WindowBlock(6), WindowBlock(6)), nn.Sequential(WindowBlock(12), WindowBlock(12))]
        )
        self.down, self.norm, self.head = nn.Linear(24, 12), nn.LayerNorm(12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages[0](self.patch(x).permute(0, 2, 3, 1))
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(2, 3).flatten(3)
        return self.head(self.norm(self.stages[1](self.down(x))).mean(dim=(1, 2)))


@pytest.mark.parametrize("batch", [1, 2])
def test_windows_attention_matrices_and_position_tables_are_no_stages(batch: int) -> None:
    stages = stages_of(Windows(), images()[:batch])
    assert [(s.path, s.layout, s.shape) for s in stages] == [
        ("stages.0", "channels_last", (6, 16, 16)),
        ("stages.1", "channels_last", (12, 8, 8)),
    ]


def test_the_grid_of_tokens_is_that_of_the_patches_seen_before_them() -> None:
    model = Transformer(blocks=4)
    model.patch = nn.Conv2d(3, 8, 6, stride=6)  # 41 x 58 pixels give 6 x 9 patches, which no ratio of sides tells
    stages = stages_of(model, images(41, 58))
    assert [(s.path, s.height, s.width) for s in stages] == [(f"blocks.{i}", 6, 9) for i in range(4)]


class Patchify(nn.Module):
    """Tokens by a linear layer, no convolution: their grid is known by the image's aspect ratio alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(48, 8)
        self.blocks = nn.Sequential(*(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(4)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.embed(nn.functional.unfold(x, 4, stride=4).mT)).mean(dim=1)


def test_tokens_without_a_convolution_get_the_images_aspect_ratio() -> None:
    assert {(s.height, s.width) for s in stages_of(Patchify(), images(32, 64))} == {(8, 16)}


class Packed(nn.Module):
    """Gives its map inside of other things: behind a map of windows, in a dictionary, in a tuple."""

    def __init__(self, channels: int, pack: str) -> None:
        super().__init__()
        self.conv, self.pack = nn.Conv2d(3, channels, 3, stride=2, padding=1), pack

    def forward(self, x: Tensor) -> object:
        y = self.conv(x)
        return {"dict": {"aux": 1.0, "map": y}, "tuple": (y.flatten(0, 1), (y, y)), "list": [y]}[self.pack]


@pytest.mark.parametrize(("pack", "item"), [("dict", ("map",)), ("tuple", (1, 0)), ("list", (0,))])
def test_maps_in_dictionaries_tuples_and_lists_are_found(pack: str, item: tuple[object, ...]) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Packed(8, pack)

        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            for key in item:
                y = y[key]
            return y.mean(dim=(2, 3))

    model = Model()
    (stage,) = named_stages(model, ["body"], images())
    assert (stage.item, stage.shape) == (item, (8, 16, 16))
    assert stage.tap.find(model.body(images())).shape == (2, 8, 16, 16)


class ConvolutionalStem(nn.Module):
    """Passes through three resolutions, but works at one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*(nn.Conv2d(c, 8, 3, stride=2, padding=1) for c in (3, 8)))
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(8))
        self.last = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).mT
        for block in self.blocks:
            x = block(x)
        for block in self.last:
            x = block(torch.cat([x[:, :1], x], dim=1))[:, 1:]
        return x.mean(dim=1)


def test_a_stem_does_not_hide_that_the_resolution_is_constant() -> None:
    assert [s.path for s in stages_of(ConvolutionalStem(), images())] == [f"blocks.{i}" for i in (1, 3, 5, 7)]


def double(before: int, after: int, stride: int = 1) -> nn.Module:
    """A block of two convolutions."""
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, padding=1), nn.Conv2d(after, after, 3, padding=1))


class Pyramid(nn.Module):
    """Stages are lists of blocks that are no modules called, beside embeddings and norms that have every resolution too."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.ModuleList([double(3, 8, stride=2), double(8, 8, stride=2)])
        self.blocks = nn.ModuleList(nn.ModuleList(double(8, 8) for _ in range(2)) for _ in range(2))
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])
        self.last = nn.Conv2d(8, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        for patch, blocks, norm in zip(self.patches, self.blocks, self.norms, strict=True):
            x = patch(x)
            for block in blocks:
                x = x + block(x)
            x = norm(x)
        return self.last(x).mean(dim=(2, 3))


def test_the_family_of_blocks_goes_before_embeddings_norms_and_a_last_layer() -> None:
    assert [s.path for s in stages_of(Pyramid(), images())] == ["blocks.0.1", "blocks.1.1"]


class Stem(nn.Module):
    """Works on fine maps in a block inside of its stem, and hands the result to a layer at the top."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.ModuleList([nn.ModuleList([double(3, 4)])])
        self.after = nn.Conv2d(4, 4, 1)
        self.stages = nn.Sequential(*(double(4, 4, stride=2) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(self.after(self.stem[0][0](x))).mean(dim=(2, 3))


def test_what_the_main_family_lacks_comes_from_blocks_elsewhere_before_single_layers() -> None:
    assert [s.path for s in stages_of(Stem(), images())] == ["stem.0.0", "stages.0", "stages.1", "stages.2"]


def test_the_blocks_of_constant_resolution_are_the_chain_with_most_layers() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scales = nn.ModuleList(nn.Conv2d(3, 3, 1, groups=3) for _ in range(3))
            self.net = nn.ModuleDict({"body": nn.Sequential(*(double(3, 3) for _ in range(3)))})

        def forward(self, x: Tensor) -> Tensor:
            x = x[..., ::2, ::2]
            for scale, block in zip(self.scales, self.net["body"], strict=True):
                x = scale(block(x))
            return x.mean(dim=(2, 3))

    assert [s.path for s in stages_of(Deep(), images())] == [f"net.body.{i}" for i in range(3)]


def test_resolutions_that_differ_by_a_border_are_one() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, stride=2), nn.Conv2d(4, 4, 1))
    assert [(s.path, s.height) for s in stages_of(model, images(64, 64))] == [("1", 60), ("3", 29)]


def test_a_cube_is_laid_out_as_the_map_before_it() -> None:
    last, first = (ChannelsLast(), nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 16, 2, stride=2)))
    assert trace(last, images()).maps[1].stage.layout == "channels_last"  # [B, 16, 16, 16]
    assert trace(first, images()).maps[1].stage.layout == "channels_first"


def test_named_modules_may_give_tokens_and_channels_last() -> None:
    (block,) = named_stages(Transformer(), ["blocks.1"], images())
    assert (block.layout, block.shape) == ("tokens", (8, 8, 8))
    (down,) = named_stages(ChannelsLast(), ["down"], images(32, 48))
    assert (down.layout, down.shape) == ("channels_last", (16, 16, 24))
    with pytest.raises(InputError, match=r"'head' of the student gives no single feature map: .*\[B, N, C\]"):
        named_stages(Transformer(), ["head"], images(), "student")


class Overwriting(nn.Module):
    """A convolution whose output a ReLU overwrites, and one whose output stays."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 4, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.relu(self.first(x))).mean(dim=(2, 3))


@pytest.mark.parametrize("find", [stages_of, lambda model, x: named_stages(model, ["first", "second"], x)])
def test_features_that_the_model_overwrites_are_copied(find) -> None:
    torch.manual_seed(0)
    model = Overwriting()
    found = {stage.path: stage for stage in find(model, images())}
    if "first" not in found:  # the ReLU comes last at this resolution
        assert set(found) == {"relu", "second"} and not any(stage.overwritten for stage in found.values())
        return
    assert (found["first"].overwritten, found["second"].overwritten) == (True, False)
    with FeatureExtractor(model, list(found.values())) as extractor:
        before = extractor(images()).features[None][0]
    assert torch.equal(before, model.first(images())) and before.min() < 0


def test_the_gradient_of_overwritten_features_is_right() -> None:
    torch.manual_seed(0)
    model = Overwriting()
    stages = named_stages(model, ["first"], images())
    with FeatureExtractor(model, stages, [PowerMap()]) as extractor:
        extractor(images()).features[PowerMap()][0].sum().backward()
    found = model.first.weight.grad
    model.zero_grad()
    model.first(images()).square().sum().backward()
    torch.testing.assert_close(found, model.first.weight.grad)


def test_only_what_is_overwritten_is_copied() -> None:
    model, given = nn.Sequential(nn.Conv2d(3, 4, 1)), []
    model[0].register_forward_hook(lambda _m, _i, output: given.append(output))
    for overwritten in (False, True):
        stage = Stage("0", 4, 32, 32, 1.0, overwritten=overwritten)
        with FeatureExtractor(model, [stage], forward=lambda x: model(x).mean((2, 3))) as extractor:
            (read,) = extractor(images()).features[None]
        assert torch.equal(read, given[-1]) and (read.data_ptr() != given[-1].data_ptr()) == overwritten
