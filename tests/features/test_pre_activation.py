"""Features before a stage's last activation, and embeddings before a dropout."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd import InputError
from angularkd.features import FeatureExtractor, PowerMap, PreActivation, head_of, trace
from angularkd.models import cifar
from traced import named_stages, stages_of

BEFORE = PreActivation()


def images(size: int = 32) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def both_forms(model: nn.Module, stages, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return the features of the stages as they are and before their activations, from one forward."""
    with FeatureExtractor(model, stages, (None, BEFORE)) as extractor:
        features = extractor(x).features
    return features[None], features[BEFORE]


class Residual(nn.Module):
    """A block that ends in an activation of a sum, as it is given."""

    def __init__(self, channels: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.act = activation

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(self.act(x.clone())))
        y += x
        return self.act(y)


class Network(nn.Module):
    """A stem, one residual block, and a head."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.block, self.linear = nn.Conv2d(3, 6, 3), Residual(6, activation), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.block(self.stem(x)).mean(dim=(2, 3)))


@pytest.mark.parametrize(
    "activation",
    [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        nn.ReLU6(),
        nn.SiLU(),
        nn.SiLU(inplace=True),
        nn.GELU(),
        nn.Hardswish(),
        nn.LeakyReLU(0.1),
        nn.PReLU(),
        nn.Mish(),
        F.relu,
        F.relu_,
        F.relu6,
        F.silu,
        F.gelu,
        F.hardswish,
        torch.relu,
        torch.relu_,
        Tensor.relu,
        Tensor.relu_,
        lambda x: F.relu(input=x, inplace=True),
    ],
    ids=lambda one: getattr(one, "__name__", str(one)),
)
@pytest.mark.parametrize("training", [False, True])
def test_the_sum_before_the_last_activation_is_read(activation, training: bool) -> None:
    torch.manual_seed(0)
    model = Network(activation).train(training)
    stages = named_stages(model, ["block"], images(8))
    (after,), (before,) = both_forms(model, stages, images(8))
    block, x = model.block, model.stem(images(8))
    expected = block.norm(block.conv(activation(x.clone()))) + x
    torch.testing.assert_close(before, expected)
    torch.testing.assert_close(after, activation(expected.clone()))
    weight = model.block.conv.weight
    gradient, expected_gradient = (torch.autograd.grad(each.square().sum(), weight)[0] for each in (before, expected))
    torch.testing.assert_close(gradient, expected_gradient)


def test_a_forward_alone_finds_it_and_the_model_gives_the_same_logits() -> None:
    model, count = Network(F.relu).eval(), []
    model.register_forward_hook(lambda *_: count.append(1))
    stages = stages_of(model, images(8))
    assert len(count) == 1
    with FeatureExtractor(model, stages, (BEFORE, PowerMap())) as extractor:
        assert torch.equal(extractor(images(8)).logits, model(images(8)))
        assert set(extractor(images(8)).features) == {BEFORE, PowerMap()}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.block.modules())


@pytest.mark.parametrize(
    "build",
    [
        lambda: cifar.create("resnet8", 10),
        lambda: cifar.create("vgg8", 10),
        lambda: torchvision.models.resnet18(),
        lambda: torchvision.models.resnet50(),
        lambda: timm.create_model("resnet18", zero_init_last=False),
        lambda: timm.create_model("regnetx_002", zero_init_last=False),
    ],
    ids=["cifar resnet8", "cifar vgg8", "torchvision resnet18", "torchvision resnet50", "timm resnet18", "timm regnet"],
)
def test_every_resnet_and_vgg_has_negative_features_before_its_relu(build) -> None:
    torch.manual_seed(0)
    model = build()
    with torch.no_grad():
        after, before = both_forms(model, stages_of(model, images(64)), images(64))
    for activated, features in zip(after, before, strict=True):
        assert activated.min() == 0 and features.min() < 0
        assert torch.equal(features.relu(), activated)


def test_pre_activation_networks_give_the_output_of_the_next_batch_norm() -> None:
    model = cifar.create("wrn_16_1", 10).eval()
    norms = [model.block2[0].bn1, model.block3[0].bn1, model.bn1]
    with torch.no_grad():
        after, before = both_forms(model, stages_of(model, images()), images())
    assert all(torch.equal(norm(a), b) for norm, a, b in zip(norms, after, before, strict=True))
    densenet = torchvision.models.DenseNet(8, (2, 2), 16, num_classes=5).eval()
    stages = named_stages(densenet, ["features.denseblock1", "features.denseblock2"], images(64))
    with torch.no_grad():
        after, before = both_forms(densenet, stages, images(64))
    norms = [densenet.features.transition1.norm, densenet.features.norm5]
    assert all(torch.equal(norm(a), b) for norm, a, b in zip(norms, after, before, strict=True))


def test_a_stage_that_ends_in_no_activation_gives_its_output() -> None:
    model = torchvision.models.mobilenet_v2().eval()
    stages = stages_of(model, images(64))
    assert all(stage.before_activation is None for stage in stages)
    with torch.no_grad():
        after, before = both_forms(model, stages, images(64))
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


class Shifted(nn.Module):
    """A convolution whose shifted output is activated by a module that is somebody else's."""

    def __init__(self, act: nn.Module, channels: int) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(channels, 4, 3), act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x) - 0.1)


