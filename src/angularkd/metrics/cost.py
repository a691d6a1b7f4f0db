"""What a model costs: COSTS, the table of numbers that are no sums over images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from angularkd.metrics.live_memory import LiveMemory
from angularkd.system.modes import mode
from angularkd.system.timing import time_in_turn

BATCHES = (1, 128)
"""Numbers of images whose time is taken."""
REPEATS, LEAST_REPEATS, LONGEST_SECONDS = 50, 5, 5.0
MEBIBYTE = 2**20

Timing = dict[str, float]


@dataclass(frozen=True)
class Subject:
    """A model whose costs are measured, and what several of them derive from it, computed once.

    Attributes:
        module: on its device.
        predict: from images in 0..1 to its logits, preprocessing included.
        image_size: (height, width) of the images.
        device: where it is.
        flops: floating point operations of a forward of one image; None where they could not be counted.
    """

    module: nn.Module
    predict: Callable[[Tensor], Tensor]
    image_size: tuple[int, int]
    device: torch.device
    flops: int | None = None

    @cached_property
    def timings(self) -> dict[str, Timing]:
        """Return median, spread and images a second, by the number of images at once."""
        return {str(batch): self._timed(self.images(batch)) for batch in BATCHES}

    def images(self, batch: int) -> Tensor:
        """Return images of noise, on the device."""
        generator = torch.Generator().manual_seed(0)
        return torch.rand(batch, 3, *self.image_size, generator=generator).to(self.device)

    def forward(self, images: Tensor) -> None:
        """Run the model, and wait until it is done."""
        with torch.inference_mode():
            self.predict(images)
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def _timed(self, images: Tensor) -> Timing:
        found = time_in_turn(
            {"model": lambda: self.forward(images)},
            repeats=REPEATS,
            least_repeats=LEAST_REPEATS,
            longest_seconds=LONGEST_SECONDS,
        )["model"]
        return {**found, "images_per_second": 1e3 * len(images) / found["median_ms"]}


@dataclass(frozen=True)
class Cost:
    """A row of the table COSTS.

    Attributes:
        summary: what it is, in a few words.
        measure: returns it: a number, None where it cannot be known, or what JSON holds.
        better, unit, format: as in `Metric`.
    """

    summary: str
    measure: Callable[[Subject], Any]
    better: Literal["higher", "lower"] | None
    unit: str = ""
    format: str = ",.2f"

    @property
    def is_number(self) -> bool:
        """Return whether its value is a single number."""
        return self.better is not None


def parameters(subject: Subject) -> int:
    """Return how many numbers the model has."""
    return sum(parameter.numel() for parameter in subject.module.parameters())


def macs(subject: Subject) -> int | None:
    """Return the multiplications with additions of a forward of one image, in convolutions, linear layers and attention."""
    return subject.flops // 2 if subject.flops is not None else None


def file_mib(subject: Subject) -> float:
    """Return the size of parameters and buffers in MiB, tied ones once: that of a safetensors file but for its header."""
    places = {
        value.data_ptr(): value.nbytes for value in subject.module.state_dict().values() if isinstance(value, Tensor)
    }
    return sum(places.values()) / MEBIBYTE


def latency(subject: Subject) -> float:
    """Return the median time of one image, in milliseconds."""
    return subject.timings[str(BATCHES[0])]["median_ms"]


def throughput(subject: Subject) -> float:
    """Return the images a second in large batches, by the median of their times."""
    return subject.timings[str(BATCHES[-1])]["images_per_second"]


def timing(subject: Subject) -> dict[str, Timing]:
    """Return median, spread and images a second, by the number of images at once."""
    return subject.timings


def peak_memory_mib(subject: Subject) -> float:
    """Return the most memory that a forward of a large batch holds at once, in MiB, with the weights and the images.

    On a GPU it is what the allocator counts, elsewhere what the tensors hold that operations return.
    """
    images = subject.images(BATCHES[-1])
    fixed = file_mib(subject) + images.nbytes / MEBIBYTE
    if subject.device.type == "cuda":
        before = torch.cuda.memory_allocated(subject.device)
        torch.cuda.reset_peak_memory_stats(subject.device)
        subject.forward(images)
        return fixed + (torch.cuda.max_memory_allocated(subject.device) - before) / MEBIBYTE
    with LiveMemory() as memory:
        subject.forward(images)
    return fixed + memory.peak / MEBIBYTE


COSTS: dict[str, Cost] = {
    "parameters": Cost("numbers that are learned", parameters, "lower", format=",d"),
    "macs": Cost("multiplications with additions of one image", macs, "lower", format=",d"),
    "file_mib": Cost("size of the weights", file_mib, "lower", "MiB"),
    "latency_ms": Cost("median time of one image", latency, "lower", "ms"),
    "throughput": Cost("images a second, 128 at once", throughput, "higher", "images/s", ",.0f"),
    "peak_memory_mib": Cost("most memory of a forward of 128 images", peak_memory_mib, "lower", "MiB"),
    "timing": Cost("median, spread and images a second of 1 and 128 images at once", timing, None, "ms"),
}


def measure_costs(subject: Subject, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Return costs of a model by name.

    Args:
        subject: the model, put into evaluation mode meanwhile.
        names: in COSTS, in the order of the result. Default: all.
    """
    with mode(subject.module, training=False):
        return {name: COSTS[name].measure(subject) for name in (COSTS if names is None else names)}
