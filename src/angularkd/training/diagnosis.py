"""Where the first number that is not finite comes from, of one batch: teacher, student, a loss, one of its stages, or a gradient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from angularkd.distillation import Distiller
from angularkd.system.modes import restored
from angularkd.types import Batch, Distilled, Features, Reduction, Signals

WEIGHTS, TEACHER, STUDENT, LOSS, GRADIENT = "weights", "teacher", "student", "loss", "gradient"
"""Parts of a step, in the order in which one makes the next."""
TUNING = "lower `lr`, or give `warmup_epochs` or `clip_norm`"
REMEDIES = {
    WEIGHTS: f"{TUNING}; where the weights came from a file, check it",
    TEACHER: "check its weights and its normalization, and whether it needs `precision=32-true`; training does not change it",
    STUDENT: f"{TUNING}, or `precision=32-true`",
    LOSS: f"give that loss a smaller weight or other options, or leave it out; or {TUNING}",
    GRADIENT: f"give that loss a smaller weight or other options; or {TUNING}",
}
"""What to look at, by the part in which the first number is not finite."""


@dataclass(frozen=True)
class Finding:
    """What one tensor of a step holds, or several.

    Attributes:
        part: of the step.
        name: what a reader calls it.
        numbers: how many it holds.
        nonfinite: how many of them are NaN or infinite.
        largest: magnitude of the finite ones; 0 where there are none.
        rows: the samples of the batch that others are not finite of, where its first axis is theirs.
    """

    part: str
    name: str
    numbers: int
    nonfinite: int
    largest: float
    rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """What the parts of a step hold, in the order in which one makes the next."""

    findings: tuple[Finding, ...]

    @property
    def first(self) -> Finding | None:
        """Return the first that is not finite."""
        return next((finding for finding in self.findings if finding.nonfinite), None)

    @property
    def explanation(self) -> str:
        """Return a phrase that names the first that is not finite, and what to look at."""
        first = self.first
        if first is None:
            return f"all numbers are finite when that batch is run again: {TUNING}, or `precision=32-true`"
        share = f" ({first.nonfinite:,} of {first.numbers:,} numbers)" if first.numbers > 1 else ""
        return f"{first.name} {_verb(first)} not finite{share}: {REMEDIES[first.part]}"


def diagnose(distiller: Distiller, batch: Batch, arithmetic: AbstractContextManager[Any]) -> Diagnosis:
    """Run a batch through the distiller as it is written, and look at all that one part hands to the next.

    Args:
        distiller: is left as it was, but runs uncompiled from now on.
        batch: the batch.
        arithmetic: the context of the run's precision.
    """
    distiller.uncompile()
    found: list[Finding] = []
    for name, parameter in distiller.named_parameters():
        finding = _look(WEIGHTS, f"the weight {name.removeprefix('student.')}", parameter)
        found += [finding] if finding.nonfinite else []
    with restored(distiller), arithmetic:
        signals, out = _observed(distiller, batch)
        found += _of_signals(distiller, signals)
        found += [_look(LOSS, f"the loss {name}", term) for name, term in out.terms.items()]
        broken = [name for name, term in out.terms.items() if not term.isfinite().all()]
        if broken and not any(finding.nonfinite for finding in found if finding.part != LOSS):
            found = _with_stages(distiller, signals, found, broken)
        found += _of_gradients(distiller, out.terms)
    return Diagnosis(tuple(found))


def _observed(distiller: Distiller, batch: Batch) -> tuple[Signals, Distilled]:
    """Return what the losses of a batch are computed from, and what comes out."""
    seen: list[Signals] = []
    handle = distiller.losses.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        out = distiller(batch.images, batch.labels, batch.indices, batch.view)
    finally:
        handle.remove()
    return seen[-1], out


def _of_signals(distiller: Distiller, signals: Signals) -> Iterator[Finding]:
    for part in (TEACHER, STUDENT):
        names = [str(getattr(pair, part).name) for pair in distiller.pairs]
        features: Mapping[Reduction | None, Features] = getattr(signals, f"{part}_features")
        for reduction, stages in features.items():
            kind = "features" if reduction is None else f"map ({reduction})"
            for name, stage in zip(names, stages, strict=True):
                yield _look(part, f"the {part}'s {kind} of {name}", stage)
        for kind in ("embedding", "logits"):
            value = getattr(signals, f"{part}_{kind}")
            if value is not None:
                yield _look(part, f"the {part}'s {kind}", value)


def _with_stages(distiller: Distiller, signals: Signals, found: list[Finding], broken: list[str]) -> list[Finding]:
    """Return the findings with those stages named that alone make a loss not finite, the others' features being zeros."""
    names = [f"{pair.teacher.name} -> {pair.student.name}" for pair in distiller.pairs]
    for stage in range(len(names) if signals.student_features else 0):
        terms = distiller.losses(
            replace(
                signals,
                student_features=_alone(signals.student_features, stage),
                teacher_features=_alone(signals.teacher_features, stage),
            )
        )
        for name in broken:
            if terms[name].isfinite().all() or not distiller.losses.reductions_by_loss.keys() & {name}:
                continue
            position = next(i for i, finding in enumerate(found) if finding.name == f"the loss {name}")
            found.insert(position, _look(LOSS, f"the loss {name} at the stage {names[stage]}", terms[name]))
    return found


def _alone(features: Mapping[Reduction | None, Features], stage: int) -> dict[Reduction | None, Features]:
    return {
        reduction: [one if i == stage else torch.zeros_like(one) for i, one in enumerate(stages)]
        for reduction, stages in features.items()
    }


def _of_gradients(distiller: Distiller, terms: Mapping[str, Tensor]) -> Iterator[Finding]:
    trained = {name: one for name, one in distiller.named_parameters() if one.requires_grad}
    for loss, term in terms.items():
        if not term.requires_grad or not term.isfinite().all():
            continue
        gradients = torch.autograd.grad(term, list(trained.values()), retain_graph=True, allow_unused=True)
        looks = {
            name: _look(GRADIENT, name, one) for name, one in zip(trained, gradients, strict=True) if one is not None
        }
        numbers, nonfinite = (sum(getattr(one, field) for one in looks.values()) for field in ("numbers", "nonfinite"))
        where = next((f" at {name.removeprefix('student.')}" for name, one in looks.items() if one.nonfinite), "")
        largest = max((one.largest for one in looks.values()), default=0.0)
        yield Finding(GRADIENT, f"the gradient of the loss {loss}{where}", numbers, nonfinite, largest)


def _look(part: str, name: str, value: Tensor) -> Finding:
    value = value.detach()
    bad = ~value.isfinite()
    largest = value.masked_fill(bad, 0).abs().max() if value.numel() else 0.0
    rows = bad.flatten(1).any(dim=1).nonzero()[:, 0].tolist() if value.ndim > 1 and part in (TEACHER, STUDENT) else []
    return Finding(part, name, value.numel(), int(bad.sum()), float(largest), tuple(rows))


def _verb(finding: Finding) -> str:
    return "are" if finding.name.endswith(("logits", "features")) or "'s features of" in finding.name else "is"
