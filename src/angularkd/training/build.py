"""From a configuration to the parts of a training run: the only place that sees both."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from angularkd.config import (
    MAPS_ALONE,
    DistillConfig,
    Recipe,
    TrainConfig,
    format_losses,
    with_weights,
)
from angularkd.data import Batches, DataSet, ResidentImages, Views
from angularkd.distillation import CachedTeacher, Distiller, LiveTeacher, built_for
from angularkd.errors import InputError
from angularkd.losses import check_soft_labels, read_terms, signals_of
from angularkd.metrics import Predict, largest_batch
from angularkd.models import (
    Classifier,
    Size,
    Traces,
    check_class_order,
    check_student,
    fit_to_images,
    freeze_all_but_head,
    is_own,
    open_classifier,
    with_preprocessing,
)
from angularkd.system.devices import open_fabric, place, resolve_precision
from angularkd.system.modes import mode
from angularkd.system.ranks import count, once
from angularkd.training.build_data import Data, as_size, mixed, noted, sized, training_batches
from angularkd.training.cache_key import describe_answers
from angularkd.training.class_logits import class_logits
from angularkd.training.ema import AveragedStudent
from angularkd.training.job import Job, predictor
from angularkd.training.modules import Modules
from angularkd.training.opening import check_classes, check_offered, counting, open_teacher
from angularkd.training.optimisation import build_optimizer, schedule, steps_an_epoch
from angularkd.training.precision import answers_in, in_precision
from angularkd.training.recipes import recipe_note, trained_part, with_recipe
from angularkd.training.sync_batchnorm import synchronise
from angularkd.training.teacher_validation import TeacherValidation, validate_teacher

WEIGHED_BATCHES = 4
"""Batches on whose gradients weights of `auto` are found."""


@dataclass(frozen=True)
class _Models:
    """The networks of a run as they were opened, the sizes that images are resized to for them, and what was traced before."""

    student: Classifier
    teacher: Classifier | None = None
    student_size: Size | None = None
    teacher_size: Size | None = None
    traces: Traces = field(default_factory=Traces)
    teacher_ready: bool = True


def build_distillation(
    config: DistillConfig,
    dataset: DataSet,
    traces: Traces | None = None,
    fitted_teacher: str | None = None,
    modules: Modules = MappingProxyType({}),
) -> Job:
    """Build everything that `distill` and `plan` need.

    Args:
        config: the configuration; its seed has been set by the caller (`angularkd.system.modes.seeded`).
        dataset: what `open_dataset` returned for it.
        traces: of the networks that this command has built before; those of this run are added.
        fitted_teacher: the folder of the run that fitted the teacher to the data, when `teacher_train` asks for one and it is done.
        modules: networks that were passed as they are, by role.

    Raises:
        InputError: before any image is decoded where that can be known.
    """
    terms = read_terms(config.losses)
    if config.mixup or config.cutmix:
        check_soft_labels(terms)
        if config.cache is not None:
            raise InputError(
                "mixup and CutMix make images that are in no cache, so the teacher must run live: leave out `cache`, or them"
            )
    classes, traces = len(dataset.classes), traces or Traces()
    sizes = as_size(config.student_input_size), as_size(config.teacher_input_size)
    count_students, count_teachers = (
        counting(traces, spec, size, config, dataset)
        for spec, size in zip((config.student, config.teacher), sizes, strict=True)
    )
    student = open_classifier(
        config.student,
        classes,
        weights=config.student_weights,
        normalization=config.student_normalization,
        pretrained=config.student_pretrained,
        new_head=True,
        trust=config.trusted,
        module=modules.get("student"),
        count_outputs=count_students,
    )
    check_offered(config.student, student, config.student_pretrained, "student_")
    check_student(student, classes)
    if fitted_teacher is not None:
        module = modules.get("teacher")
        teacher = open_classifier(
            fitted_teacher, classes, trust=config.trusted, module=module, count_outputs=count_teachers
        )
    else:
        teacher = open_teacher(config, config.teacher, dataset.classes, modules, count_teachers)
    check_classes(teacher, classes, signals_of(terms))
    ready = config.teacher_train is None or fitted_teacher is not None
    models = _Models(student, teacher, *sizes, traces, teacher_ready=ready)
    return _assemble(config, dataset, models, config.losses)


def build_training(
    config: TrainConfig, dataset: DataSet, traces: Traces | None = None, modules: Modules = MappingProxyType({})
) -> Job:
    """Build everything that `train` needs; arguments and errors are those of `build_distillation`."""
    traces, size = traces or Traces(), as_size(config.input_size)
    model = open_classifier(
        config.model,
        len(dataset.classes),
        weights=config.weights,
        normalization=config.normalization,
        pretrained=config.pretrained,
        new_head=config.new_head,
        trust=config.trusted,
        module=modules.get("model"),
        count_outputs=counting(traces, config.model, size, config, dataset),
    )
    check_offered(config.model, model, config.pretrained)
    if config.train_only_head and not model.pretrained and not is_own(config.model):
        raise InputError(f"{config.model} has no trained weights below its head: give `pretrained`, or `weights`")
    check_student(model, len(dataset.classes), "give `new_head` to start its classification layer anew")
    losses = {"ce": {"weight": 1.0, "label_smoothing": config.label_smoothing}}
    models = _Models(model, student_size=size, traces=traces)
    return _assemble(config, dataset, models, losses, only_head=config.train_only_head)


def images_at_once(fabric: Fabric, data: Data, split: str, batch_size: int, *models: Classifier | None) -> int:
    """Return how many images of a split to evaluate at once: `batch_size`, or what a GPU has room for where they are in memory."""
    if not data.in_memory(split):
        return batch_size
    sizes = []
    for model in (model for model in models if model is not None):
        with mode(model.module, training=False):  # a forward in training would change statistics
            sizes.append(largest_batch(predictor(fabric, model), data.size_of(split), fabric.device, batch_size))
    return min(sizes)


def _assemble(
    config: Recipe, dataset: DataSet, models: _Models, losses: Mapping[str, Any], only_head: bool = False
) -> Job:
    fabric = open_fabric(config.device, resolve_precision(config.device, config.precision), shared=True)
    data = sized(config, dataset, fabric.device, models.student, models.teacher)
    train = data.load("train")
    student, teacher = _fitted(models, data, train)
    config, fabric, student = in_precision(config, fabric, student)
    if config.sync_batchnorm:
        synchronise(student.module, student.spec)
    if only_head:
        freeze_all_but_head(student)
    part = trained_part(student.pretrained, only_head)
    given, config = config, with_recipe(config, part)
    student = replace(student, notes=(*student.notes, recipe_note(given, config, part)))
    views = _views(config, data)
    batches = training_batches(data, train, views, config)
    average = AveragedStudent(student.module, config.ema) if config.ema is not None else None
    answers = _answers(config, teacher, data, train, views)
    validated = _validated(config, fabric, data, teacher) if models.teacher_ready else None
    if validated is not None and validated.overconfident:
        losses, config = MAPS_ALONE, config.model_copy(update={"loss": format_losses(MAPS_ALONE)})
    distiller = _distiller(config, student, answers, losses, data, _class_logits(fabric, data, teacher, losses, config))
    if config.sync_batchnorm:
        synchronise(distiller.losses, "a loss")
    place(distiller, fabric.device)
    if average is not None:
        place(average.module, fabric.device)
    optimizer, scheduler = _optimisation(config, distiller, steps_an_epoch(len(batches), config.accumulate))
    mixed_batches = mixed(batches, config, len(dataset.classes))
    config = _with_found_weights(config, distiller, mixed_batches, fabric)
    validation, test = (
        data.batches(split, images_at_once(fabric, data, split, config.batch_size, student, teacher))
        for split in ("val", "test")
    )
    return Job(
        _resolved(config, data, train, views),
        fabric,
        noted(data, {"train": batches, "val": validation, "test": test}),
        mixed_batches,
        validation,
        test,
        views,
        teacher,
        student,
        distiller,
        optimizer,
        scheduler,
        average,
        answers if isinstance(answers, CachedTeacher) else None,
        validated,
        models.teacher_ready,
    )


def _fitted(models: _Models, data: Data, train: ResidentImages | None) -> tuple[Classifier, Classifier | None]:
    """Return student and teacher fitted to the images, their classes checked."""
    unknown = any(model is not None and model.preprocessing is None for model in (models.student, models.teacher))
    stats = data.channel_stats(train) if unknown else ((), ())

    def fitted(model: Classifier, size: Size | None, role: str) -> Classifier:
        ready = fit_to_images(with_preprocessing(model, stats), data.size_of("train"), size, role, models.traces)
        check_class_order(ready, data.dataset.classes, role)
        return ready

    student = fitted(models.student, models.student_size, "student" if models.teacher is not None else "model")
    teacher = fitted(models.teacher, models.teacher_size, "teacher") if models.teacher is not None else None
    return student, teacher


def _views(config: Recipe, data: Data) -> Views:
    augment = data.dataset.augment if config.augment is None else config.augment
    limit = config.cache_views if isinstance(config, DistillConfig) else None
    return Views(augment, len(data.dataset.train), data.size_of("train"), config.seed, limit=limit)


def _answers(
    config: Recipe, teacher: Classifier | None, data: Data, train: ResidentImages | None, views: Views
) -> LiveTeacher | CachedTeacher | None:
    """Return who answers the student's images: the teacher's network, or its cache before it."""
    if teacher is None:
        return None
    live = LiveTeacher(teacher.module, teacher.preprocessing, teacher.mapping, teacher.trace)
    if not isinstance(config, DistillConfig) or config.cache is None:
        return live
    about = describe_answers(teacher, data.dataset.train, train, views, answers_in(config))
    return CachedTeacher(live, Path(config.cache), about, config.cache_logits, config.cache_maps)


def _distiller(
    config: Recipe,
    student: Classifier,
    teacher: LiveTeacher | CachedTeacher | None,
    losses: Mapping[str, Any],
    data: Data,
    of_classes: Tensor | None,
) -> Distiller:
    distiller = Distiller(
        teacher,
        student.module,
        losses,
        pairs=config.pairs if isinstance(config, DistillConfig) else None,
        example=torch.zeros(1, 3, *data.size_of("train")),
        student_transform=student.preprocessing,
        student_trace=student.trace,
        train_labels=torch.from_numpy(data.dataset.train.labels.copy()),
        class_logits=of_classes,
    )
    distiller.warns = False
    return distiller


def _validated(config: Recipe, fabric: Fabric, data: Data, teacher: Classifier | None) -> TeacherValidation | None:
    """Return what the teacher says of validation images, where no objective is given and the default one depends on that."""
    chooses = isinstance(config, DistillConfig) and not config.loss
    if not chooses or teacher is None:
        return None
    with _asked(teacher, fabric) as predict:
        found = validate_teacher(teacher, predict, data, config.batch_size)
    metrics, logits = once(lambda: (found.metrics, found.logits))  # on which all processes of a run decide alike
    return replace(found, metrics=metrics, logits=logits)


@contextmanager
def _asked(teacher: Classifier, fabric: Fabric) -> Iterator[Predict]:
    """Yield the teacher's logits of images, before it is traced."""
    place(teacher.module, fabric.device)
    with mode(teacher.module, training=False):
        yield predictor(fabric, teacher)
    teacher.module.to("cpu")  # where it is traced


