"""From a model SPEC to a classifier: the module, the classes it tells apart, and the preprocessing it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from angularkd.errors import InputError, nearest
from angularkd.models.classifier import Classifier, Preprocessing, Size, parse_normalization
from angularkd.models.heads import classes_of_head, load_body
from angularkd.models.libraries import LIBRARIES
from angularkd.models.libraries.file import from_file, is_file_spec
from angularkd.models.libraries.run import architecture_in, student_in
from angularkd.models.weights import bare_names, load_into, read_metadata, read_weights
from angularkd.runs import STUDENT_FILE


def open_classifier(
    spec: str,
    num_classes: int,
    *,
    weights: str | None = None,
    normalization: str | None = None,
    pretrained: bool = False,
    new_head: bool = False,
) -> Classifier:
    """Build the classifier that a SPEC names, and load its weights.

    Args:
        spec: LIBRARY/NAME, a finished run's folder, or FILE.py:CALLABLE.
        num_classes: of a head that is built anew. Weights for another number of classes keep their own head, and
            the classifier says how many it has.
        weights: file to load.
        normalization: a name in NORMALIZATIONS or 'm,m,m/s,s,s'; overrules what is known otherwise.
        pretrained: whether to load the weights that the SPEC's library offers, where no file is given.
        new_head: whether to load weights, the library's too, without their head when their number of classes differs, and
            keep a new one.

    Raises:
        InputError: for an unknown SPEC, weights of another architecture, and files that cannot be read.
    """
    student = student_in(spec) if weights is None else None
    if student is not None:
        architecture = architecture_in(student)
        classifier = _build(architecture, num_classes)
        classifier = _with_weights(classifier, str(student), num_classes, new_head)
        classifier = replace(classifier, spec=str(Path(spec)), architecture=architecture)
    else:
        classifier = _build(spec, num_classes, pretrained and weights is None, new_head)
    if weights is not None:
        classifier = _with_weights(classifier, weights, num_classes, new_head)
    if normalization is not None:
        size = classifier.preprocessing.size if classifier.preprocessing else None
        mean, std = parse_normalization(normalization)
        classifier = replace(classifier, preprocessing=Preprocessing(mean, std, size, f"as given: {normalization}"))
    return classifier


def offers_weights(spec: str) -> bool:
    """Return whether the SPEC's library has pretrained weights to offer for its models."""
    library = LIBRARIES.get(spec.partition("/")[0])
    return library is not None and library.offers_weights and student_in(spec) is None


def model_names(pattern: str = "*") -> list[str]:
    """Return every SPEC by name that matches a shell pattern, such as 'cifar/*' or 'timm/resnet*'."""
    known = [f"{prefix}/{name}" for prefix, library in LIBRARIES.items() for name in library.names()]
    return [name for name in known if fnmatch(name, pattern)]


def _build(spec: str, num_classes: int, pretrained: bool = False, new_head: bool = False) -> Classifier:
    if is_file_spec(spec):
        return from_file(spec, num_classes)
    prefix, _, name = spec.partition("/")
    if prefix not in LIBRARIES or not name:
        if Path(spec).is_dir():
            raise InputError(f"{spec} holds no {STUDENT_FILE}: name the folder of a finished run")
        raise InputError(
            f"'{spec}' names no model.{nearest(spec, model_names('cifar/*'))} "
            f"A model is {', '.join(f'{known}/NAME' for known in LIBRARIES)}, a run's folder, or FILE.py:CALLABLE"
        )
    return LIBRARIES[prefix].build(spec, name, num_classes, pretrained, new_head)


def _with_weights(classifier: Classifier, file: str, num_classes: int, new_head: bool) -> Classifier:
    """Load weights from a file into a classifier built for `num_classes`; build it anew where their own head is kept."""
    state = bare_names(read_weights(file), classifier.module)
    theirs = classes_of_head(classifier.module, state, num_classes)
    described = read_metadata(file)
    if theirs is None:
        load_into(classifier.module, state, file)
    elif new_head:
        load_body(classifier.module, state, file)
        described = {key: value for key, value in described.items() if key != "classes"}
    else:
        classifier = _build(classifier.architecture or classifier.spec, theirs)
        load_into(classifier.module, state, file)
    count = theirs if theirs is not None and not new_head else classifier.num_classes
    classes = described.get("classes")
    return replace(
        classifier,
        num_classes=count,
        pretrained=True,
        preprocessing=_described_preprocessing(described) or classifier.preprocessing,
        image_size=_described_size(described) or classifier.image_size,
        classes=tuple(classes) if isinstance(classes, list) and len(classes) == count else classifier.classes,
    )


def _described_preprocessing(described: Mapping[str, Any]) -> Preprocessing | None:
    images = described.get("input", described)
    if not isinstance(images, Mapping) or "mean" not in images or "std" not in images:
        return None
    size = described.get("input_size")
    return Preprocessing(
        tuple(images["mean"]), tuple(images["std"]), (size[0], size[1]) if size else None, "comes with the weights"
    )


def _described_size(described: Mapping[str, Any]) -> Size | None:
    images = described.get("input")
    size = images.get("size") if isinstance(images, Mapping) else described.get("image_size")
    return (int(size[-2]), int(size[-1])) if isinstance(size, list) and len(size) >= 2 else None
