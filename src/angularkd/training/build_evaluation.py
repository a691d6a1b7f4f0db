"""From a configuration to the parts of an evaluation: one model, perhaps beside its teacher, and the images."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from types import MappingProxyType

from lightning_fabric import Fabric

from angularkd.config import EvaluateConfig
from angularkd.data import Batches, DataSet
from angularkd.errors import InputError
from angularkd.models import (
    Classifier,
    Traces,
    check_class_order,
    check_trained,
    fit_to_images,
    open_classifier,
    with_classes,
    with_preprocessing,
)
from angularkd.system.devices import open_fabric, place, resolve_precision
from angularkd.training.build import images_at_once
from angularkd.training.build_data import Data, as_size, sized
from angularkd.training.modules import Modules
from angularkd.training.opening import counting, open_teacher


@dataclass(frozen=True)
class Evaluation:
    """The parts of an evaluation, on the device and in evaluation mode.

    Attributes:
        batches: every image of the split once, in order.
    """

    fabric: Fabric
    data: Data
    batches: Batches
    model: Classifier
    teacher: Classifier | None

    @property
    def notes(self) -> list[str]:
        """Return what was decided about the data and the models."""
        models = (*self.model.notes, *(self.teacher.notes if self.teacher is not None else ()))
        return list(dict.fromkeys((*self.data.dataset.notes, *models)))


def build_evaluation(
    config: EvaluateConfig, dataset: DataSet, modules: Modules = MappingProxyType({}), also: Collection[str] = ()
) -> Evaluation:
    """Build everything that `evaluate` needs.

    Args:
        config: the configuration.
        dataset: what `open_dataset` returned for it.
        modules: networks that were passed as they are, by role.
        also: other splits whose images are needed, at the same size.

    Raises:
        InputError: for models that were never trained, or tell apart other classes than the data has.
    """
    config = config.model_copy(update={"precision": resolve_precision(config.device, config.precision)})
    fabric = open_fabric(config.device, config.precision)
    traces, sizes = Traces(), (as_size(config.input_size), as_size(config.teacher_input_size))
    model = open_classifier(
        config.model,
        len(dataset.classes),
        weights=config.weights,
        normalization=config.normalization,
        pretrained=True,
        trust=config.trusted,
        module=modules.get("model"),
        count_outputs=counting(traces, config.model, sizes[0], config, dataset),
    )
    check_trained(model, "model")
    if config.classes is not None:
        model = with_classes(model, config.classes, dataset.classes)
    teacher = None
    if config.teacher is not None:
        count = counting(traces, config.teacher, sizes[1], config, dataset)
        teacher = open_teacher(config, config.teacher, dataset.classes, modules, count)
    unknown = any(classifier is not None and classifier.preprocessing is None for classifier in (model, teacher))
    splits = {config.split, *also, *(("train",) if unknown else ())}
    data = sized(config, dataset, fabric.device, model, teacher, splits)
    models = {"model": (model, sizes[0]), "teacher": (teacher, sizes[1])}
    for role, (classifier, _) in models.items():
        if classifier is not None:
            _check_classes(classifier, dataset, role)
    stats = data.channel_stats(data.load("train")) if unknown else ((), ())
    ready = {}
    for role, (classifier, size) in models.items():
        if classifier is not None:
            fitted = fit_to_images(
                with_preprocessing(classifier, stats), data.size_of(config.split), size, role, traces
            )
            place(fitted.module, fabric.device)
            fitted.module.eval()
            ready[role] = fitted
    model, teacher = ready["model"], ready.get("teacher")
    at_once = images_at_once(fabric, data, config.split, config.batch_size, model, teacher)
    return Evaluation(fabric, data, data.batches(config.split, at_once), model, teacher)


def _check_classes(classifier: Classifier, dataset: DataSet, role: str) -> None:
    if not classifier.has_head:
        raise InputError(f"the {role} {classifier.spec} has no classification layer: it predicts nothing to evaluate")
    if classifier.outputs != len(dataset.classes):
        parameter = "classes" if role == "model" else "teacher_classes"
        raise InputError(
            f"the {role} tells apart {classifier.num_classes} classes, the data has {len(dataset.classes)}: "
            f"give one trained on these classes, or say with `{parameter}` which of its classes are the data's"
        )
    check_class_order(classifier, dataset.classes, role)