def test_one_activation_module_may_serve_the_whole_network() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU(inplace=True)
            self.first, self.second, self.linear = Shifted(self.act, 3), Shifted(self.act, 4), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.act(self.second(self.first(x))).mean((2, 3)))

    model = Shared().eval()
    stages = named_stages(model, ["first", "second"], images(16))
    assert all(stage.before_activation.behind is None for stage in stages), "modules show it, functions are not watched"
    after, before = both_forms(model, stages, images(16))
    torch.testing.assert_close(before[0], model.first.conv(images(16)) - 0.1)
    torch.testing.assert_close(before[1], model.second.conv(after[0]) - 0.1)


def test_an_activation_function_that_is_not_the_last_one_is_not_taken_for_it() -> None:
    class Side(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.aside = nn.Conv2d(3, 4, 3), None

        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.conv(x) - 0.1)
            self.aside = F.relu(y - 1)
            return y

    model = nn.Sequential(Side(), nn.Flatten(), nn.Linear(4 * 14 * 14, 5))
    (after,), (before,) = both_forms(model, named_stages(model, ["0"], images(16)), images(16))
    assert torch.equal(before, after)


def test_a_module_s_input_is_a_stage_with_input_behind_its_path() -> None:
    model = torchvision.models.resnet18().eval()
    paths = ["layer2.0.input", "layer2.1.relu.input", "layer2"]
    stages = named_stages(model, paths, images(64))
    assert [stage.name for stage in stages] == paths and str(stages[0]) == "layer2.0.input [64, 16, 16]"
    with torch.no_grad():
        (block, total, stage), before = both_forms(model, stages, images(64))
        stem = model.maxpool(model.relu(model.bn1(model.conv1(images(64)))))
        assert torch.equal(block, model.layer1(stem))
    assert total.min() < 0 and torch.equal(total.relu(), stage), "its last run, copied before it works in place"
    assert torch.equal(before[1], total) and torch.equal(before[2], total)
    assert before[0].min() < 0 and torch.equal(before[0].relu(), block)


def test_what_is_no_input_is_refused_in_a_line() -> None:
    model = cifar.create("resnet8", 10)
    with pytest.raises(InputError, match="has no module 'layer9'"):
        named_stages(model, ["layer9.input"], images())
    with pytest.raises(
        InputError, match="'linear' of the teacher is called with no feature map: name a module that takes"
    ):
        named_stages(model, ["linear.input"], images(), "teacher")
    with pytest.raises(InputError, match="has no module ''"):
        named_stages(model, [".input"], images())


