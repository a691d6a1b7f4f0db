"""Models made ready for a data set: fitted to its images and classes, and checked before anything is trained."""

from __future__ import annotations

from dataclasses import replace

import torch

from angularkd.errors import InputError
from angularkd.features import Trace, embedding_of
from angularkd.models.class_mapping import match_names, read_class_mapping
from angularkd.models.classifier import Classifier
from angularkd.models.counting import input_channels
from angularkd.models.libraries.module import is_own
from angularkd.models.preprocessing import SMALLEST_STD, Preprocessing, Size
from angularkd.models.traces import Refusal, Traces
from angularkd.models.usable import unsavable


def check_student(
    student: Classifier, classes: int, remedy: str = "start without them, or train it on these classes first"
) -> None:
    """Raise InputError when a student has another number of classes than the data, or keeps what no file of weights can hold.

    Args:
        student: as it was opened.
        classes: of the data.
        remedy: what errors advise where its weights gave it other classes.
    """
    others = unsavable(student.module)
    if others:
        raise InputError(
            f"{student.spec} keeps more than plain tensors beside its weights, as quantised modules do ({', '.join(others[:3])}): "
            "such a model can only be a teacher"
        )
    if not student.has_head:
        raise InputError(f"{student.spec} has no classification layer: such a model can only be a teacher")
    if student.num_classes != classes and not student.pretrained and is_own(student.spec):
        raise InputError(
            f"{student.spec} tells apart {student.num_classes} classes, the data has {classes}: give it a layer for as many, or let "
            "it take `num_classes`"
        )
    if student.num_classes != classes:
        raise InputError(
            f"the weights of {student.spec} tell apart {student.num_classes} classes, the data has {classes}: {remedy}"
        )


def check_trained(classifier: Classifier, role: str = "teacher") -> None:
    """Raise InputError when a model that has to know something already was never trained.

    Args:
        classifier: the model.
        role: "teacher" or "model": what errors call it, and whose parameter they name.
    """
    if not classifier.pretrained and not is_own(classifier.spec):
        parameter = "weights" if role == "model" else "teacher_weights"
        raise InputError(
            f"the {role} {classifier.spec} has no trained weights: give a file as `{parameter}`, or a run's folder as the {role}"
        )


def fit_to_images(
    classifier: Classifier, image_size: Size, input_size: Size | None, role: str, traces: Traces | None = None
) -> Classifier:
    """Return the classifier with images of the data's size resized for it where that is needed, and with its trace.

    Without an `input_size` images go in as they are, unless its weights were trained otherwise, or it takes no images of
    their size, but those of the size that it is made for. A model that takes them runs once.

    Args:
        classifier: with its preprocessing.
        image_size: of the data's images.
        input_size: to which to resize them for this model; None to leave that open.
        role: "teacher", "student" or "model": what errors call it, and whose parameter they name.
        traces: of the networks that were run before; this one's is added. None to run it in any case.

    Raises:
        InputError: unless it gives logits [batch, classes].
    """
    assert classifier.preprocessing is not None
    requested, native = input_size or classifier.preprocessing.size, classifier.native_size
    height, width = requested or image_size
    traces, reason = traces or Traces(), ""
    of_fewer = input_channels(classifier.module) == 1 and classifier.preprocessing.channels is None
    for grey in (False, True) if of_fewer else (False,):
        given = _grey(classifier, role) if grey else classifier
        for size in dict.fromkeys((requested, native if requested is None else requested)):
            try:
                fitted = _resized_to(given, image_size, size, traces)
            except Refusal as refusal:
                reason = reason or str(refusal)
                continue
            if size != requested and size is not None:
                note = f"the {role} takes no images of {height}x{width}: each is resized to {size[0]}x{size[1]} for it"
                fitted = replace(fitted, notes=(*fitted.notes, note))
            assert fitted.trace is not None
            _check_outputs(fitted, fitted.trace, role)
            return fitted
    raise InputError(_refused(classifier, (height, width), reason, role))


def _grey(classifier: Classifier, role: str) -> Classifier:
    """Return the classifier with the images' luma before it, for a module of one channel."""
    assert classifier.preprocessing is not None
    note = f"the {role} takes images of one channel: it gets their luma, 0.299 red + 0.587 green + 0.114 blue"
    return replace(classifier, preprocessing=classifier.preprocessing.grey(), notes=(*classifier.notes, note))


