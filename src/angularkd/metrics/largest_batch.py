"""How many images are evaluated at once."""

from __future__ import annotations

import torch

from angularkd.metrics.evaluate import Predict

MEMORY_SHARE = 0.25
"""Part of a GPU's free memory that an evaluation may take."""
LARGEST_BATCH = 4096


def largest_batch(predict: Predict, image_size: tuple[int, int], device: torch.device, at_least: int) -> int:
    """Return the number of images to evaluate at once.

    On a GPU, as many as fit into MEMORY_SHARE of its free memory, up to LARGEST_BATCH, by the memory that one forward
    takes. On other devices `at_least`, the batch of training, where more gain nothing.

    Args:
        predict: runs the network, which is in evaluation mode.
        image_size: (height, width).
        device: where the network is.
        at_least: number of images that fit for certain.
    """
    if device.type != "cuda":
        return at_least
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    with torch.inference_mode():
        predict(torch.zeros(at_least, 3, *image_size, device=device))
    an_image = max(1, (torch.cuda.max_memory_allocated(device) - before) // at_least)
    free, _ = torch.cuda.mem_get_info(device)
    return max(at_least, min(LARGEST_BATCH, int(MEMORY_SHARE * free) // an_image))
