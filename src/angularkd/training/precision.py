"""The arithmetic of a run: what `--precision auto` is on a processor, where bf16 pays for some networks and not for others."""

from __future__ import annotations

from dataclasses import replace

from lightning_fabric import Fabric
from torch.nn.modules.conv import _ConvNd

from angularkd.config import Recipe
from angularkd.models import Classifier
from angularkd.system.devices import bf16_is_slow, on_processor, open_fabric, resolve_precision

PAYS_FROM_FLOPS = 2e7
"""Floating point operations of a student's forward of one image from which on bf16 pays: below, turning numbers into bf16 and
back takes what faster products gain."""
SLOW = "this processor has no instructions for bf16, in which the run computes: a step takes two to four times as long as in 32-true"


def in_precision(config: Recipe, fabric: Fabric, student: Classifier) -> tuple[Recipe, Fabric, Classifier]:
    """Decide on the precision in which a student is trained, where it was left open.

    It depends on the device, the processor's instructions and the student alone, and on no measurement, so that equal runs
    decide alike.

    Args:
        config: of the run.
        fabric: of its device, in what `resolve_precision` gives without a student.
        student: fitted to the images.

    Returns:
        The configuration with the precision, a fabric in it, and the student, with a note where that is slow on this processor.
    """
    precision = resolve_precision(config.device, config.precision, bf16_pays(student))
    if precision != resolve_precision(config.device, config.precision):
        fabric = open_fabric(config.device, precision, shared=True)
    if precision == "bf16-mixed" and bf16_is_slow(config.device):
        student = replace(student, notes=(*student.notes, SLOW))
    return config.model_copy(update={"precision": precision}), fabric, student


def answers_in(config: Recipe) -> str:
    """Return the precision in which a cache's answers are computed: that of the run on GPUs, and float32 on processors.

    There bf16 would save some of what is paid once. In it an answer depends on what else is in its batch, by a hundredth of a map; in
    float32 one cache serves students of either precision, and holds the same wherever it was filled.
    """
    return "32-true" if on_processor(config.device) else config.precision


def bf16_pays(student: Classifier) -> bool:
    """Return whether training a student is faster in bf16 on a processor with instructions for it.

    It is not for small networks, nor for those with grouped convolutions, whose backward in bf16 is several times slower, nor is it
    known for those whose operations cannot be counted.
    """
    flops = student.trace.flops if student.trace is not None else None
    convolutions = [module for module in student.module.modules() if isinstance(module, _ConvNd)]
    return flops is not None and flops >= PAYS_FROM_FLOPS and all(one.groups == 1 for one in convolutions)
