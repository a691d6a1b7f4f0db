"""Features by hooks that leave nothing behind."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from angularkd import InputError
from angularkd.features import FeatureExtractor, GradCAM, Head, PowerMap, head_of, trace, with_class_maps
from angularkd.models import cifar
from traced import stages_of


def images(height: int = 32, width: int = 32) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_logits_are_bit_identical_and_close_removes_every_hook() -> None:
    model = cifar.create("resnet8", 10).eval()
    bare = model(images())
    extractor = FeatureExtractor(model, stages_of(model, images()))
    output = extractor(images())
    assert torch.equal(output.logits, bare)
    assert [tuple(f.shape) for f in output.features[None]] == [(2, 16, 32, 32), (2, 32, 16, 16), (2, 64, 8, 8)]
    extractor.close()
    assert not any(module._forward_hooks for module in model.modules())


def test_reductions_are_returned_instead_of_features() -> None:
    model = cifar.create("resnet8", 10).eval()
    stages = stages_of(model, images())
    with FeatureExtractor(model, stages) as whole, torch.no_grad():
        features = whole(images()).features
    with FeatureExtractor(model, stages, (PowerMap(2.0), PowerMap(4.0))) as reduced, torch.no_grad():
        maps = reduced(images()).features
    assert set(maps) == {PowerMap(2.0), PowerMap(4.0)}
    for i in range(3):
        assert torch.equal(maps[PowerMap(2.0)][i], features[None][i].square().sum(1))
        assert maps[PowerMap(4.0)][i].shape == maps[PowerMap(2.0)][i].shape


def test_nothing_is_stored_outside_of_a_call() -> None:
    model = cifar.create("resnet8", 10)
    extractor = FeatureExtractor(model, stages_of(model, images()))
    extractor(images())
    model(images())
    assert extractor._stored == [None, None, None]


def test_the_embedding_is_what_the_classification_layer_gets() -> None:
    model = cifar.create("resnet8", 10).eval()
    head = head_of(trace(model, images()), model)
    assert head == Head("linear", 64)
    output = FeatureExtractor(model, (), head=head)(images())
    torch.testing.assert_close(model.linear(output.embedding), output.logits)


def test_a_forward_of_ones_own_may_preprocess_and_map() -> None:
    model = cifar.create("resnet8", 10).eval()
    with FeatureExtractor(model, stages_of(model, images()), forward=lambda x: model(x / 2)[:, :3]) as extractor:
        output = extractor(images())
    with FeatureExtractor(model, stages_of(model, images())) as plain:
        halved = plain(images() / 2)
    assert torch.equal(output.logits, halved.logits[:, :3])
    assert all(torch.equal(*both) for both in zip(output.features[None], halved.features[None], strict=True))


def test_grad_cam_of_a_frozen_model_behind_what_cannot_be_differentiated() -> None:
    """Of the mapped logits, through a preprocessing that works in place: images themselves need no gradient."""
    model = cifar.create("resnet8", 10).eval().requires_grad_(False)
    stages, reductions = stages_of(model, images()), (GradCAM("teacher"),)

    def forward(x: Tensor) -> Tensor:
        return model(x.clone().detach_().sub_(0.5))[:, [3, 1]]

    with FeatureExtractor(model, stages, reductions, forward=forward) as extractor, torch.no_grad():
        output = extractor(images())
        maps = with_class_maps(output, stages, reductions, None, output.logits.detach(), create_graph=False)
    model.requires_grad_(True)
    with FeatureExtractor(model, stages, reductions, forward=forward) as extractor:
        output = extractor(images())
        again = with_class_maps(output, stages, reductions, None, output.logits.detach(), create_graph=False)
    for first, second in zip(maps.features[reductions[0]], again.features[reductions[0]], strict=True):
        assert torch.equal(first, second) and first.sum() > 0
    assert not maps.logits.requires_grad and not images().requires_grad


def test_logits_of_auxiliary_heads_are_unwrapped_and_anything_else_is_refused() -> None:
    class Auxiliary(nn.Module):
        def forward(self, x: Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=x.mean(dim=(2, 3)), aux_logits=None)

    assert torch.equal(FeatureExtractor(Auxiliary(), ())(images()).logits, images().mean(dim=(2, 3)))
    with pytest.raises(InputError, match="the model gives a list, not logits: return a tensor"):
        FeatureExtractor(nn.Identity(), (), forward=lambda x: [x])(images())
