"""From a model SPEC to a classifier: the module, the classes it tells apart, and the preprocessing it needs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from torch import nn

from angularkd.errors import InputError, nearest
from angularkd.models.classifier import Classifier
from angularkd.models.counting import Count
from angularkd.models.heads import load_body
from angularkd.models.libraries import LIBRARIES
from angularkd.models.libraries.file import check_trusted, from_file, is_file_spec
from angularkd.models.libraries.module import from_module, is_module_spec
from angularkd.models.libraries.run import architecture_in, student_in
from angularkd.models.preprocessing import Preprocessing, parse_normalization
from angularkd.models.selecting import select_weights
from angularkd.models.traces import Traces
from angularkd.models.usable import made_usable
from angularkd.models.weights import load_into, read_description
from angularkd.runs import STUDENT_FILE, Description


def open_classifier(
    spec: str,
    num_classes: int,
    *,
    weights: str | None = None,
    normalization: str | None = None,
    pretrained: bool = False,
    new_head: bool = False,
    trust: Collection[str] = (),
    module: nn.Module | None = None,
    count_outputs: Count | None = None,
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
        trust: Python files whose code may run, should a run's folder name a model in one. What the SPEC itself names runs.
        module: the network itself, where the SPEC stands for one (`module_spec`), or the run's folder is of one.
        count_outputs: counts the classes of a network of the user's own that does not say them (`Traces.counting`); by default it
            is run for that alone.

    Raises:
        InputError: for an unknown SPEC, weights of another architecture, files that cannot be read, and code that is not trusted.
    """
    count = count_outputs or Traces().counting()
    student = student_in(spec) if weights is None else None
    if student is not None:
        architecture = architecture_in(student)
        if is_file_spec(architecture):
            check_trusted(architecture, student, trust)
        classifier = _build(architecture, num_classes, count, module=module)
        classifier = _with_weights(classifier, str(student), num_classes, new_head, count)
        classifier = replace(classifier, spec=str(Path(spec)), architecture=architecture)
    else:
        classifier = _build(spec, num_classes, count, pretrained and weights is None, new_head, module)
        if new_head and classifier.pretrained and classifier.classes is None:
            note = (
                f"{spec} starts from its library's weights, with a new classification layer for {num_classes} classes"
            )
            classifier = replace(classifier, notes=(*classifier.notes, note))
    if weights is not None:
        classifier = _with_weights(classifier, weights, num_classes, new_head, count)
    if normalization is not None:
        known = classifier.preprocessing
        size, channels = (known.size, known.channels) if known is not None else (None, None)
        mean, std = parse_normalization(normalization)
        given = Preprocessing(mean, std, None, f"as given: {normalization}")
        if channels is not None and len(channels) == 1:
            given = given.grey()
        elif channels is not None:
            given = replace(given, channels=channels)
        classifier = replace(classifier, preprocessing=replace(given, size=size))
    return classifier


def offers_weights(spec: str) -> bool:
    """Return whether the SPEC's library has pretrained weights to offer for its models."""
    library = LIBRARIES.get(spec.partition("/")[0])
    return library is not None and library.offers_weights and student_in(spec) is None


def model_names(pattern: str = "*") -> list[str]:
    """Return every SPEC by name that matches a shell pattern, such as 'cifar/*' or 'timm/resnet*'."""
    known = [f"{prefix}/{name}" for prefix, library in LIBRARIES.items() for name in library.names()]
    return [name for name in known if fnmatch(name, pattern)]


def _build(
    spec: str,
    num_classes: int,
    count: Count,
    pretrained: bool = False,
    new_head: bool = False,
    module: nn.Module | None = None,
) -> Classifier:
    passed = is_module_spec(spec)
    if passed:
        classifier = from_module(spec, module, num_classes, count)
    elif is_file_spec(spec):
        classifier = from_file(spec, num_classes, count)
    else:
        classifier = _built(spec, num_classes, pretrained, new_head)
    usable, notes = made_usable(classifier.module, spec, converts=not passed)
    return replace(classifier, module=usable, notes=(*classifier.notes, *notes))


def _built(spec: str, num_classes: int, pretrained: bool, new_head: bool) -> Classifier:
    prefix, _, name = spec.partition("/")
    if prefix not in LIBRARIES or not name:
        if Path(spec).is_dir():
            raise InputError(f"{spec} holds no {STUDENT_FILE}: name the folder of a finished run")
        raise InputError(
            f"'{spec}' names no model.{nearest(spec, model_names('cifar/*'))} "
            f"A model is {', '.join(f'{known}/NAME' for known in LIBRARIES)}, a run's folder, or FILE.py:CALLABLE"
        )
    return LIBRARIES[prefix].build(spec, name, num_classes, pretrained, new_head)


def _with_weights(classifier: Classifier, file: str, num_classes: int, new_head: bool, count: Count) -> Classifier:
    """Load weights from a file into a classifier built for `num_classes`; build it anew where their own head stays."""
    spec = classifier.architecture or classifier.spec
    library = LIBRARIES.get(spec.partition("/")[0])
    selected = select_weights(classifier.module, file, num_classes, library.rename if library is not None else None)
    described, theirs = read_description(file), selected.classes
    keeps_head = theirs is not None and not new_head
    if theirs is None:
        load_into(classifier.module, selected.state, file)
    elif new_head:
        load_body(classifier.module, selected.state, file)
        note = f"the weights in {file} tell apart {theirs} classes: the classification layer starts anew, for {num_classes}"
        classifier = replace(classifier, notes=(*classifier.notes, note))
    elif is_module_spec(spec):
        raise InputError(
            f"the weights in {file} tell apart {theirs} classes, and the module {num_classes}: give it a layer for as many, or others"
        )
    else:
        classifier = _build(spec, theirs, count)
        load_into(classifier.module, selected.state, file)
    own = theirs if theirs is not None and keeps_head else classifier.num_classes
    classes, notes = described.classes if theirs is None or keeps_head else None, selected.notes
    if classes is not None and len(classes) != own:
        notes = (
            *notes,
            f"{file} names {len(classes)} classes and its weights tell apart {own}: its names are not used",
        )
        classes = None
    return replace(
        classifier,
        num_classes=own,
        pretrained=True,
        preprocessing=_described_preprocessing(described, file) or classifier.preprocessing,
        image_size=_pair(described.image_size) or classifier.image_size,
        classes=classes if classes is not None else classifier.classes,
        temperature=described.temperature if theirs is None or keeps_head else None,
        notes=(*classifier.notes, *notes),
    )


def _described_preprocessing(described: Description, file: str) -> Preprocessing | None:
    if described.mean is None or described.std is None:
        return None
    source = "comes with the weights"
    try:
        return Preprocessing(described.mean, described.std, _pair(described.resize), source, described.channels)
    except InputError as error:
        raise InputError(f"what describes {file} cannot be used: {error}") from None


def _pair(size: tuple[int, ...] | None) -> tuple[int, int] | None:
    return (size[0], size[1]) if size is not None else None
