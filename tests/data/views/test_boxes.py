"""Random erasing: torchvision's distribution and pixels. (Resized crops are in test_views.)"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import RandomErasing
from torchvision.transforms.v2 import functional as tv

from angularkd.data import Views
from angularkd.data.views.boxes import erased_boxes
from angularkd.data.views.pixels import erase


def theirs(size: tuple[int, int], count: int) -> np.ndarray:
    torch.manual_seed(0)
    transform = RandomErasing(p=1.0)
    drawn = [transform.make_params([torch.zeros(3, *size)]) for _ in range(count)]
    return np.array([[p["i"], p["j"], p["h"], p["w"]] if p["v"] is not None else [0] * 4 for p in drawn])


@pytest.mark.parametrize("size", [(32, 32), (24, 96), (64, 16)])
def test_erased_boxes_are_distributed_as_torchvisions(size) -> None:
    """Quantiles of every parameter, against 4000 draws of torchvision: within three standard errors, about 0.03."""
    expected = theirs(size, 4000)
    ours = np.concatenate([erased_boxes(4000, size, 1.0, 5, view) for view in range(2)])
    for column in range(4):
        for level in range(0, max(size) + 1, 2):
            assert abs((ours[:, column] <= level).mean() - (expected[:, column] <= level).mean()) < 0.03


@pytest.mark.parametrize("probability", [0.0, 0.25, 0.5, 1.0])
def test_so_many_images_lose_a_part_and_others_in_another_view(probability) -> None:
    views = Views(("erase",), 5000, (32, 32), erase_probability=probability)
    erased = [views.table(view).columns["erased"].any(dim=1) for view in range(2)]
    assert float(erased[0].float().mean()) == pytest.approx(probability, abs=0.03)
    assert float((erased[0] & erased[1]).float().mean()) == pytest.approx(probability**2, abs=0.03)


def test_erased_boxes_stay_in_the_image_and_within_torchvisions_limits() -> None:
    height, width = 64, 48
    top, left, box_height, box_width = erased_boxes(5000, (height, width), 1.0, 0, 0).T.astype(int)
    assert top.min() >= 0 and (top + box_height).max() <= height
    assert left.min() >= 0 and (left + box_width).max() <= width
    assert box_height.max() < height and box_width.max() < width
    share = box_height * box_width / (height * width)
    assert 0.015 < share[share > 0].min() < 0.022 and 0.31 < share.max() < 0.345
    box_height, box_width = erased_boxes(20_000, (1000, 1000), 1.0, 0, 0)[:, 2:].T.astype(int)
    assert 0.299 < (box_height / box_width).min() < 0.302 and 3.28 < (box_height / box_width).max() < 3.31


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_erased_images_are_torchvisions_and_the_input_is_left_alone(layout) -> None:
    images = torch.rand(60, 3, 20, 28, generator=torch.manual_seed(0)).contiguous(memory_format=layout)
    boxes = torch.from_numpy(erased_boxes(60, (20, 28), 0.8, 0, 0))
    boxes[0] = torch.tensor([0, 0, 20, 28])
    boxes[1] = torch.tensor([19, 27, 1, 1])
    before = images.clone()
    erased = erase(images, boxes)
    expected = [tv.erase(image, *box, torch.zeros(3, 1, 1)) for image, box in zip(images, boxes.tolist(), strict=True)]
    assert torch.equal(erased, torch.stack(expected))
    assert torch.equal(images, before)
    assert erased.is_contiguous(memory_format=layout)
    assert not erased[0].any() and int((erased[1] != images[1]).sum()) == 3
