"""From a configuration to its parts: the only place that sees both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric, seed_everything
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from angularkd.config.commands import DataOptions, DistillConfig, EvaluateConfig, Recipe, TrainConfig
from angularkd.data.loaders.resident import Batches
from angularkd.data.opening import DataSet
from angularkd.data.views.tables import Views
from angularkd.distillation.distiller import Distiller
from angularkd.distillation.filling import open_cache
from angularkd.distillation.teacher_cache import TeacherCache
from angularkd.errors import InputError
from angularkd.losses.objective import check_soft_labels, read_terms, signals_of
from angularkd.metrics.evaluate import Predict, largest_batch
from angularkd.models.adapting import (
    check_class_order,
    check_student,
    check_trained,
    fit_to_images,
    freeze_all_but_head,
    with_classes,
    with_preprocessing,
)
from angularkd.models.opening import Classifier, Size, open_classifier
from angularkd.system.memory import keep_freed_memory
from angularkd.system.modes import mode
from angularkd.training.build_data import Data, as_size, mixed, noted, open_dataset, sized, training_batches
from angularkd.training.ema import AveragedStudent
from angularkd.training.optimisation import schedule
from angularkd.training.plan import check_classes

Options = TypeVar("Options", bound=DataOptions)

LEARNING_RATES = {"sgd": 0.1, "adamw": 1e-3}
WEIGHT_DECAYS = {"sgd": 5e-4, "adamw": 0.05}


@dataclass(frozen=True)
class Job:
    """The parts of a training run, ready to go.

    config: what was asked for, with every default that depends on models and data filled in.
    test: where it is resident, decoded beforehand, so that a broken image does not end a long run, and looked at once, at its end.
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
    cache: TeacherCache | None = None
    teacher_ready: bool = True

    @property
    def notes(self) -> list[str]:
        """What was decided about the data and the models."""
        models = (*(self.teacher.notes if self.teacher is not None else ()), *self.student.notes)
        return [*self.data.dataset.notes, *models]

    @property
    def kept(self) -> Classifier:
        """What is validated and saved: the student, or the average of its weights where one is taken."""
        return self.student if self.average is None else replace(self.student, module=self.average.module)

    def predict(self, images: Tensor) -> Tensor:
        """The logits of what is kept, of images in 0..1."""
        return predictor(self.fabric, self.kept)(images)

    def predict_teacher(self, images: Tensor) -> Tensor:
        """The teacher's logits of images in 0..1."""
        assert self.teacher is not None
        return predictor(self.fabric, self.teacher)(images)


def build_distillation(config: DistillConfig, fitted_teacher: str | None = None) -> Job:
    """Everything that `distill` and `plan` need. Raises InputError before any image is decoded where that can be known.

    fitted_teacher: the folder of the run that fitted the teacher to the data, when `teacher_train` asks for one and it is done.
    """
    config = with_precision(config)
    terms = read_terms(config.losses)
    if config.mixup or config.cutmix:
        check_soft_labels(terms)
    dataset = open_dataset(config)
    classes = len(dataset.classes)
    seed_everything(config.seed, verbose=False)
    student = open_classifier(
        config.student, classes, weights=config.student_weights, normalization=config.student_normalization
    )
    check_student(student, classes)
    if fitted_teacher is not None:
        teacher = open_classifier(fitted_teacher, classes)
    else:
        teacher = _open_teacher(config, config.teacher, dataset.classes)
    check_classes(teacher.outputs, classes, signals_of(terms))
    sizes = config.teacher_input_size, config.student_input_size
    job = _assemble(config, dataset, teacher, student, config.losses, config.pairs, sizes)
    return replace(job, teacher_ready=config.teacher_train is None or fitted_teacher is not None)


def build_training(config: TrainConfig) -> Job:
    """Everything that `train` needs."""
    config = with_precision(config)
    dataset = open_dataset(config)
    seed_everything(config.seed, verbose=False)
    model = open_classifier(
        config.model,
        len(dataset.classes),
        weights=config.weights,
        normalization=config.normalization,
        pretrained=config.pretrained,
        new_head=config.new_head,
    )
    if config.pretrained and not model.pretrained and ".py:" not in config.model:
        raise InputError(f"{config.model} offers no weights of its own: give a file with --weights, not --pretrained")
    if config.train_only_head and not model.pretrained and ".py:" not in config.model:
        raise InputError(f"{config.model} has no trained weights below its head: add --pretrained, or give --weights")
    check_student(model, len(dataset.classes), "add --new-head to start its classification layer anew")
    losses = {"ce": {"weight": 1.0, "label_smoothing": config.label_smoothing}}
    return _assemble(
        config, dataset, None, model, losses, None, (None, config.input_size), only_head=config.train_only_head
    )