def embeddings(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the embeddings of two forwards in training mode, with different seeds."""
    head = head_of(trace(model, x), model)
    model.train()
    found = []
    with FeatureExtractor(model, (), head=head) as extractor:
        for seed in (1, 2):
            torch.manual_seed(seed)
            found.append(extractor(x).embedding)
    return found


@pytest.mark.parametrize(
    "build",
    [
        torchvision.models.mobilenet_v2,
        torchvision.models.mobilenet_v3_small,
        torchvision.models.googlenet,
        lambda **options: timm.create_model("efficientnet_b0", drop_rate=0.3, **options),
    ],
    ids=["mobilenet_v2", "mobilenet_v3", "googlenet", "timm efficientnet"],
)
@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet")
def test_embeddings_are_free_of_the_dropout_before_the_head(build) -> None:
    torch.manual_seed(0)
    options = {"aux_logits": False} if build is torchvision.models.googlenet else {}
    first, second = embeddings(build(**options), images(64))
    assert first.shape[0] == 2 and torch.equal(first, second) and first.ne(0).any()


def test_of_vgg_s_two_dropouts_the_last_is_passed_over() -> None:
    torch.manual_seed(0)
    model = torchvision.models.vgg11()
    first, second = embeddings(model, images())
    assert not torch.equal(first, second), "the first, between the hidden layers, is part of the network"
    model.classifier[2].p = 0.0
    first, second = embeddings(model, images())
    assert torch.equal(first, second)
    with torch.no_grad():
        torch.testing.assert_close(first, model.classifier[:5](model.avgpool(model.features(images())).flatten(1)))


class Dropping(nn.Module):
    """A head behind dropouts, as functions or modules."""

    def __init__(self, drop: Callable[[Tensor, bool], Tensor]) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(12, 16), nn.Linear(16, 4)
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.hardswish(self.hidden(F.adaptive_avg_pool2d(x, 2).flatten(1)))
        return self.head(self.drop(hidden) if isinstance(self.drop, nn.Module) else self.drop(hidden, self.training))


@pytest.mark.parametrize(
    "drop",
    [
        nn.Dropout(0.5, inplace=True),
        nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5, inplace=True)),
        nn.Sequential(nn.Unflatten(1, (16, 1, 1)), nn.Dropout2d(0.5), nn.Flatten()),
        lambda x, training: F.dropout(x, 0.5, training),
        lambda x, training: F.dropout(x, training=training, inplace=True),
        lambda x, training: F.dropout(F.dropout(x, 0.2, training), 0.5, training),
        lambda x, training: F.alpha_dropout(x, 0.5, training),
        lambda x, training: F.dropout(x, 0.0, training),
    ],
    ids=[
        "in place",
        "in a row",
        "behind views",
        "function",
        "function in place",
        "functions in a row",
        "alpha",
        "none",
    ],
)
def test_dropouts_of_every_kind_are_passed_over(drop) -> None:
    torch.manual_seed(0)
    model = Dropping(drop)
    x = images(8)
    expected = F.hardswish(model.hidden(F.adaptive_avg_pool2d(x, 2).flatten(1)))
    for found in embeddings(model, x):
        torch.testing.assert_close(found, expected)
        gradients = [torch.autograd.grad(e.sum(), model.hidden.weight, retain_graph=True)[0] for e in (found, expected)]
        torch.testing.assert_close(*gradients)


def test_an_activation_that_is_not_called_again_is_an_error() -> None:
    class Fickle(Network):
        def forward(self, x: Tensor) -> Tensor:
            self.block.act = nn.Identity() if self.training else F.relu
            return super().forward(x)

    model = Fickle(nn.Identity()).eval()
    del model.block.act
    stages = named_stages(model, ["block"], images(8))
    with (
        FeatureExtractor(model.train(), stages, (BEFORE,)) as extractor,
        pytest.raises(InputError, match="no activation function was called"),
    ):
        extractor(images(8))
