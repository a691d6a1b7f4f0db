"""What a run leaves: its student's weights as they were after some epoch, and what they are worth on the test split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from angularkd.metrics import Predict, evaluate, temperature_on
from angularkd.models import save_weights
from angularkd.runs import RunFolder, StudentMetadata
from angularkd.system import ranks
from angularkd.training.job import Job
from angularkd.training.state import TrainingState

LAST, SELECTED = "last epoch", "selected epoch"
"""What a run's two students are called."""


def measured(
    job: Job, split: Literal["val", "test"], module: nn.Module, predict: Predict, **options: Any
) -> dict[str, Any]:
    """Return what `evaluate` does of all images of a split, of which each process of the run evaluates a part.

    Args:
        job: the run.
        split: whose images.
        module, predict: the model.
        options: of `evaluate`.
    """
    batches, dataset = job.validation if split == "val" else job.test, job.data.dataset
    shared = ranks.together() and len(dataset.splits[split]) >= ranks.count()
    if shared:
        batches = batches.part_of_samples(ranks.number(), ranks.count())
    return evaluate(module, predict, batches.epoch(0), len(dataset.classes), shared=shared, **options)


def fitted_temperatures(job: Job, state: TrainingState) -> dict[str, float]:
    """Return the temperature that calibrates the last epoch's student and the selected one, fitted on the validation images.

    A student whose logits are not finite has none.
    """
    module = job.result.module

    def fitted() -> float | None:
        return temperature_on(module, job.predict, job.validation.epoch(0), len(job.data.dataset.val))

    found = {LAST: fitted()}
    if state.best_epoch == state.epoch:
        found[SELECTED] = found[LAST]
    else:
        with _holding(module, state.best_weights):
            found[SELECTED] = fitted()
    return {name: temperature for name, temperature in found.items() if temperature is not None}


def final_results(job: Job, state: TrainingState, temperatures: Mapping[str, float]) -> dict[str, Any]:
    """Evaluate on the test split, once: the last epoch's student, the validation-selected one, and the teacher.

    Where there are no test images, nothing is evaluated, and there are no metrics.

    Args:
        job: the run.
        state: after its last epoch.
        temperatures: of `fitted_temperatures`.
    """
    classes = len(job.data.dataset.classes)
    same_classes = job.teacher is not None and job.teacher.outputs == classes
    predict_teacher = job.predict_teacher if same_classes else None
    module = job.result.module

    def measure(which: str) -> dict[str, Any]:
        temperature = temperatures.get(which)
        return measured(job, "test", module, job.predict, teacher=predict_teacher, temperature=temperature)

    metrics = {}
    if len(job.data.dataset.test):
        metrics[LAST] = measure(LAST)
        if state.best_epoch == state.epoch:
            metrics[SELECTED] = dict(metrics[LAST])
        else:
            with _holding(module, state.best_weights):
                metrics[SELECTED] = measure(SELECTED)
    if job.teacher is not None and same_classes and len(job.data.dataset.test):
        known = job.teacher.temperature
        metrics["teacher"] = measured(job, "test", job.teacher.module, job.predict_teacher, temperature=known)
        temperatures = {**temperatures, "teacher": known} if known is not None else temperatures
    return {
        "metrics": metrics,
        "temperature": dict(temperatures),
        "images": len(job.data.dataset.test),
        "epochs": state.epoch,
        "selected_epoch": state.best_epoch,
        "selected_validation_accuracy": state.best_accuracy,
        "parameters": job.student.parameters,
        "left_out": list(job.data.dataset.left_out),
    }


def save_best(job: Job, folder: RunFolder, state: TrainingState, temperature: float | None = None) -> None:
    """Write the best epoch's student as the checkpoint knows it, whatever the file holds."""
    with _holding(job.result.module, state.best_weights):
        save_weights(folder.best, job.result.module, student_metadata(job, temperature))


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a module's state on the host."""
    return {name: value.detach().to("cpu", copy=True) for name, value in module.state_dict().items()}


@contextmanager
def _holding(module: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Load other weights inside; afterwards the module has its own again."""
    own = weights_of(module)
    module.load_state_dict(weights)
    try:
        yield
    finally:
        module.load_state_dict(own)


def student_metadata(job: Job, temperature: float | None = None) -> dict[str, Any]:
    """Return what the student's file says of itself, with the temperature that calibrates it where one is fitted."""
    preprocessing = job.student.preprocessing
    assert preprocessing is not None
    return StudentMetadata(
        model=job.student.architecture or job.student.spec,
        classes=list(job.data.dataset.classes),
        image_size=list(job.views.image_size),
        mean=list(preprocessing.mean),
        std=list(preprocessing.std),
        input_size=preprocessing.size,
        channels=[list(shares) for shares in preprocessing.channels] if preprocessing.channels is not None else None,
        torch=torch.__version__,
        temperature=temperature,
    ).as_dict()