def _refused(classifier: Classifier, size: Size, reason: str, role: str) -> str:
    """Return in one line why a model takes no images, and what to do about it."""
    assert classifier.preprocessing is not None
    given = len(classifier.preprocessing.mean)
    takes = input_channels(classifier.module)
    what = f"the {role} {classifier.spec} cannot take images of {size[0]}x{size[1]} ({reason})"
    if takes not in (1, given):
        return f"{what}: its first convolution takes {takes} channels, and images have {given}: give a model of colour images"
    parameter = "input_size" if role == "model" else f"{role}_input_size"
    return f"{what}: give another `image_size`, or `{parameter}`"


def _resized_to(classifier: Classifier, image_size: Size, size: Size | None, traces: Traces) -> Classifier:
    """Return the classifier with images resized to `size`, and with the trace of a forward; raise Refusal where that fails."""
    assert classifier.preprocessing is not None
    preprocessing = replace(classifier.preprocessing, size=size)
    found = traces.of(classifier, preprocessing(torch.zeros(1, 3, *image_size)))
    if not classifier.has_head:
        found = replace(found, head=None)  # a last projection is part of the embedding
    return replace(classifier, preprocessing=preprocessing, trace=found)


def _check_outputs(classifier: Classifier, trace: Trace, role: str) -> None:
    """Raise InputError unless the module gives logits [batch, classes] or, without a classification layer, one vector an image.

    A teacher's output may also be feature maps: then its stages alone can teach.
    """
    if not classifier.has_head:
        if role != "teacher" or trace.output_shape is None or len(trace.output_shape) != 4:
            embedding_of(trace, classifier.module)
        return
    if trace.output_shape != (2, classifier.num_classes):
        output = list(trace.output_shape) if trace.output_shape is not None else trace.output_kind
        raise InputError(
            f"the {role} {classifier.spec} gives {output} for a batch of 2 images, not logits [2, {classifier.num_classes}]: "
            "return a tensor with one number a class"
        )


def check_class_order(classifier: Classifier, classes: tuple[str, ...], role: str) -> None:
    """Raise InputError when a model knows the data's classes by name, but in another order."""
    known = classifier.classes
    if classifier.mapping is None and known is not None and known != classes and sorted(known) == sorted(classes):
        raise InputError(
            f"the {role} {classifier.spec} was trained on the same classes in another order ({', '.join(known[:3])}, ... "
            f"instead of {', '.join(classes[:3])}, ...): bring the data into its order"
        )


def freeze_all_but_head(classifier: Classifier) -> None:
    """Freeze everything but the classification layer of a classifier that is fitted to its images.

    Raises:
        InputError: where there is no such layer.
    """
    assert classifier.trace is not None, "fit_to_images comes first"
    head = classifier.trace.head
    if head is None:
        raise InputError(
            f"{classifier.spec} has no layer whose output is its logits: it cannot be trained by its head alone"
        )
    classifier.module.requires_grad_(False)
    classifier.module.get_submodule(head.path).requires_grad_(True)


def with_preprocessing(classifier: Classifier, stats: tuple[tuple[float, ...], tuple[float, ...]]) -> Classifier:
    """Return the classifier, normalising by the training images' own statistics when it brings nothing of its own.

    Args:
        classifier: any.
        stats: mean and standard deviation of each channel of the training images.
    """
    if classifier.preprocessing is not None:
        return classifier
    mean, std = stats
    safe = tuple(value if value >= SMALLEST_STD else 1.0 for value in std)
    return replace(classifier, preprocessing=Preprocessing(mean, safe, source="the training images' own"))


def with_classes(classifier: Classifier, file: str | None, classes: tuple[str, ...]) -> Classifier:
    """Return the classifier with its classes mapped to the data's, where they are others.

    Args:
        classifier: any.
        file: that holds the mapping; None to map by equal names, where they suffice.
        classes: the data's, in their order.

    Raises:
        InputError: for a file that holds no such mapping.
    """
    if file is None and classifier.classes == classes:
        return classifier
    given = read_class_mapping(file, classes, classifier.classes, classifier.num_classes) if file is not None else None
    mapping = given or match_names(classes, classifier.classes)
    if mapping is None:
        return classifier
    how = f"by {file}" if file is not None else "by their names"
    note = f"the {classifier.num_classes} classes of {classifier.spec} are mapped to the data's {len(classes)} {how}"
    return replace(classifier, mapping=mapping, temperature=None, notes=(*classifier.notes, note))
