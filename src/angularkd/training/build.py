"""From a configuration to its parts: the only place that sees both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning_fabric import Fabric, seed_everything
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from angularkd.config import DataOptions, DistillConfig, EvaluateConfig, Recipe, TrainConfig
from angularkd.data.loader import ResidentLoader, evaluation_loader
from angularkd.data.resident import ResidentImages, channel_stats, load_resident
from angularkd.data.sources import DataSet, open_data
from angularkd.data.splits import Split
from angularkd.data.views import Views
from angularkd.distiller import Distiller
from angularkd.errors import InputError
from angularkd.losses.weighted import read_terms, signals_of
from angularkd.models.sources import Classifier, Preprocessing, open_classifier
from angularkd.stages import undisturbed
from angularkd.training.evaluate import Predict
from angularkd.training.plan import check_classes
from angularkd.training.schedule import schedule

PHOTOGRAPH_SIZE = (224, 224)
"""Size of images of unequal size, unless a network made for CIFAR looks at them."""
CIFAR_SIZE = (32, 32)
LEARNING_RATES = {"sgd": 0.1, "adamw": 1e-3}
WEIGHT_DECAYS = {"sgd": 5e-4, "adamw": 0.05}


@dataclass(frozen=True)
class Data:
    """A data set with its splits in memory as they are asked for."""

    dataset: DataSet
    image_size: tuple[int, int] | None
    device: torch.device

    def load(self, split: str) -> ResidentImages:
        """Decode one split."""
        return load_resident(getattr(self.dataset, split), self.image_size)

    def size_of(self, split: str) -> tuple[int, int]:
        """(height, width) of its images."""
        return self.image_size or getattr(self.dataset, split).size(0)

    def batches(self, split: str, batch_size: int) -> ResidentLoader:
        """A split as it is, in order."""
        return evaluation_loader(self.load(split), batch_size, device=self.device)


@dataclass(frozen=True)
class Job:
    """The parts of a training run, ready to go.

    config: what was asked for, with every default that depends on models and data filled in.
    test: decoded beforehand, so that a broken image does not end a long run, and looked at once, at its end.
    """

    config: Recipe
    fabric: Fabric
    data: Data
    batches: ResidentLoader
    validation: ResidentLoader
    test: ResidentLoader
    views: Views
    teacher: Classifier | None
    student: Classifier
    distiller: Distiller
    optimizer: Optimizer
    scheduler: LambdaLR

    def predict(self, images: Tensor) -> Tensor:
        """The student's logits of images in 0..1."""
        return predictor(self.fabric, self.student)(images)

    def predict_teacher(self, images: Tensor) -> Tensor:
        """The teacher's logits of images in 0..1."""
        assert self.teacher is not None
        return predictor(self.fabric, self.teacher)(images)


def build_distillation(config: DistillConfig) -> Job:
    """Everything that `distill` and `plan` need. Raises InputError before any image is decoded where that can be known."""
    terms = read_terms(config.losses)
    dataset = open_dataset(config)
    classes = len(dataset.classes)
    seed_everything(config.seed, verbose=False)
    student = open_classifier(
        config.student, classes, weights=config.student_weights, normalization=config.student_normalization
    )
    check_student(student, classes)
    teacher = _open_teacher(config, config.teacher, classes)
    check_classes(teacher.num_classes, classes, signals_of(terms))
    return _assemble(config, dataset, teacher, student, config.losses, config.pairs)


def build_training(config: TrainConfig) -> Job:
    """Everything that `train` needs."""
    dataset = open_dataset(config)
    seed_everything(config.seed, verbose=False)
    model = open_classifier(
        config.model,
        len(dataset.classes),
        weights=config.weights,
        normalization=config.normalization,
        new_head=config.new_head,
    )
    check_student(model, len(dataset.classes), "add --new-head to start its classification layer anew")
    losses = {"ce": {"weight": 1.0, "label_smoothing": config.label_smoothing}}
    return _assemble(config, dataset, None, model, losses, None)


