"""What can be asked for: frozen, typed, strict models that are Python arguments, flags and YAML alike. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from tyro.conf import Positional, UseAppendAction, arg

from angularkd.config.objective import format_losses, parse_losses
from angularkd.errors import InputError, nearest

DEFAULT_LOSSES = {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 4.0}, "amd": 5000.0}
"""The objective of `distill` when none is given. The weights of ce and kd and the temperature are the field's usual ones; that of
amd is ours (docs/results.md shows others)."""

Spec = Annotated[str, arg(metavar="SPEC")]


class Config(BaseModel):
    """Checks itself on construction; `from_options` and `load` say in one line what does not fit."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def from_options(cls, **options: Any) -> Self:
        """Build from keyword arguments. Raises InputError naming the nearest valid option, or what is wrong with a value."""
        for name in options:
            if name not in cls.model_fields:
                valid = ", ".join(cls.model_fields)
                raise InputError(
                    f"unknown option '{name}'.{nearest(name, cls.model_fields)} The valid ones are: {valid}"
                )
        try:
            return cls(**{k: str(v) if isinstance(v, PathLike) else v for k, v in options.items()})
        except ValidationError as error:
            raise InputError(describe(error)) from None

    @classmethod
    def load(cls, path: str | Path) -> dict[str, Any]:
        """The options in a YAML file, checked; flags may still replace them, and give what is missing."""
        try:
            options = yaml.safe_load(Path(path).read_text()) or {}
        except OSError as error:
            raise InputError(f"there is no configuration file {path} to read ({error.strerror})") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(options, dict):
            raise InputError(f"{path} must hold 'option: value' lines, not a {type(options).__name__}")
        for name in options:
            if name not in cls.model_fields:
                raise InputError(
                    f"{path}: unknown key '{name}'.{nearest(str(name), cls.model_fields)} "
                    f"The valid ones are: {', '.join(cls.model_fields)}"
                )
        required = {name: "?" for name, field in cls.model_fields.items() if field.is_required()}
        valid = cls.from_options(**{**required, **options})
        return {name: getattr(valid, name) for name in options}

    def dump(self) -> str:
        """This configuration as YAML that `load` reads back; without the folder of the run, so that it can be repeated."""
        options = self.model_dump(mode="json", exclude={"out", "resume"})
        if "loss" in options:
            options["loss"] = getattr(self, "losses")  # noqa: B009
        return yaml.safe_dump(options, sort_keys=False, allow_unicode=True)


class DataOptions(Config):
    """Which images, at which size, split how."""

    data: Annotated[Positional[str], arg(metavar="DATA")]
    """Images: a folder of class folders, digits, cifar10:DIR, cifar100:DIR, cinic10:DIR, tiny-imagenet:DIR, imagenet:DIR,
    parquet:DIR, hf:NAME or shards:PATTERN."""
    image_size: int | tuple[int, int] | None = None
    """Height and width in pixels that images are brought to (one number: a square). Default: the size that the models
    were trained on, else the images' own where all are alike, else 32 for cifar/ models and 224 for others."""
    val_fraction: float = Field(0.1, gt=0, lt=0.5)
    """Share of the training images held out for validation, where the data has no validation split of its own."""
    split_seed: int = Field(0, ge=0, lt=2**32)
    """Seed of that draw alone: runs with different seeds see the same splits."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """An image that cannot be decoded: stop, naming it, before anything is trained, or skip it, with a note. To skip, every
    image is decoded once at the start."""
    batch_size: int = Field(128, gt=0)
    """Images a step. Where a GPU has room, more are evaluated at once."""
    loader: Literal["auto", "resident", "workers"] = "auto"
    """Where batches come from: resident, all images decoded into memory once; or workers, processes that decode them as
    they are needed. auto: resident where the images take at most 60 % of the free memory."""
    workers: int | None = Field(None, ge=0)
    """Processes that decode images, where workers do; 0: the run's own process. Default: one a core."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    """Arithmetic of the networks; losses always compute in float32 or wider. auto: bf16-mixed on GPUs that have it, else
    32-true: without instructions for it, bf16 is two to three times slower."""

    @field_validator("image_size", "input_size", "teacher_input_size", "student_input_size", check_fields=False)
    @classmethod
    def _positive_size(cls, size: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
        return _at_least_a_pixel(size)


class Recipe(DataOptions):
    """How a network is trained."""

    out: str | None = None
    """Folder of the run. Default: runs/ and a name made of the models and the seed."""
    resume: bool = False
    """Go on from the last checkpoint in the folder of the run."""
    epochs: int = Field(100, gt=0)
    """Passes over the training images."""
    augment: tuple[Literal["flip", "crop", "resized_crop", "trivial_augment", "rand_augment", "erase"], ...] | None = (
        None
    )
    """Augmentations. Default: what suits the data set (crop and flip for small photographs)."""
    mixup: float = Field(0.0, ge=0)
    """Alpha of mixup, for example 0.2: every batch is mixed with itself, and its labels too; 0 for none."""
    cutmix: float = Field(0.0, ge=0)
    """Alpha of CutMix, for example 1. With both, each batch is mixed by one of them."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Optimiser of the student."""
    lr: float | None = Field(None, gt=0)
    """Peak learning rate. Default: 0.1 for sgd, 0.001 for adamw."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of sgd."""
    nesterov: bool = True
    """Nesterov's form of the momentum of sgd."""
    weight_decay: float | None = Field(None, ge=0)
    """Weight decay. Default: 0.0005 for sgd, 0.05 for adamw."""
    schedule: Literal["cosine", "onecycle", "step", "constant"] = "cosine"
    """Course of the learning rate after the warm-up, step by step."""
    warmup_epochs: float = Field(0.0, ge=0)
    """Epochs of warm-up: linear from zero; of onecycle along half a cosine, and without a number for 30 % of the run."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Where the step schedule drops, as fractions of the run."""
    gamma: float = Field(0.1, gt=0, le=1)
    """Factor of each drop of the step schedule."""
    clip_norm: float | None = Field(None, gt=0)
    """Largest norm of the gradient; larger ones are scaled down to it."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of the exponential moving average of the student's weights, for example 0.999; the averaged student is what
    is validated and saved."""
    compile: Literal["auto", "always", "never"] = "auto"
    """Compile the training step (torch.compile), which takes a minute or two. auto: where the run is expected to take ten
    minutes or more."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of initialisation, order and augmentation."""

    @field_validator("milestones")
    @classmethod
    def _fractions(cls, milestones: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < milestone < 1 for milestone in milestones) or list(milestones) != sorted(milestones):
            raise ValueError("must be rising fractions of the run between 0 and 1, such as 0.5 0.75")
        return milestones

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} leave nothing of {self.epochs} epochs: give fewer")
        if self.batch_size < 2:
            raise ValueError("batch_size must be at least 2 in training: batch normalisation needs more than one image")
        return self


