"""The configuration of each command: its class's fields are the keyword arguments of its function and its flags."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from tyro.conf import Positional, UseAppendAction, arg

from angularkd.config.base import LARGEST, MOST_EPOCHS, MOST_IMAGES, Config, FileName
from angularkd.config.objective import format_losses, parse_losses
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
    TrustOptions,
    pixels,
)
from angularkd.defaults import DEFAULT_LOSSES

LARGEST_MARGIN = 100
MOST_SEEDS = 1_000


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
    teacher_train: Annotated[int | None, arg(metavar="EPOCHS")] = Field(None, gt=0, le=MOST_EPOCHS)
    """Fit the teacher to the training images first for that many epochs, with a new classification layer if its classes
    are other; the run's folder then holds it as teacher/."""
    teacher_train_what: Literal["head", "all"] = "head"
    """What of the teacher is fitted then: its classification layer alone, or all of it."""
    teacher_train_optimizer: Literal["sgd", "adamw"] | None = None
    """Optimiser of that fit. Default: adamw."""
    teacher_train_lr: float | None = Field(None, gt=0, le=LARGEST)
    """Its peak learning rate. Default: what suits what is fitted, as `lr` says."""
    teacher_train_weight_decay: float | None = Field(None, ge=0, le=LARGEST)
    """Its weight decay. Default: 0.05 for adamw, 0.0005 for sgd."""
    student_pretrained: bool = False
    """Start the student from the weights that its library offers (timm/, torchvision/, hf/), with a new classification layer where its
    classes are other."""
    student_input_size: int | tuple[int, int] | None = None
    """Height and width that images are resized to for the student, after the augmentation. Default: not at all, unless it
    takes images of one size alone."""
    loss: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=WEIGHT")] = ()
    """A loss as NAME=WEIGHT,OPTION=VALUE,...; repeat it for several. Default: ce=0.1
    kd=0.9,temperature=4 amd=auto,centered=true,stage_weights=balanced, and ce=1 and that amd alone where the teacher's predictions are
    far more certain than right. A weight of auto is found before the first step, so that the loss gets its share of the gradient."""

    baseline: bool = False
    """First train the student without the teacher, by the same recipe and seed, in baseline/ of the run's folder; the end then says
    whether distillation helped."""
    insist: bool = False
    """Go on although a loss takes nearly all of the first gradient, which keeps students from learning their classes, or the teacher is
    no better than chance."""

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
        if isinstance(value, Mapping) and not value:
            raise ValueError(
                "the objective is empty: give at least one loss a weight, for example ce=1, or leave `loss` out"
            )
        texts = format_losses(value) if isinstance(value, Mapping) else tuple(map(str, value))
        parse_losses(texts)
        return texts

    @property
    def losses(self) -> dict[str, Any]:
        """Return the objective as the mapping that `Distiller` takes."""
        return parse_losses(self.loss) or dict(DEFAULT_LOSSES)


class VerifyConfig(DistillConfig):
    """Check what a teacher's cache stores."""

    verify_batches: Annotated[int, Field(gt=0, le=MOST_IMAGES)] | Literal["all"] = 20
    """How many batches of stored answers, evenly spread over the views and images, are compared with the live teacher: a number, or
    all. Every stored row is checked by its checksum in any case."""


class CacheInfoConfig(Config):
    """Describe the teacher caches in a folder; no teacher and no images are opened."""

    folder: Annotated[Positional[FileName], arg(metavar="FOLDER")]
    """The folder that --cache of a run names, or one of the caches in it."""


class EvaluateConfig(TeacherOptions, ModelOptions, DataOptions):
    """Measure a model, or a student beside its teacher."""

    classes: FileName | None = None
    """File (YAML or JSON) of lines NAME: CLASS for a model of other classes: from each of the data's classes to one of the
    model's, by name or index, or a list of several."""
    teacher: FileName | None = None
    """A teacher to compare with."""
    split: Literal["train", "val", "test"] = "test"
    """Which images."""
    metrics: tuple[str, ...] = ()
    """Metrics to compute; angularkd list metrics shows all. Default: the usual ones."""
    json_file: FileName | None = None
    """Also write the figures to this file."""