def _class_logits(
    fabric: Fabric, data: Data, teacher: Classifier | None, losses: Mapping[str, Any], config: Recipe
) -> Tensor | None:
    """Return the teacher's logits of some training images of each class, where a loss is built for them."""
    if teacher is None or not built_for("class_logits", read_terms(losses)):
        return None
    with _asked(teacher, fabric) as predict:
        return once(lambda: class_logits(data, predict, config.batch_size))


def _with_found_weights(config: Recipe, distiller: Distiller, batches: Batches, fabric: Fabric) -> Recipe:
    """Find the weights that are `auto` on the first batches, and return the configuration with these numbers."""
    if not isinstance(config, DistillConfig) or not distiller.losses.unresolved:
        return config
    with fabric.autocast():
        first = list(itertools.islice(batches.epoch(0), WEIGHED_BATCHES))
        norms = once(lambda: [distiller.gradient_norms(one.images, one.labels, one.indices) for one in first])
    weights = distiller.resolve_weights(norms)
    return config.model_copy(update={"loss": format_losses(with_weights(config.losses, weights))})


def _optimisation(config: Recipe, distiller: Distiller, steps_an_epoch: int) -> tuple[Optimizer, LambdaLR]:
    if not any(parameter.requires_grad for parameter in distiller.student.parameters()):
        raise InputError("the model has no parameter that is to be trained: set requires_grad on some")
    assert config.optimizer is not None and config.lr is not None and config.weight_decay is not None, "with_recipe"
    optimizer = build_optimizer(
        config.optimizer,
        [parameter for parameter in distiller.parameters() if parameter.requires_grad],
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        nesterov=config.nesterov,
        unscales=config.precision == "16-mixed" and config.clip_norm is not None,
    )
    warmup_steps = round(config.warmup_epochs * steps_an_epoch)
    factor = schedule(config.schedule, config.epochs * steps_an_epoch, warmup_steps, config.milestones, config.gamma)
    return optimizer, LambdaLR(optimizer, factor)


def _resolved(config: Recipe, data: Data, train: ResidentImages | None, views: Views) -> Recipe:
    """Return the configuration with every default that depends on models and data filled in."""
    resolved = {
        "image_size": data.size_of("train"),
        "loader": "workers" if train is None else "resident",
        "augment": tuple(views.ops),
        "devices": count(),
    }
    return config.model_copy(update=resolved)
