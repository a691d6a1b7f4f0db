"""Models made ready for a data set: fitted to its images and classes, and checked before anything is trained."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.features.stages import find_head, undisturbed
from angularkd.models.class_mapping import match_names, read_class_mapping
from angularkd.models.opening import Classifier, Preprocessing, Size


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


def fit_to_images(classifier: Classifier, image_size: Size, input_size: Size | None, role: str) -> Classifier:
    """The classifier, with images of `image_size` resized to `input_size` for it; checked to give logits for them.

    Without an `input_size` images go in as they are, unless its weights were trained otherwise, or it takes no images of
    their size, but those of the size that it is made for.

    Raises InputError unless it gives logits [batch, classes].
    """
    assert classifier.preprocessing is not None
    wanted, notes = input_size or classifier.preprocessing.size, classifier.notes
    height, width = wanted or image_size
    reason = _refusal(classifier.module, (height, width))
    native = classifier.native_size
    if reason is not None and wanted is None and native is not None and _refusal(classifier.module, native) is None:
        wanted, reason = native, None
        notes = (
            *notes,
            f"the {role} takes no images of {height}x{width}: each is resized to {native[0]}x{native[1]} for it",
        )
    if reason is not None:
        raise InputError(
            f"the {role} {classifier.spec} cannot take images of {height}x{width} ({reason}): "
            f"give another --image-size, or --{'' if role == 'model' else f'{role}-'}input-size"
        )
    classifier = replace(classifier, preprocessing=replace(classifier.preprocessing, size=wanted), notes=notes)
    check_outputs(classifier, image_size, role)
    return classifier


def _refusal(module: nn.Module, size: Size) -> str | None:
    """Why the module cannot take images of this size; None where it can."""
    with undisturbed(module):
        try:
            module(torch.zeros(2, 3, *size))
        except Exception as error:  # the forward may be the user's own
            return f"{type(error).__name__}: {(str(error).splitlines() or ['no reason given'])[0]}"
    return None


def check_outputs(classifier: Classifier, image_size: Size, role: str) -> None:
    """Raises InputError unless the module gives logits [batch, classes] for images of this size, once preprocessed."""
    assert classifier.preprocessing is not None
    with undisturbed(classifier.module):
        output = classifier.module(classifier.preprocessing(torch.zeros(2, 3, *image_size)))
    shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if shape != [2, classifier.num_classes]:
        raise InputError(
            f"the {role} {classifier.spec} gives {shape} for a batch of 2 images, not logits [2, {classifier.num_classes}]: "
            "return a tensor with one number a class"
        )


def check_class_order(classifier: Classifier, classes: tuple[str, ...], role: str) -> None:
    """Raises InputError when a model knows the data's classes by name, but in another order."""
    known = classifier.classes
    if classifier.mapping is None and known is not None and known != classes and sorted(known) == sorted(classes):
        raise InputError(
            f"the {role} {classifier.spec} was trained on the same classes in another order ({', '.join(known[:3])}, ... "
            f"instead of {', '.join(classes[:3])}, ...): bring the data into its order"
        )


def freeze_all_but_head(classifier: Classifier, image_size: Size) -> None:
    """Leave the classification layer alone to be trained. Raises InputError where the model has none."""
    assert classifier.preprocessing is not None
    try:
        head = find_head(classifier.module, classifier.preprocessing(torch.zeros(2, 3, *image_size)))
    except InputError:
        raise InputError(
            f"{classifier.spec} has no layer whose output is its logits: it cannot be trained by its head alone"
        ) from None
    classifier.module.requires_grad_(False)
    classifier.module.get_submodule(head.path).requires_grad_(True)


def with_preprocessing(classifier: Classifier, stats: tuple[tuple[float, ...], tuple[float, ...]]) -> Classifier:
    """The classifier, normalising by the training images' own statistics when it brings nothing of its own."""
    if classifier.preprocessing is not None:
        return classifier
    mean, std = stats
    safe = tuple(value or 1.0 for value in std)
    return replace(classifier, preprocessing=Preprocessing(mean, safe, source="the training images' own"))


def with_classes(classifier: Classifier, file: str | None, classes: tuple[str, ...]) -> Classifier:
    """The classifier with its classes mapped to the data's: by a file, or by equal names where these are others or fewer."""
    if file is None and classifier.classes == classes:
        return classifier
    given = read_class_mapping(file, classes, classifier.classes, classifier.num_classes) if file is not None else None
    mapping = given or match_names(classes, classifier.classes)
    if mapping is None:
        return classifier
    how = f"by {file}" if file is not None else "by their names"
    note = f"the {classifier.num_classes} classes of {classifier.spec} are mapped to the data's {len(classes)} {how}"
    return replace(classifier, mapping=mapping, notes=(*classifier.notes, note))