def build_evaluation(config: EvaluateConfig) -> tuple[Fabric, Data, Classifier, Classifier | None]:
    """The model and perhaps its teacher, on the device, and the data to measure them on."""
    dataset = open_dataset(config)
    classes = len(dataset.classes)
    fabric = _fabric(config)
    model = open_classifier(
        config.model, classes, weights=config.weights, normalization=config.normalization, pretrained=True
    )
    check_trained(model, "model")
    teacher = _open_teacher(config, config.teacher, classes) if config.teacher is not None else None
    data = _sized(config, dataset, fabric, model, teacher)
    for role, classifier in (("model", model), ("teacher", teacher)):
        if classifier is not None and classifier.num_classes != classes:
            raise InputError(
                f"the {role} tells apart {classifier.num_classes} classes, the data has {classes}: "
                "give one trained on these classes"
            )
        if classifier is not None:
            check_outputs(classifier, data.size_of(config.split), role)
            check_class_order(classifier, dataset.classes, role)
    if any(classifier is not None and classifier.preprocessing is None for classifier in (model, teacher)):
        stats = channel_stats(data.load("train"))
        model = with_preprocessing(model, stats)
        teacher = with_preprocessing(teacher, stats) if teacher is not None else None
    for classifier in (model, teacher):
        if classifier is not None:
            _place(classifier.module, fabric)
            classifier.module.eval()
    return fabric, data, model, teacher


def open_dataset(config: DataOptions, image_size: tuple[int, int] | None = None) -> DataSet:
    """The data set of a configuration, its splits drawn, nothing decoded yet."""
    return open_data(
        config.data,
        val_fraction=config.val_fraction,
        split_seed=config.split_seed,
        image_size=image_size or _pair(config.image_size),
    )


def check_student(
    student: Classifier, classes: int, remedy: str = "start without them, or train it on these classes first"
) -> None:
    """Raises InputError when weights gave a student another number of classes than the data has."""
    if student.num_classes != classes:
        raise InputError(
            f"the weights of {student.spec} tell apart {student.num_classes} classes, the data has {classes}: {remedy}"
        )


def check_trained(teacher: Classifier, role: str = "teacher") -> None:
    """Raises InputError when a model that has to know something already was never trained."""
    if not teacher.pretrained and ".py:" not in teacher.spec:
        flag = "weights" if role == "model" else "teacher-weights"
        raise InputError(
            f"the {role} {teacher.spec} has no trained weights: give a file with --{flag}, or a run's folder as the {role}"
        )


def check_outputs(classifier: Classifier, image_size: tuple[int, int], role: str) -> None:
    """Raises InputError unless the model gives logits [batch, classes] for images of this size."""
    images = torch.zeros(2, 3, *image_size)
    with undisturbed(classifier.module):
        try:
            output = classifier.module(images)
        except (RuntimeError, ValueError, AssertionError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"the {role} {classifier.spec} cannot take images of {image_size[0]}x{image_size[1]} ({reason}): "
                "give another --image-size"
            ) from None
    shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if shape != [2, classifier.num_classes]:
        raise InputError(
            f"the {role} {classifier.spec} gives {shape} for a batch of 2 images, not logits [2, {classifier.num_classes}]: "
            "return a tensor with one number a class"
        )


def check_class_order(classifier: Classifier, classes: tuple[str, ...], role: str) -> None:
    """Raises InputError when a model knows the data's classes by name, but in another order."""
    known = classifier.classes
    if known is not None and known != classes and sorted(known) == sorted(classes):
        raise InputError(
            f"the {role} {classifier.spec} was trained on the same classes in another order ({', '.join(known[:3])}, ... "
            f"instead of {', '.join(classes[:3])}, ...): bring the data into its order"
        )


def with_preprocessing(classifier: Classifier, stats: tuple[tuple[float, ...], tuple[float, ...]]) -> Classifier:
    """The classifier, normalising by the training images' own statistics when it brings nothing of its own."""
    if classifier.preprocessing is not None:
        return classifier
    mean, std = stats
    safe = tuple(value or 1.0 for value in std)
    return replace(classifier, preprocessing=Preprocessing(mean, safe, source="the training images' own"))


def predictor(fabric: Fabric, classifier: Classifier) -> Predict:
    """From images in 0..1 to logits, in the precision of the run."""
    assert classifier.preprocessing is not None
    preprocess = classifier.preprocessing

    def predict(images: Tensor) -> Tensor:
        with fabric.autocast():
            return classifier.module(preprocess(images))

    return predict