class ExplainConfig(PairOptions, TeacherWeights, StudentOptions):
    """Show where teacher and student look in one image, which is what AMD compares."""

    image: Annotated[Positional[FileName], arg(metavar="IMAGE")]
    """The image: a file."""
    teacher: Spec
    """The teacher: cifar/NAME, timm/NAME, torchvision/NAME, hf/NAME, a run's folder or FILE.py:CALLABLE."""
    image_size: int | tuple[int, int] | None = None
    """Height and width in pixels that the image is brought to (one number: a square). Default: what the models were
    trained on, else 32 for cifar/ models and 224 for others."""
    parts: bool = False
    """Also draw AMD's parts, the negative, positive and angular maps, and print how alike their gradients are."""
    margins: tuple[float, ...] = (1.35,)
    """Angular margins to compare, such as 1 1.35 2; 1 is none, 1.35 AMD's own."""
    attention: str = "power"
    """Attention mechanism; angularkd list losses shows all."""
    out: FileName = "explanation.png"
    """File of the figure: .png, .svg or .pdf."""
    json_file: FileName | None = None
    """Also write the figures' numbers, distances and cosines, to this file."""

    @field_validator("margins")
    @classmethod
    def _some_margins(cls, margins: tuple[float, ...]) -> tuple[float, ...]:
        if (
            not margins
            or not all(0 < margin <= LARGEST_MARGIN for margin in margins)
            or len(set(margins)) < len(margins)
        ):
            raise ValueError(f"must be one or more different numbers above 0, at most {LARGEST_MARGIN}, such as 1 1.35")
        return margins

    @field_validator("image_size")
    @classmethod
    def _positive_size(cls, size: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
        return pixels(size)


class PredictConfig(TrustOptions):
    """Classify images with a student, or with a file that was exported of it."""

    run: Annotated[Positional[FileName], arg(metavar="RUN")]
    """The student: a run's folder, or a file or folder that angularkd export has made."""
    images: Annotated[Positional[tuple[FileName, ...]], arg(metavar="IMAGES")] = Field(min_length=1)
    """Images: files, and folders of them."""
    top: int = Field(5, gt=0, le=MOST_IMAGES)
    """How many classes are shown of each image, the most probable first."""
    json_file: FileName | None = None
    """Also write these classes, with their probabilities, to this file."""
    batch_size: int = Field(32, gt=0, le=MOST_IMAGES)
    """Images at once."""
    calibrated: bool = True
    """Divide logits by the temperature that was fitted on the run's validation images, where the file says one: the classes stay, the
    probabilities mean what they say."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; exported files run on the CPU."""


class ReplayConfig(TrustOptions):
    """Run a step again whose loss or gradient was not finite, with the weights of then, and show where the first such number comes from."""

    run: Annotated[Positional[FileName], arg(metavar="RUN")]
    """The run's folder, which holds nonfinite.json then."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""


class ExportConfig(TrustOptions):
    """Write a run's student as a file that other programs run, checked against the original before it is put in place."""

    run: Annotated[Positional[FileName], arg(metavar="RUN")]
    """The run's folder."""
    format: Literal["onnx", "torch-export", "safetensors", "timm", "openvino"] = "onnx"
    """What to write: a program with its preprocessing inside (onnx, torch-export, openvino), or weights (safetensors, timm)."""
    int8: bool = False
    """Also write an 8-bit form of the ONNX file, calibrated on training images."""
    include_preprocessing: bool = False
    """Take 8-bit images and give probabilities. Otherwise the file takes numbers in 0..1 and gives logits; normalisation is
    inside in any case."""
    layout: Literal["nhwc", "nchw"] | None = None
    """Axes of the images: [batch, height, width, 3] or [batch, 3, height, width]. Default: nhwc with include_preprocessing, else
    nchw."""
    out: FileName | None = None
    """Folder of the export. Default: exports/FORMAT in the folder of the run."""
    check_data: str | None = None
    """DATA to check the file and to calibrate with. Default: that of the run."""
    check_images: tuple[FileName, ...] = ()
    """Images (files, and folders of them) to compare the file with the student on, in place of the data's test images."""
    check_most: int | None = Field(None, gt=0)
    """At most so many test images, evenly spread. Default: all of them."""

    @field_validator("check_images", mode="before")
    @classmethod
    def _some_images(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return (value,) if isinstance(value, str) else value
        return [str(one) if isinstance(one, PathLike) else one for one in value]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.int8 and self.format != "onnx":
            raise ValueError("`int8` is a form of ONNX: leave `format` at onnx, or leave out `int8`")
        if self.format in ("safetensors", "timm") and (self.include_preprocessing or self.layout is not None):
            raise ValueError(
                f"`format={self.format}` holds weights alone: leave out `include_preprocessing` and `layout`, or take `format=onnx`"
            )
        return self


class DemoConfig(Config):
    """Train a teacher, and the student from scratch, with KD and with AMD, on the digits inside scikit-learn."""

    out: FileName | None = None
    """Folder of the runs. Default: the first free one of runs/demo, runs/demo-2, ..."""
    seeds: int = Field(4, gt=1, le=MOST_SEEDS)
    """How many seeds of each student; the table gives their mean and standard deviation."""
    student: Spec = "cifar/resnet8"
    """The student, a SPEC: one of your own, FILE.py:CALLABLE, takes images of 8x8."""
