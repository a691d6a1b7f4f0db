"""What a run leaves: its student's weights as they were after some epoch, and what they are worth on the test split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from angularkd.metrics import evaluate
from angularkd.models import save_weights
from angularkd.runs import RunFolder, StudentMetadata
from angularkd.training.checkpoint import TrainingState
from angularkd.training.job import Job


def final_results(job: Job, state: TrainingState) -> dict[str, Any]:
    """Evaluate on the test split, once: the last epoch's student, the validation-selected one, and the teacher."""
    classes = len(job.data.dataset.classes)
    same_classes = job.teacher is not None and job.teacher.outputs == classes
    predict_teacher = job.predict_teacher if same_classes else None
    module = job.result.module

    def measure() -> dict[str, float]:
        return evaluate(module, job.predict, job.test.epoch(0), classes, teacher=predict_teacher)

    metrics = {"last epoch": measure()}
    with _holding(module, state.best_weights):
        metrics["selected epoch"] = measure()
    if job.teacher is not None and same_classes:
        metrics["teacher"] = evaluate(job.teacher.module, job.predict_teacher, job.test.epoch(0), classes)
    return {
        "metrics": metrics,
        "images": len(job.data.dataset.test),
        "epochs": state.epoch,
        "selected_epoch": state.best_epoch,
        "selected_validation_accuracy": state.best_accuracy,
        "parameters": job.student.parameters,
        "left_out": list(job.data.dataset.left_out),
    }


def save_best(job: Job, folder: RunFolder, state: TrainingState) -> None:
    """Write the best epoch's student as the checkpoint knows it, whatever the file holds."""
    with _holding(job.result.module, state.best_weights):
        save_weights(folder.best, job.result.module, student_metadata(job))


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


def student_metadata(job: Job) -> dict[str, Any]:
    """Return what the student's file says of itself."""
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
    ).as_dict()
