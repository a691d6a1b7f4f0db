"""Losses that their papers feed with features before the activation get these, beside others that get the stages' outputs."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional as F

from angularkd import Distiller, InputError
from angularkd.distillation import uncacheable
from angularkd.features import PreActivation
from angularkd.losses import LOSSES
from angularkd.losses.boundary import negative_mean
from angularkd.models import Preprocessing, cifar
from angularkd.training.plan import describe_pair

BEFORE = PreActivation()
LABELS = torch.arange(4)


def images() -> Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def distiller_of(losses: dict[str, float], pairs: str | None = None, student: str = "wrn_16_1") -> Distiller:
    torch.manual_seed(0)
    return Distiller(
        cifar.create("resnet8", 10), cifar.create(student, 10), losses, example=images(), pairs=pairs
    ).train()


def test_the_rows_say_which_losses_they_are() -> None:
    assert {name for name, row in LOSSES.items() if row.pre_activation} == {"ab", "ofd", "review"}


@pytest.mark.parametrize("name", ["ab", "ofd", "review"])
def test_a_loss_gets_both_networks_features_before_the_activation(name, monkeypatch) -> None:
    distiller = distiller_of({"ce": 1.0, name: 1.0, "amd": 1.0, "fitnet": 1.0})
    signals, given = [], []
    distiller.losses.register_forward_pre_hook(lambda _module, inputs: signals.append(inputs[0]))
    distiller.losses.losses[name].register_forward_pre_hook(lambda _module, inputs: given.append(inputs))
    out = distiller(images(), LABELS)
    out.total.backward()
    teacher, student = signals[0].teacher_features, signals[0].student_features
    assert given[0][0][-1] is student[BEFORE][-1] and given[0][1][-1] is teacher[BEFORE][-1]
    for activated, features in zip(teacher[None], teacher[BEFORE], strict=True):
        assert torch.equal(features.relu(), activated) and features.min() < 0
    norms = [distiller.student.block2[0].bn1, distiller.student.block3[0].bn1, distiller.student.bn1]
    for block, features, norm in zip(student[None], student[BEFORE], norms, strict=True):
        torch.testing.assert_close(features, norm(block), rtol=1e-4, atol=1e-4)
    assert list(out.terms) == ["ce", name, "amd", "fitnet"] and all(term.isfinite() for term in out.terms.values())


def test_such_losses_use_no_cache_and_the_plan_names_the_stages() -> None:
    distiller = distiller_of({"ofd": 1.0, "amd": 1.0}, "layer2.0.input:block2, layer3:block3")
    assert uncacheable(distiller.losses.reductions_by_loss) == ("ofd",)
    rows = [describe_pair(pair, distiller.losses.before_activation) for pair in distiller.pairs]
    assert [row["teacher"] for row in rows] == ["layer2.0.input", "layer3"]
    assert all(row["teacher_before_activation"] == row["student_before_activation"] == ["ofd"] for row in rows)
    bottlenecks = distiller_of({"ofd": 1.0}, student="mobilenet_v2_half")
    row = describe_pair(bottlenecks.pairs[-1], bottlenecks.losses.before_activation)
    assert (row["teacher_before_activation"], row["student_before_activation"]) == (["ofd"], [])


class Block(nn.Module):
    """A residual block that ends in an activation, module or function."""

    def __init__(self, channels: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm, self.act = nn.BatchNorm2d(channels), activation

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(self.act(x + 1)))
        y += x
        return self.act(y)


class Small(nn.Module):
    """Two stages, each a strided convolution and a residual block, and a head behind a dropout."""

    def __init__(self, activation: Callable[[Tensor], Tensor], drop: float = 0.0) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 8, 3, 2, 1), Block(8, activation)
        self.down, self.second = nn.Conv2d(8, 16, 3, 2, 1), Block(16, activation)
        self.drop, self.head = drop, nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.down(self.first(self.stem(x))))
        return self.head(F.dropout(y.mean((2, 3)), self.drop, self.training))


@pytest.mark.parametrize(
    "activation",
    [nn.ReLU(), nn.ReLU(inplace=True), nn.Hardswish(), F.relu, lambda x: x.relu_(), F.silu],
    ids=lambda one: getattr(one, "__name__", str(one)),
)
def test_compiled_it_is_the_same(activation) -> None:
    """Modules and functions alike; and an embedding before a dropout that is a function."""
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        torch._dynamo.reset()
        losses = {"ce": 1.0, "ofd": 0.01, "at": 10.0, "rkd": 1.0}
        distiller = Distiller(
            Small(activation), Small(activation, 1e-9), losses, example=images(), pairs="first:first,second:second"
        ).train()
        if compiled:
            distiller.compile(backend="eager")
            counters.clear()
        out = distiller(images(), LABELS)
        out.total.backward()
        gradients = [p.grad for p in distiller.student.parameters()]
        found.append([out.total.detach(), *(torch.zeros(()) if g is None else g for g in gradients)])
    assert counters["frames"]["total"] > 0 and not counters["graph_break"]
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(value, expected)


def test_the_second_compiled_step_is_compiled_no_more() -> None:
    torch._dynamo.reset()
    losses, pairs = {"ce": 1.0, "ofd": 0.01, "at": 10.0, "rkd": 1.0}, "first:first,second:second"
    distiller = Distiller(Small(nn.ReLU()), Small(nn.ReLU()), losses, example=images(), pairs=pairs).train()
    distiller.compile(backend="eager")
    counters.clear()
    graphs = []
    for _ in range(3):
        distiller(images(), LABELS).total.backward()
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs == [2, 2, 2]


def test_what_compiled_code_does_not_show_is_refused() -> None:
    pairs = "first:first,second:second"
    for name in ("ofd", "fitnet"):
        distiller = Distiller(Small(F.relu), Small(F.hardswish), {"ce": 1.0, name: 0.01}, example=images(), pairs=pairs)
        assert distiller.train()(images(), LABELS).total.isfinite()
        if name == "ofd":
            with pytest.raises(InputError, match=r"first .* cannot be observed in compiled code"):
                distiller.compile(backend="eager")
        else:
            distiller.compile(backend="eager")


def test_margins_of_a_real_teacher_are_negative_where_its_features_are(shared_folder: Path) -> None:
    """Those of OFD, of a trained ResNet-56 on photographs, one a channel; behind the ReLU all of them would be 0."""
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = (
        parquet.read_table(shared_folder / "data" / "cifar10" / "test.parquet").slice(0, 64).column("image").to_pylist()
    )
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in rows])
    photographs = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    normalise = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    teacher = cifar.create("resnet56", 10)
    teacher.load_state_dict(load_file(shared_folder / "weights" / "cifar10_resnet56_akamaster.safetensors"))
    distiller = Distiller(
        teacher,
        cifar.create("resnet8", 10),
        {"ofd": 1.0, "fitnet": 1.0},
        example=photographs[:2],
        teacher_transform=normalise,
    )
    features = distiller.teacher(photographs).features
    for before, after in zip(features[BEFORE], features[None], strict=True):
        negative = (before < 0).any(dim=0).flatten(1).any(dim=1)
        margins = negative_mean(before).flatten()
        assert negative.float().mean() > 0.9 and torch.equal(margins < 0, negative)
        assert torch.equal(before.relu(), after) and not negative_mean(after).any()