class TrainConfig(Recipe):
    """Train or fine-tune a classifier: a teacher, or a baseline."""

    model: Spec
    """What to train: cifar/NAME, timm/NAME, torchvision/NAME, hf/NAME, a run's folder or FILE.py:CALLABLE."""
    weights: str | None = None
    """File of weights to start from (safetensors, or a PyTorch checkpoint)."""
    pretrained: bool = False
    """Start from the weights that the model's library offers (timm/, torchvision/, hf/)."""
    new_head: bool = False
    """Start the classification layer anew when the weights were trained for other classes."""
    train_only_head: bool = False
    """Train the classification layer alone: all other weights, and the batch-norm statistics, stay as they are."""
    normalization: str | None = None
    """Mean and standard deviation that the model wants: imagenet, cifar10, cifar100, half, none, or six numbers
    'm,m,m/s,s,s'. Default: what comes with the weights, else the training images' own."""
    input_size: int | tuple[int, int] | None = None
    """Height and width that images are resized to for the model, after the augmentation. Default: not at all, unless it
    takes images of one size alone."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the label spread evenly over all classes."""


class DistillConfig(Recipe):
    """Distil a teacher into a student."""

    teacher: Spec
    """The frozen teacher: cifar/NAME, timm/NAME, torchvision/NAME, hf/NAME, a run's folder or FILE.py:CALLABLE."""
    student: Spec
    """The student to train, in the same words."""
    teacher_weights: str | None = None
    """File of the teacher's weights (safetensors, or a PyTorch checkpoint)."""
    teacher_classes: str | None = None
    """File (YAML or JSON) of lines NAME: CLASS for a teacher of other classes: from each of the data's classes to one of the
    teacher's, by name or index, or a list of several. Default: by equal names, where the teacher's are known and hold all."""
    teacher_train: Annotated[int | None, arg(metavar="EPOCHS")] = Field(None, gt=0)
    """Fit the teacher to the training images first for that many epochs, with a new classification layer if its classes
    are other; the run's folder then holds it as teacher/."""
    teacher_train_what: Literal["head", "all"] = "head"
    """What of the teacher is fitted then: its classification layer alone, or all of it."""
    student_weights: str | None = None
    """File of weights that the student starts from."""
    teacher_normalization: str | None = None
    """Mean and standard deviation that the teacher wants: imagenet, cifar10, cifar100, half, none, or six numbers
    'm,m,m/s,s,s'. Default: what comes with its weights, else the training images' own."""
    student_normalization: str | None = None
    """The same for the student."""
    teacher_input_size: int | tuple[int, int] | None = None
    """Height and width that images are resized to for the teacher, after the augmentation. Default: not at all, unless it
    takes images of one size alone."""
    student_input_size: int | tuple[int, int] | None = None
    """The same for the student."""
    loss: UseAppendAction[tuple[str, ...]] = ()
    """A loss as NAME=WEIGHT,OPTION=VALUE,...; repeat it for several. Default: ce=0.1 kd=0.9,temperature=4 amd=5000."""
    pairs: str | None = None
    """Which stages teach which, as 'TEACHER_MODULE:STUDENT_MODULE,...'. Default: matched by stride from the deep end."""

    cache: str | None = None
    """Folder of teacher caches: the teacher's answers are kept there, and it runs only for images that it has not seen in
    that view. Default: it runs in every step."""
    cache_views: int | None = Field(None, gt=0)
    """How many views are drawn of endless augmentation, such as resized_crop, before they come round again."""
    cache_logits: int | None = Field(None, gt=0)
    """Keep only that many of the teacher's largest logits in the cache, and what the others weigh together: for many
    classes. Temperatures above 1 then make too much of the others, being alike. Default: all of them."""

    @model_validator(mode="after")
    def _one_way_to_the_classes(self) -> Self:
        if self.teacher_train is not None and self.teacher_classes is not None:
            raise ValueError("teacher_train fits the teacher to the data's classes: leave out teacher_classes")
        return self

    @model_validator(mode="after")
    def _logits_of_a_cache(self) -> Self:
        if self.cache_logits is not None and self.cache is None:
            raise ValueError("cache_logits says what a cache keeps: name its folder with cache")
        return self

    @field_validator("loss", mode="before")
    @classmethod
    def _losses_as_text(cls, value: Any) -> Any:
        """Python and YAML give a mapping, the command line a list of texts; the texts are what is kept."""
        if isinstance(value, str):
            value = (value,)
        if not isinstance(value, Mapping | list | tuple):
            raise ValueError("losses are a mapping from names to weights, or texts NAME=WEIGHT")
        texts = format_losses(value) if isinstance(value, Mapping) else tuple(map(str, value))
        parse_losses(texts)
        return texts

    @property
    def losses(self) -> dict[str, Any]:
        """The objective as the mapping that `Distiller` takes."""
        return parse_losses(self.loss) or dict(DEFAULT_LOSSES)


