"""Features by hooks that leave nothing behind."""

from __future__ import annotations

import torch
from torch import Tensor

from angularkd.features.attention import PowerMap
from angularkd.features.extractor import FeatureExtractor
from angularkd.features.stages import Head, find_head, find_stages
from angularkd.models import cifar


def images(height: int = 32, width: int = 32) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_logits_are_bit_identical_and_close_removes_every_hook() -> None:
    model = cifar.create("resnet8", 10).eval()
    bare = model(images())
    extractor = FeatureExtractor(model, find_stages(model, images()))
    seen = extractor(images())
    assert torch.equal(seen.output, bare)
    assert [tuple(f.shape) for f in seen.features[None]] == [(2, 16, 32, 32), (2, 32, 16, 16), (2, 64, 8, 8)]
    extractor.close()
    assert not any(module._forward_hooks for module in model.modules())


def test_reductions_are_kept_instead_of_features() -> None:
    model = cifar.create("resnet8", 10).eval()
    stages = find_stages(model, images())
    with FeatureExtractor(model, stages) as whole, torch.no_grad():
        features = whole(images()).features
    with FeatureExtractor(model, stages, (PowerMap(2.0), PowerMap(4.0))) as reduced, torch.no_grad():
        maps = reduced(images()).features
    assert set(maps) == {PowerMap(2.0), PowerMap(4.0)}
    for i in range(3):
        assert torch.equal(maps[PowerMap(2.0)][i], features[None][i].square().sum(1))
        assert maps[PowerMap(4.0)][i].shape == maps[PowerMap(2.0)][i].shape


def test_nothing_is_kept_outside_of_a_call() -> None:
    model = cifar.create("resnet8", 10)
    extractor = FeatureExtractor(model, find_stages(model, images()))
    extractor(images())
    model(images())
    assert extractor._kept == [None, None, None]


def test_the_embedding_is_what_the_classification_layer_gets() -> None:
    model = cifar.create("resnet8", 10).eval()
    head = find_head(model, images())
    assert head == Head("linear", 64)
    seen = FeatureExtractor(model, (), head=head)(images())
    torch.testing.assert_close(model.linear(seen.embedding), seen.output)
