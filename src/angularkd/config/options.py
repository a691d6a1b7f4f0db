"""The options that several commands share, each with its text in one place."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from tyro.conf import Positional, arg

from angularkd.config.base import (
    LARGEST,
    MOST_EPOCHS,
    MOST_IMAGES,
    MOST_PIXELS,
    MOST_WORKERS,
    Config,
    FileName,
    check_file_name,
)
from angularkd.config.intervals import parse_interval

Spec = Annotated[FileName, arg(metavar="SPEC")]

LEAST_ALPHA, LARGEST_ALPHA = 1e-3, 1e3
"""Of mixing: below and above, all shares that are drawn are the same to six digits."""


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
    batch_size: int = Field(128, gt=0, le=MOST_IMAGES)
    """Images a step, of all devices together. Where a GPU has room, more are evaluated at once."""
    loader: Literal["auto", "resident", "workers"] = "auto"
    """Where batches come from: resident, all images decoded into memory once; or workers, processes that decode them as
    they are needed. auto: resident where the images take at most 60 % of the free memory."""
    workers: int | None = Field(None, ge=0, le=MOST_WORKERS)
    """Processes that decode images, where workers do; 0: the run's own process. Default: one a core."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    """Arithmetic of the networks; losses always compute in float32 or wider. auto: bf16-mixed on GPUs that have it, and in training
    on processors that have it (AVX-512 BF16, AMX) where the student gains by it: from 20 million operations an image on, and without
    grouped convolutions; else 32-true. Without instructions for it, bf16 is two to four times slower."""

    @field_validator("image_size", "input_size", "teacher_input_size", "student_input_size", check_fields=False)
    @classmethod
    def _positive_size(cls, size: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
        return pixels(size)

    @field_validator("data")
    @classmethod
    def _names(cls, data: str) -> str:
        return (
            data if data.startswith("shards:") else check_file_name(data)
        )  # a pattern is longer than the names it is for


class TrustOptions(Config):
    """Whose code may run."""

    trust: tuple[FileName, ...] = ()
    """Python files whose code may run although no SPEC of this command names them, but a file does: the folder of a run, or the one that
    --config reads, can hold a model that is FILE.py:CALLABLE. Read them first."""

    @field_validator("trust", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @property
    def trusted(self) -> tuple[str, ...]:
        """Return the files whose code may run: those that are trusted, and those of the models that this command names itself."""
        specs = [getattr(self, name, None) for name in ("model", "teacher", "student")]
        return (*self.trust, *(spec.rpartition(":")[0] for spec in specs if spec is not None and ".py:" in spec))


class ModelOptions(TrustOptions):
    """A model, its weights, and what it does to images first."""

    model: Spec
    """The model: cifar/NAME, timm/NAME, torchvision/NAME, hf/NAME, a run's folder or FILE.py:CALLABLE."""
    weights: FileName | None = None
    """File of its weights (safetensors, or a PyTorch checkpoint)."""
    normalization: str | None = None
    """Mean and standard deviation that the model needs: imagenet, cifar10, cifar100, half, none, or six numbers
    'm,m,m/s,s,s'. Default: what comes with the weights, else the training images' own."""
    input_size: int | tuple[int, int] | None = None
    """Height and width that images are resized to for the model, after the augmentation. Default: not at all, unless it
    takes images of one size alone."""


class TeacherWeights(TrustOptions):
    """Where a teacher's weights come from, and the normalization that they need."""

    teacher_weights: FileName | None = None
    """File of the teacher's weights (safetensors, or a PyTorch checkpoint)."""
    teacher_normalization: str | None = None
    """Mean and standard deviation that the teacher needs: imagenet, cifar10, cifar100, half, none, or six numbers
    'm,m,m/s,s,s'. Default: what comes with its weights, else the training images' own (explain: ImageNet's)."""


class TeacherOptions(TeacherWeights):
    """A teacher for a data set: its classes and its images, too."""

    teacher_classes: FileName | None = None
    """File (YAML or JSON) of lines NAME: CLASS for a teacher of other classes: from each of the data's classes to one of the
    teacher's, by name or index, or a list of several. Default: by equal names, where the teacher's are known and hold all."""
    teacher_input_size: int | tuple[int, int] | None = None
    """Height and width that images are resized to for the teacher, after the augmentation. Default: not at all, unless it
    takes images of one size alone."""


class StudentOptions(Config):
    """A student, where its weights come from, and the normalization that they need."""

    student: Spec
    """The student, a SPEC as the teacher is."""
    student_weights: FileName | None = None
    """File of weights that the student starts from, with a new classification layer where its classes are other; explain shows a
    student without weights untrained."""
    student_normalization: str | None = None
    """Mean and standard deviation that the student needs, in the words of teacher_normalization."""


class PairOptions(Config):
    """Which stages of two networks belong together."""

    pairs: str | None = None
    """Which stages teach which, as 'TEACHER_MODULE:STUDENT_MODULE,...'. Default: matched by stride from the deep end."""