class EvaluateConfig(DataOptions):
    """Measure a model, or a student beside its teacher."""

    model: Spec
    """What to measure: cifar/NAME, timm/NAME, torchvision/NAME, hf/NAME, a run's folder or FILE.py:CALLABLE."""
    weights: str | None = None
    """File of its weights (safetensors, or a PyTorch checkpoint)."""
    normalization: str | None = None
    """Mean and standard deviation that it wants: imagenet, cifar10, cifar100, half, none, or six numbers 'm,m,m/s,s,s'.
    Default: what comes with the weights, else the training images' own."""
    classes: str | None = None
    """File (YAML or JSON) of lines NAME: CLASS for a model of other classes: from each of the data's classes to one of the
    model's, by name or index, or a list of several."""
    input_size: int | tuple[int, int] | None = None
    """Height and width that images are resized to for the model. Default: not at all, unless it takes images of one size
    alone."""
    teacher: str | None = None
    """A teacher to compare with."""
    teacher_weights: str | None = None
    """File of the teacher's weights."""
    teacher_normalization: str | None = None
    """Mean and standard deviation that the teacher wants."""
    teacher_classes: str | None = None
    """From each of the data's classes to the teacher's. Default: by equal names, where the teacher's are known and hold all."""
    teacher_input_size: int | tuple[int, int] | None = None
    """Height and width that images are resized to for the teacher."""
    split: Literal["train", "val", "test"] = "test"
    """Which images."""
    json_file: str | None = None
    """Also write the figures to this file."""


class ExplainConfig(Config):
    """Show what AMD sees in one image: attention, positive, negative and angular maps of teacher and student."""

    image: Annotated[Positional[str], arg(metavar="IMAGE")]
    """The image: a file."""
    teacher: Spec
    """The teacher: cifar/NAME, timm/NAME, torchvision/NAME, hf/NAME, a run's folder or FILE.py:CALLABLE."""
    student: Spec
    """The student, in the same words; without weights it is shown untrained."""
    teacher_weights: str | None = None
    """File of the teacher's weights (safetensors, or a PyTorch checkpoint)."""
    student_weights: str | None = None
    """File of the student's weights."""
    teacher_normalization: str | None = None
    """Mean and standard deviation that the teacher wants: a name, or six numbers 'm,m,m/s,s,s'. Default: what comes with
    its weights, else ImageNet's."""
    student_normalization: str | None = None
    """The same for the student."""
    image_size: int | tuple[int, int] | None = None
    """Height and width in pixels that the image is brought to (one number: a square). Default: what the models were
    trained on, else 32 for cifar/ models and 224 for others."""
    pairs: str | None = None
    """Which stages to compare, as 'TEACHER_MODULE:STUDENT_MODULE,...'. Default: matched by stride from the deep end."""
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
        return _at_least_a_pixel(size)


def _at_least_a_pixel(size: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
    if size is not None and min(size if isinstance(size, tuple) else (size,)) < 1:
        raise ValueError("must be at least 1 pixel")
    return size


def describe(error: ValidationError) -> str:
    """What pydantic found, in one line: which option, what is wrong, what came."""
    parts = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"][:1])
        if problem["type"] == "missing":
            parts.append(f"the option '{name}' is required")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            parts.append(f"{name}: {message[0].lower()}{message[1:]}, got {problem['input']!r}")
    return "; ".join(dict.fromkeys(parts))
