"""Evaluation of a classifier, alone or beside its teacher, in one pass over the images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.features import ModelOutput
from angularkd.metrics.metric import Sums
from angularkd.metrics.observation import Observation
from angularkd.metrics.table import DEFAULT_METRICS, METRICS, check_metrics
from angularkd.system.modes import mode
from angularkd.system.ranks import gather, gather_rows, total
from angularkd.types import Batch

Predict = Callable[[Tensor], Tensor]
"""From images in 0..1 to logits, preprocessing included."""
Extract = Callable[[Tensor], ModelOutput]
"""From images in 0..1 to an output with the logits, and the whole features of the paired stages as `features[None]`."""


def evaluate(
    model: nn.Module,
    predict: Predict,
    batches: Iterable[Batch],
    num_classes: int,
    *,
    teacher: Predict | None = None,
    extractors: tuple[Extract, Extract] | None = None,
    metrics: Sequence[str] | None = None,
    temperature: float | None = None,
    shared: bool = False,
) -> dict[str, Any]:
    """Return metrics of a model over all batches, by name: numbers, and lists and dictionaries of them.

    One pass is made, and only the signals that some metric needs are computed. Nothing waits for the device before the end.

    Args:
        model: put into evaluation mode meanwhile; afterwards every module has the mode that it had before.
        predict: from images to the model's logits.
        batches: whose labels are classes.
        num_classes: number of classes of the data.
        teacher: from images to the teacher's logits of the same classes, where there are any to compare with.
        extractors: the model's and the teacher's, for metrics of features. Where one is requested, each runs in place of
            `predict` and `teacher`, so that logits and features come from the same forward.
        metrics: names in METRICS, in the order of the result. Default: those of DEFAULT_METRICS for which there is what they need.
        temperature: by which the logits are divided for metrics after temperature scaling (`fit_temperature`).
        shared: whether the batches are one process's part of the images, so that what is added up is that of all processes.

    Raises:
        InputError: when a metric is unknown, needs a teacher, extractors or a temperature that is not given, or another number of
            classes than there are.
    """
    missing = _missing(teacher, extractors, temperature)
    if metrics is None:
        metrics = [name for name in DEFAULT_METRICS if _objection(name, num_classes, missing) is None]
    else:
        check_metrics(metrics)
        for name in metrics:
            if (objection := _objection(name, num_classes, missing)) is not None:
                raise InputError(objection)
    rows = {name: METRICS[name] for name in metrics}
    needs = {signal for row in rows.values() for signal in row.needs}
    student_extract, teacher_extract = extractors if extractors is not None else (None, None)
    functions = {row.sums: row.per_image for row in rows.values()}
    found: defaultdict[Sums, list[Tensor]] = defaultdict(list)
    images = 0
    with mode(model, training=False), torch.inference_mode():
        for batch in batches:
            signals = {
                "images": batch.images,
                "labels": batch.labels,
                "indices": batch.indices,
                "predict": predict,
                "temperature": temperature,
                **_run(batch.images, needs, "logits", predict, "student_features", student_extract),
                **_run(batch.images, needs, "teacher_logits", teacher, "teacher_features", teacher_extract),
            }
            observation = Observation(num_classes, **{name: signals[name] for name in signals if name in needs})
            for sums, per_image in functions.items():
                part = sums(observation)
                found[sums] = [*found[sums], part] if per_image or not found[sums] else [found[sums][0] + part]
            images += len(batch.images)
        assert images, "no batch to evaluate on"
        totals = {sums: torch.cat(parts) if functions[sums] else parts[0] for sums, parts in found.items()}
        if shared:
            totals = {sums: (gather_rows if functions[sums] else total)(part) for sums, part in totals.items()}
            images = sum(gather(images))
        return {name: row.value(totals[row.sums], images) for name, row in rows.items()}


def _run(
    images: Tensor, needs: set[str], logits: str, predict: Predict | None, features: str, extract: Extract | None
) -> dict[str, Any]:
    """Return the signals of one network, by the names that are given for them, from one forward or none."""
    if features in needs and extract is not None:
        output = extract(images)
        return {logits: output.logits, features: output.features[None]}
    return {logits: predict(images)} if logits in needs and predict is not None else {}


def _missing(
    teacher: Predict | None, extractors: tuple[Extract, Extract] | None, temperature: float | None
) -> dict[str, str]:
    """Return the signals that cannot be computed, each with what to give for it."""
    missing = {"teacher_logits": "a `teacher` of the same classes"} if teacher is None else {}
    if temperature is None:
        missing["temperature"] = "a `temperature`, fitted on validation images whose logits are finite"
    if extractors is None:
        missing |= dict.fromkeys(
            ("student_features", "teacher_features"), "a `teacher` whose stages are paired with the model's"
        )
    return missing


def _objection(name: str, num_classes: int, missing: dict[str, str]) -> str | None:
    """Return why a metric cannot be computed, or None where it can."""
    row = METRICS[name]
    if num_classes < row.least_classes:
        return f"metric '{name}' needs {row.least_classes} classes at least, the data has {num_classes}: leave it out"
    if num_classes > row.most_classes:
        return f"metric '{name}' is of {row.most_classes:,} classes at most, the data has {num_classes:,}: leave it out"
    lacking = [missing[signal] for signal in row.needs if signal in missing]
    return f"metric '{name}' needs {lacking[0]}: give one, or leave the metric out" if lacking else None