class CacheOptions(Config):
    """Where the teacher's answers are stored."""

    cache: FileName | None = None
    """Folder of teacher caches: the teacher's answers are stored there, and it runs only for images that it has not answered
    in that view. Default: it runs in every step."""
    cache_views: int | None = Field(None, gt=0, le=MOST_IMAGES)
    """How many views of an image are drawn before they come round again: of endless augmentation, such as resized_crop, whose cache
    needs it, and of crops with flips, of which there are 162 where a cache of 16 takes a tenth of the disk. Default: all there are."""
    cache_logits: int | None = Field(None, gt=0, le=MOST_IMAGES)
    """Store only that many of the teacher's largest logits, and the sum of the others' probabilities: for many
    classes. Temperatures above 1 then make too much of the others, being alike. Default: all of them."""

    cache_maps: Literal["float16", "uint8"] = "float16"
    """Type in which maps are stored: float16, or uint8, which halves the cache and changes AMD's gradient by less than 1 %."""

    @model_validator(mode="after")
    def _what_a_cache_stores(self) -> Self:
        for name in ("cache_logits", "cache_maps"):
            if self.cache is None and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` says what a cache stores: name its folder with `cache`")
        return self


class Recipe(DataOptions):
    """How a network is trained."""

    out: FileName | None = None
    """Folder of the run. Default: runs/ and a name made of the models and the seed."""
    resume: bool = False
    """Go on from the last checkpoint in the folder of the run."""
    checkpoint_every: Annotated[str, arg(metavar="INTERVAL")] = "1epoch"
    """How often a checkpoint is written, from which a run that was killed goes on: 500steps, 10min, 2epochs. A run that is asked to
    stop (Ctrl-C, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2) writes one at its next step in any case."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """A step whose loss or gradient is not finite: stop, saying where that comes from, or leave the step out and count it. Its batch is
    written down for angularkd replay."""
    epochs: int = Field(100, gt=0, le=MOST_EPOCHS)
    """Passes over the training images."""
    augment: tuple[Literal["flip", "crop", "resized_crop", "trivial_augment", "rand_augment", "erase"], ...] | None = (
        None
    )
    """Augmentations. Default: what suits the data set (crop and flip for small photographs)."""
    mixup: float = Field(0.0, ge=0, le=LARGEST_ALPHA)
    """Alpha of mixup, for example 0.2: every batch is mixed with itself, and its labels too; 0 for none."""
    cutmix: float = Field(0.0, ge=0, le=LARGEST_ALPHA)
    """Alpha of CutMix, for example 1. With both, each batch is mixed by one of them."""
    optimizer: Literal["sgd", "adamw"] | None = None
    """Optimiser. Default: adamw for trained weights and for classification layers alone; sgd from scratch, and with an lr of one's own."""
    lr: float | None = Field(None, gt=0, le=LARGEST)
    """Peak learning rate. Default: from scratch 0.1 for sgd, 0.001 for adamw; for trained weights 0.003 and 0.001; for the
    classification layer alone 0.01 and 0.003."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of sgd."""
    nesterov: bool = True
    """Nesterov's form of the momentum of sgd."""
    weight_decay: float | None = Field(None, ge=0, le=LARGEST)
    """Weight decay. Default: 0.0005 for sgd, 0.05 for adamw."""
    schedule: Literal["cosine", "onecycle", "step", "constant"] = "cosine"
    """Course of the learning rate after the warm-up, step by step."""
    warmup_epochs: float = Field(0.0, ge=0)
    """Epochs of warm-up: linear from zero; of onecycle along half a cosine, and without a number for 30 % of the run."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Where the step schedule drops, as fractions of the run."""
    gamma: float = Field(0.1, gt=0, le=1)
    """Factor of each drop of the step schedule."""
    clip_norm: float | None = Field(None, gt=0, le=LARGEST)
    """Largest norm of the gradient; larger ones are scaled down to it."""
    accumulate: int = Field(1, gt=0, le=MOST_IMAGES)
    """Batches whose gradients are added up to one step, that of a batch so many times as large, but for what batch normalisation, and
    losses that compare the samples of a batch, make of it."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of the exponential moving average of the student's weights, for example 0.999; the averaged student is what
    is validated and saved."""
    compile: Literal["auto", "always", "never"] = "auto"
    """Compile the training step (torch.compile), which takes a minute or two. auto: where the run is expected to take ten
    minutes or more."""
    devices: int = Field(1, gt=0, le=MOST_WORKERS)
    """GPUs of this machine, or with device=cpu processes, that share every batch; torchrun --nproc-per-node N does the same, and over
    several machines."""
    sync_batchnorm: bool = False
    """With several devices, let batch normalisation take its statistics over all of them, as one device would."""
    lr_scaling: Literal["none", "linear"] = "none"
    """linear: multiply the learning rate by the images of a step over 128, those that the recipes are for (batch_size times accumulate)."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of initialisation, order and augmentation."""
    report: bool = True
    """Leave a report of the finished run in its folder: report.html, with its figures beside it."""
    tensorboard: bool = False
    """Log the numbers of each epoch for TensorBoard, too, in tensorboard/ in the folder of the run."""

    @field_validator("checkpoint_every")
    @classmethod
    def _interval(cls, text: str) -> str:
        parse_interval(text)
        return text

    @field_validator("mixup", "cutmix")
    @classmethod
    def _alpha(cls, alpha: float) -> float:
        if 0 < alpha < LEAST_ALPHA:
            raise ValueError(f"must be 0 for none, or {LEAST_ALPHA:g} or more")
        return alpha

    @field_validator("milestones")
    @classmethod
    def _fractions(cls, milestones: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < milestone < 1 for milestone in milestones) or list(milestones) != sorted(milestones):
            raise ValueError("must be rising fractions of the run between 0 and 1, such as 0.5 0.75")
        return milestones

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"`warmup_epochs` of {self.warmup_epochs:g} leave nothing of {self.epochs} epochs: give fewer"
            )
        if self.batch_size < 2:
            raise ValueError(
                "`batch_size` must be at least 2 in training: batch normalisation needs more than one image"
            )
        return self


def pixels(size: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
    """Return the size. Raise ValueError, which pydantic turns into a message, unless it is a pixel or more, and no more than can be."""
    if size is not None and not all(
        1 <= side <= MOST_PIXELS for side in (size if isinstance(size, tuple) else (size,))
    ):
        raise ValueError(f"must be at least 1 pixel, and at most {MOST_PIXELS:,}")
    return size