def _assemble(
    config: Recipe,
    dataset: DataSet,
    teacher: Classifier | None,
    student: Classifier,
    losses: Mapping[str, Any],
    pairs: str | None,
) -> Job:
    fabric = _fabric(config)
    data = _sized(config, dataset, fabric, student, teacher)
    train = data.load("train")
    for role, classifier in (("student", student), ("teacher", teacher)):
        if classifier is not None:
            check_outputs(classifier, train.image_size, role)
            check_class_order(classifier, dataset.classes, role)
    stats = channel_stats(train)
    student = with_preprocessing(student, stats)
    teacher = with_preprocessing(teacher, stats) if teacher is not None else None
    augment = data.dataset.augment if config.augment is None else config.augment
    views = Views(augment, len(train), train.image_size, config.seed)
    batches = ResidentLoader(
        train,
        views,
        config.batch_size,
        seed=config.seed,
        shuffle=True,
        drop_last=len(train) > config.batch_size,
        device=fabric.device,
    )
    distiller = Distiller(
        teacher.module if teacher is not None else None,
        student.module,
        losses,
        pairs=pairs,
        example=torch.zeros(1, 3, *train.image_size),
        teacher_transform=teacher.preprocessing if teacher is not None else None,
        student_transform=student.preprocessing,
        train_labels=train.labels,
    )
    _place(distiller, fabric)
    optimizer = _optimizer(config, distiller)
    total_steps = config.epochs * len(batches)
    factor = schedule(
        config.schedule, total_steps, round(config.warmup_epochs * len(batches)), config.milestones, config.gamma
    )
    resolved = {
        "image_size": train.image_size,
        "augment": tuple(views.ops),
        "lr": optimizer.defaults["lr"],
        "weight_decay": optimizer.defaults["weight_decay"],
    }
    return Job(
        config.model_copy(update=resolved),
        fabric,
        data,
        batches,
        data.batches("val", config.batch_size),
        data.batches("test", config.batch_size),
        views,
        teacher,
        student,
        distiller,
        optimizer,
        LambdaLR(optimizer, factor),
    )


def _open_teacher(config: DistillConfig | EvaluateConfig, spec: str, classes: int) -> Classifier:
    teacher = open_classifier(
        spec, classes, weights=config.teacher_weights, normalization=config.teacher_normalization, pretrained=True
    )
    check_trained(teacher)
    return teacher


def _place(module: nn.Module, fabric: Fabric) -> None:
    """Move to the device, with images and weights laid out channels last: the faster layout for convolutions."""
    module.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _optimizer(config: Recipe, distiller: Distiller) -> Optimizer:
    lr = config.lr if config.lr is not None else LEARNING_RATES[config.optimizer]
    decay = config.weight_decay if config.weight_decay is not None else WEIGHT_DECAYS[config.optimizer]
    parameters = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
    if config.optimizer == "adamw":
        return AdamW(parameters, lr=lr, weight_decay=decay)
    nesterov = config.nesterov and config.momentum > 0
    return SGD(parameters, lr=lr, momentum=config.momentum, nesterov=nesterov, weight_decay=decay)


def _fabric(config: DataOptions) -> Fabric:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("this machine has no CUDA device that PyTorch can use: leave --device at auto, or use cpu")
    on_cpu = config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available())
    if config.precision == "16-mixed" and on_cpu:
        raise InputError("--precision 16-mixed needs a GPU: use bf16-mixed or 32-true on the CPU")
    if config.device == "mps" and not torch.backends.mps.is_available():
        raise InputError("this machine has no Apple GPU that PyTorch can use: leave --device at auto, or use cpu")
    return Fabric(accelerator=config.device, devices=1, precision=config.precision)


def _sized(
    config: DataOptions, dataset: DataSet, fabric: Fabric, model: Classifier, teacher: Classifier | None
) -> Data:
    """The data at the size asked for, else at that which the models were trained on, else at the images' own where they
    look alike, else at what such a model is made for."""
    size = _pair(config.image_size) or model.image_size or (teacher.image_size if teacher is not None else None)
    if size is None and not all(_alike(split) for split in (dataset.train, dataset.val, dataset.test)):
        size = CIFAR_SIZE if model.spec.startswith("cifar/") else PHOTOGRAPH_SIZE
    if size is not None and config.image_size is None:
        dataset = open_dataset(config, size)
    return Data(dataset, size, fabric.device)


def _alike(split: Split, looks: int = 200) -> bool:
    """Whether all of some images, evenly spread over the split, are of one size."""
    rows = range(0, len(split), max(1, len(split) // looks))
    return len({split.size(row) for row in rows}) == 1


def _pair(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size