def build_evaluation(config: EvaluateConfig) -> tuple[Fabric, Data, Classifier, Classifier | None]:
    """The model and perhaps its teacher, on the device, and the data to measure them on."""
    config = with_precision(config)
    dataset = open_dataset(config)
    classes = len(dataset.classes)
    fabric = _fabric(config)
    model = open_classifier(
        config.model, classes, weights=config.weights, normalization=config.normalization, pretrained=True
    )
    check_trained(model, "model")
    if config.classes is not None:
        model = with_classes(model, config.classes, dataset.classes)
    teacher = _open_teacher(config, config.teacher, dataset.classes) if config.teacher is not None else None
    untold = any(classifier is not None and classifier.preprocessing is None for classifier in (model, teacher))
    looked_at = {config.split, "train"} if untold else {config.split}
    data = sized(config, dataset, fabric.device, model, teacher, looked_at)
    found = {"model": (model, config.input_size), "teacher": (teacher, config.teacher_input_size)}
    for role, (classifier, _) in found.items():
        if classifier is not None and classifier.outputs != classes:
            flag = "classes" if role == "model" else "teacher-classes"
            raise InputError(
                f"the {role} tells apart {classifier.num_classes} classes, the data has {classes}: "
                f"give one trained on these classes, or say with --{flag} which of its classes are the data's"
            )
        if classifier is not None:
            check_class_order(classifier, dataset.classes, role)
    stats = data.channel_stats(data.load("train")) if untold else None
    ready = {}
    for role, (classifier, size) in found.items():
        if classifier is not None:
            ready[role] = fit_to_images(
                with_preprocessing(classifier, stats) if stats is not None else classifier,
                data.size_of(config.split),
                as_size(size),
                role,
            )
            _place(ready[role].module, fabric)
            ready[role].module.eval()
    return fabric, data, ready["model"], ready.get("teacher")


def predictor(fabric: Fabric, classifier: Classifier) -> Predict:
    """From images in 0..1 to logits, in the precision of the run."""

    def predict(images: Tensor) -> Tensor:
        with fabric.autocast():
            return classifier.predict(images)

    return predict


def _assemble(
    config: Recipe,
    dataset: DataSet,
    teacher: Classifier | None,
    student: Classifier,
    losses: Mapping[str, Any],
    pairs: str | None,
    input_sizes: tuple[int | Size | None, int | Size | None],
    only_head: bool = False,
) -> Job:
    fabric = _fabric(config)
    data = sized(config, dataset, fabric.device, student, teacher)
    train, image_size = data.load("train"), data.size_of("train")
    untold = any(model is not None and model.preprocessing is None for model in (student, teacher))
    stats = data.channel_stats(train) if untold else ((), ())
    teacher_size, student_size = map(as_size, input_sizes)
    student_role = "student" if teacher is not None else "model"
    student = fit_to_images(with_preprocessing(student, stats), image_size, student_size, student_role)
    check_class_order(student, dataset.classes, student_role)
    if teacher is not None:
        teacher = fit_to_images(with_preprocessing(teacher, stats), image_size, teacher_size, "teacher")
        check_class_order(teacher, dataset.classes, "teacher")
    if only_head:
        freeze_all_but_head(student, image_size)
    augment = data.dataset.augment if config.augment is None else config.augment
    limit = config.cache_views if isinstance(config, DistillConfig) else None
    views = Views(augment, len(data.dataset.train), image_size, config.seed, limit=limit)
    batches = training_batches(data, train, views, config)
    average = AveragedStudent(student.module, config.ema) if config.ema is not None else None
    distiller = Distiller(
        teacher.module if teacher is not None else None,
        student.module,
        losses,
        pairs=pairs,
        example=torch.zeros(1, 3, *image_size),
        teacher_transform=teacher.preprocessing if teacher is not None else None,
        student_transform=student.preprocessing,
        train_labels=torch.from_numpy(data.dataset.train.labels.copy()),
        teacher_mapping=teacher.mapping if teacher is not None else None,
    )
    _place(distiller, fabric)
    if average is not None:
        _place(average.module, fabric)
    cache = None
    if isinstance(config, DistillConfig) and config.cache is not None and teacher is not None:
        if config.mixup or config.cutmix:
            raise InputError(
                "mixup and CutMix make images that are in no cache, so the teacher must run live: leave out --cache, or them"
            )
        cache = open_cache(
            Path(config.cache),
            distiller,
            teacher,
            data.dataset.train,
            train,
            views,
            config.precision,
            config.cache_logits,
        )
    optimizer = _optimizer(config, distiller)
    total_steps = config.epochs * len(batches)
    factor = schedule(
        config.schedule, total_steps, round(config.warmup_epochs * len(batches)), config.milestones, config.gamma
    )
    resolved = {
        "image_size": image_size,
        "loader": "workers" if train is None else "resident",
        "augment": tuple(views.ops),
        "lr": optimizer.defaults["lr"],
        "weight_decay": optimizer.defaults["weight_decay"],
    }
    validation, test = (
        data.batches(split, images_at_once(fabric, data, split, config.batch_size, student, teacher))
        for split in ("val", "test")
    )
    return Job(
        config.model_copy(update=resolved),
        fabric,
        noted(data, {"train": batches, "val": validation, "test": test}),
        mixed(batches, config, len(dataset.classes)),
        validation,
        test,
        views,
        teacher,
        student,
        distiller,
        optimizer,
        LambdaLR(optimizer, factor),
        average,
        cache=cache,
    )


