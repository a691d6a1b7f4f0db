"""The parts of a training run, ready to go."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from angularkd.config import Recipe
from angularkd.data import Batches, Views
from angularkd.distillation import CachedTeacher, Distiller
from angularkd.metrics import Predict
from angularkd.models import Classifier
from angularkd.training.build_data import Data
from angularkd.training.ema import AveragedStudent
from angularkd.training.teacher_validation import TeacherValidation


@dataclass(frozen=True)
class Job:
    """The parts of a training run, ready to go.

    Attributes:
        config: what was asked for, with every default that depends on models and data filled in.
        test: where it is in memory, decoded beforehand, so that a broken image does not end a long run; evaluated once, at its end.
        average: the moving average of the student's weights, where one is taken.
        cached: the teacher that the distiller holds, where that answers from a cache.
        teacher_validation: what the teacher says of validation images, where the default objective depended on that.
        teacher_ready: False while the teacher is yet to be fitted to the data, so that there is nothing to measure it by.
    """

    config: Recipe
    fabric: Fabric
    data: Data
    batches: Batches
    validation: Batches
    test: Batches
    views: Views
    teacher: Classifier | None
    student: Classifier
    distiller: Distiller
    optimizer: Optimizer
    scheduler: LambdaLR
    average: AveragedStudent | None = None
    cached: CachedTeacher | None = None
    teacher_validation: TeacherValidation | None = None
    teacher_ready: bool = True

    @property
    def notes(self) -> list[str]:
        """Return what was decided about the data and the models."""
        models = (*(self.teacher.notes if self.teacher is not None else ()), *self.student.notes)
        return list(dict.fromkeys((*self.data.dataset.notes, *models)))

    @property
    def result(self) -> Classifier:
        """Return what is validated and saved: the student, or the average of its weights where one is taken."""
        return self.student if self.average is None else replace(self.student, module=self.average.module)

    def predict(self, images: Tensor) -> Tensor:
        """Return the logits of `result` for images in 0..1."""
        return predictor(self.fabric, self.result)(images)

    def predict_teacher(self, images: Tensor) -> Tensor:
        """Return the teacher's logits for images in 0..1."""
        assert self.teacher is not None
        return predictor(self.fabric, self.teacher)(images)


def predictor(fabric: Fabric, classifier: Classifier) -> Predict:
    """Return a function from images in 0..1 to a classifier's logits, in the precision of the run."""

    def predict(images: Tensor) -> Tensor:
        with fabric.autocast():
            return classifier.predict(images)

    return predict
