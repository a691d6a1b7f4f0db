"""The configuration of each command: its class's fields are the keyword arguments of its function and its flags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from tyro.conf import Positional, UseAppendAction, arg

from angularkd.config.base import Config
from angularkd.config.objective import DEFAULT_LOSSES, format_losses, parse_losses
from angularkd.config.options import (
    CacheOptions,
    DataOptions,
    ModelOptions,
    PairOptions,
    Recipe,
    Spec,
    StudentOptions,
    TeacherOptions,
    TeacherWeights,
    at_least_a_pixel,
)


class TrainConfig(ModelOptions, Recipe):
    """Train or fine-tune a classifier: a teacher, or a baseline."""

    pretrained: bool = False
    """Start from the weights that the model's library offers (timm/, torchvision/, hf/)."""
    new_head: bool = False
    """Start the classification layer anew when the weights were trained for other classes."""
    train_only_head: bool = False
    """Train the classification layer alone: all other weights, and the batch-norm statistics, stay as they are."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the label spread evenly over all classes."""


class DistillConfig(CacheOptions, PairOptions, TeacherOptions, StudentOptions, Recipe):
    """Distil a teacher into a student."""

    teacher: Spec
    """The frozen teacher: cifar/NAME, timm/NAME, torchvision/NAME, hf/NAME, a run's folder or FILE.py:CALLABLE."""
    teacher_train: Annotated[int | None, arg(metavar="EPOCHS")] = Field(None, gt=0)
    """Fit the teacher to the training images first for that many epochs, with a new classification layer if its classes
    are other; the run's folder then holds it as teacher/."""
    teacher_train_what: Literal["head", "all"] = "head"
    """What of the teacher is fitted then: its classification layer alone, or all of it."""
    student_input_size: int | tuple[int, int] | None = None
    """Height and width that images are resized to for the student, after the augmentation. Default: not at all, unless it
    takes images of one size alone."""
    loss: UseAppendAction[tuple[str, ...]] = ()
    """A loss as NAME=WEIGHT,OPTION=VALUE,...; repeat it for several. Default: ce=0.1
    kd=0.9,temperature=4 amd=auto,share=0.5,centered=true,stage_weights=balanced. A weight of auto is found before the first
    step, so that the loss gets its share of the gradient."""

    insist: bool = False
    """Go on although a loss takes nearly all of the first gradient, which keeps students from learning their classes."""

    @model_validator(mode="after")
    def _one_way_to_the_classes(self) -> Self:
        if self.teacher_train is not None and self.teacher_classes is not None:
            raise ValueError("`teacher_train` fits the teacher to the data's classes: leave out `teacher_classes`")
        return self

    @field_validator("loss", mode="before")
    @classmethod
    def _losses_as_text(cls, value: Any) -> Any:
        """Turn a mapping (of Python and YAML) or texts (of the command line) into texts, the form that is stored."""
        if isinstance(value, str):
            value = (value,)
        if not isinstance(value, Mapping | list | tuple):
            raise ValueError("losses are a mapping from names to weights, or texts NAME=WEIGHT")
        texts = format_losses(value) if isinstance(value, Mapping) else tuple(map(str, value))
        parse_losses(texts)
        return texts

    @property
    def losses(self) -> dict[str, Any]:
        """Return the objective as the mapping that `Distiller` takes."""
        return parse_losses(self.loss) or dict(DEFAULT_LOSSES)


class EvaluateConfig(TeacherOptions, ModelOptions, DataOptions):
    """Measure a model, or a student beside its teacher."""

    classes: str | None = None
    """File (YAML or JSON) of lines NAME: CLASS for a model of other classes: from each of the data's classes to one of the
    model's, by name or index, or a list of several."""
    teacher: str | None = None
    """A teacher to compare with."""
    split: Literal["train", "val", "test"] = "test"
    """Which images."""
    metrics: tuple[str, ...] = ()
    """Metrics to compute; angularkd list metrics shows all. Default: the usual ones."""
    json_file: str | None = None
    """Also write the figures to this file."""


class ExplainConfig(PairOptions, TeacherWeights, StudentOptions):
    """Show what AMD compares in one image: attention, positive, negative and angular maps of teacher and student."""

    image: Annotated[Positional[str], arg(metavar="IMAGE")]
    """The image: a file."""
    teacher: Spec
    """The teacher: cifar/NAME, timm/NAME, torchvision/NAME, hf/NAME, a run's folder or FILE.py:CALLABLE."""
    image_size: int | tuple[int, int] | None = None
    """Height and width in pixels that the image is brought to (one number: a square). Default: what the models were
    trained on, else 32 for cifar/ models and 224 for others."""
    margins: tuple[float, ...] = (1.0, 1.35, 2.0)
    """Angular margins to compare; 1 is none, 1.35 AMD's own."""
    attention: str = "power"
    """Attention mechanism; angularkd list losses shows all."""
    out: str = "explanation.png"
    """File of the figure: .png, .svg or .pdf."""
    json_file: str | None = None
    """Also write the figures' numbers, distances and cosines, to this file."""

    @field_validator("margins")
    @classmethod
    def _some_margins(cls, margins: tuple[float, ...]) -> tuple[float, ...]:
        if not margins or min(margins) <= 0 or len(set(margins)) < len(margins):
            raise ValueError("must be one or more different numbers above 0, such as 1 1.35")
        return margins

    @field_validator("image_size")
    @classmethod
    def _positive_size(cls, size: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
        return at_least_a_pixel(size)


class DemoConfig(Config):
    """Train a teacher, and the student from scratch, with KD and with AMD, on the digits inside scikit-learn."""

    out: str | None = None
    """Folder of the runs. Default: the first free one of runs/demo, runs/demo-2, ..."""
    seeds: int = Field(4, gt=1)
    """How many seeds of each student; the table gives their mean and standard deviation."""