def _open_teacher(config: DistillConfig | EvaluateConfig, spec: str, classes: tuple[str, ...]) -> Classifier:
    """The teacher with its weights, its classes mapped to the data's; or, where it is to be fitted to them, with a head for them."""
    fitted = config.teacher_train_what if isinstance(config, DistillConfig) and config.teacher_train else None
    teacher = open_classifier(
        spec,
        len(classes),
        weights=config.teacher_weights,
        normalization=config.teacher_normalization,
        pretrained=True,
        new_head=fitted is not None,
    )
    if fitted != "all":
        check_trained(teacher)
    return with_classes(teacher, config.teacher_classes, classes) if fitted is None else teacher


def images_at_once(fabric: Fabric, data: Data, split: str, batch_size: int, *models: Classifier | None) -> int:
    """Images of a split to evaluate at once: `batch_size`, or what a GPU has room for where they are in memory."""
    if not data.in_memory(split):
        return batch_size
    sizes = []
    for model in (model for model in models if model is not None):
        with mode(model.module, training=False):  # a forward in training would change statistics
            sizes.append(largest_batch(predictor(fabric, model), data.size_of(split), fabric.device, batch_size))
    return min(sizes)


def _place(module: nn.Module, fabric: Fabric) -> None:
    """Move to the device, with images and weights laid out channels last: the faster layout for convolutions."""
    module.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _optimizer(config: Recipe, distiller: Distiller) -> Optimizer:
    lr = config.lr if config.lr is not None else LEARNING_RATES[config.optimizer]
    decay = config.weight_decay if config.weight_decay is not None else WEIGHT_DECAYS[config.optimizer]
    parameters = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
    if not any(parameter.requires_grad for parameter in distiller.student.parameters()):
        raise InputError("the model has no parameter that is to be trained: set requires_grad on some")
    unscales = config.precision == "16-mixed" and config.clip_norm is not None  # which a fused optimiser does by itself
    fused = parameters[0].device.type in ("cpu", "cuda") and not unscales
    if config.optimizer == "adamw":
        return AdamW(parameters, lr=lr, weight_decay=decay, fused=fused)
    nesterov = config.nesterov and config.momentum > 0
    return SGD(parameters, lr=lr, momentum=config.momentum, nesterov=nesterov, weight_decay=decay, fused=fused)


def with_precision(config: Options) -> Options:
    """With the precision that `auto` stands for on the device that is going to be used."""
    on_gpu = config.device in ("auto", "cuda") and torch.cuda.is_available()
    auto = "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"
    return config.model_copy(update={"precision": auto}) if config.precision == "auto" else config


def _fabric(config: DataOptions) -> Fabric:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("this machine has no CUDA device that PyTorch can use: leave --device at auto, or use cpu")
    on_cpu = config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available())
    if config.precision == "16-mixed" and on_cpu:
        raise InputError("--precision 16-mixed needs a GPU: use bf16-mixed or 32-true on the CPU")
    if config.device == "mps" and not torch.backends.mps.is_available():
        raise InputError("this machine has no Apple GPU that PyTorch can use: leave --device at auto, or use cpu")
    assert config.precision != "auto"
    fabric = Fabric(accelerator=config.device, devices=1, precision=config.precision)
    if fabric.device.type == "cpu":
        keep_freed_memory()
    return fabric
