"""Opening a configuration's networks: its teacher, what counts the classes of networks of the user's own, and what is checked of both."""

from __future__ import annotations

from types import MappingProxyType

from angularkd.config import DataOptions, DistillConfig, EvaluateConfig
from angularkd.data import DataSet, readable_size
from angularkd.errors import InputError
from angularkd.models import Classifier, Count, Size, Traces, check_trained, is_own, open_classifier, with_classes
from angularkd.training.build_data import as_size
from angularkd.training.modules import Modules

WITHOUT_LOGITS = "leave out the losses that compare logits, for example `loss=ce=1` and `loss=amd=auto`"


def open_teacher(
    config: DistillConfig | EvaluateConfig,
    spec: str,
    classes: tuple[str, ...],
    modules: Modules = MappingProxyType({}),
    count_outputs: Count | None = None,
) -> Classifier:
    """Open the teacher with its weights, its classes mapped to the data's; or, where it is to be fitted to them, with a head for them.

    Raises:
        InputError: for a teacher that was never trained.
    """
    fitted = config.teacher_train_what if isinstance(config, DistillConfig) and config.teacher_train else None
    teacher = open_classifier(
        spec,
        len(classes),
        weights=config.teacher_weights,
        normalization=config.teacher_normalization,
        pretrained=True,
        new_head=fitted is not None,
        trust=config.trusted,
        module=modules.get("teacher"),
        count_outputs=count_outputs,
    )
    if fitted != "all":
        check_trained(teacher)
    return with_classes(teacher, config.teacher_classes, classes) if fitted is None else teacher


def counting(traces: Traces, spec: str, size: Size | None, config: DataOptions, dataset: DataSet) -> Count:
    """Return what counts the classes of a network of the user's own, by a forward that is its trace as well where that can be.

    Args:
        traces: that get it.
        spec: of the network.
        size: that images are resized to for it; None for their own.
        config: says the images' size, unless the data does.
        dataset: the images.
    """
    if size is None and is_own(spec):
        size = as_size(config.image_size) or readable_size(dataset.train)
    return traces.counting(size)


def check_classes(teacher: Classifier, data_classes: int, signals: frozenset[str]) -> None:
    """Raise InputError when a loss compares logits and the teacher tells apart another number of classes than the data."""
    if not teacher.has_head and "teacher_logits" in signals:
        raise InputError(
            f"the teacher {teacher.spec} has no classification layer, and a loss compares logits: leave such losses out, for example "
            "`loss=ce=1` and `loss=embedding=auto`, or fit it to these classes with `teacher_train`"
        )
    if teacher.outputs != data_classes and "teacher_logits" in signals:
        raise InputError(
            f"the teacher tells apart {teacher.outputs} classes, the data has {data_classes}: say which of its classes are the data's "
            f"with `teacher_classes`, fit it to these with `teacher_train`, or {WITHOUT_LOGITS}"
        )


def check_offered(spec: str, model: Classifier, asked: bool, role: str = "") -> None:
    """Raise InputError where the weights of a model's library are asked for, and it offers none."""
    if asked and not model.pretrained and not is_own(spec):
        raise InputError(f"{spec} offers no weights of its own: give a file as `{role}weights`, not `{role}pretrained`")
