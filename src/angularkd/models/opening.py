"""From a model SPEC to a classifier: the module, the classes it tells apart, and the preprocessing it wants."""

from __future__ import annotations

import importlib.util
import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from angularkd.errors import InputError, nearest
from angularkd.models import cifar
from angularkd.models.classifier import Classifier, Preprocessing, Size, parse_normalization
from angularkd.models.downloads import fetched
from angularkd.models.libraries.huggingface import from_huggingface
from angularkd.models.weights import bare_names, load_into, mismatches, misshaped, read_metadata, read_weights

__all__ = ["Classifier", "Preprocessing", "Size", "names", "offers_weights", "open_classifier"]

STUDENT_FILE = "student.safetensors"
"""The weights in a run's folder, which make the folder itself a SPEC."""


def open_classifier(
    spec: str,
    num_classes: int,
    *,
    weights: str | None = None,
    normalization: str | None = None,
    pretrained: bool = False,
    new_head: bool = False,
) -> Classifier:
    """The classifier that a SPEC names.

    Args:
        num_classes: of a head that is made anew. Weights for another number of classes keep their own head, and
            the classifier says how many it has.
        weights: file to load.
        normalization: a name in NORMALIZATIONS or 'm,m,m/s,s,s'; overrules what is known otherwise.
        pretrained: take the weights that the SPEC's library offers, where no file is given.
        new_head: load the weights without their head when their number of classes differs, and keep a new one; those that
            the library offers too.

    Raises InputError: unknown SPEC (nearest names), weights of another architecture, unreadable files.
    """
    if (Path(spec) / STUDENT_FILE).is_file() and weights is None:
        classifier = _from_run(Path(spec), num_classes, new_head)
    else:
        classifier = _open(spec, num_classes, pretrained and weights is None, new_head)
    if weights is not None:
        classifier = _with_weights(classifier, weights, num_classes, new_head)
    if normalization is not None:
        size = classifier.preprocessing.size if classifier.preprocessing else None
        mean, std = parse_normalization(normalization)
        classifier = replace(classifier, preprocessing=Preprocessing(mean, std, size, f"as given: {normalization}"))
    return classifier


def offers_weights(spec: str) -> bool:
    """Whether the SPEC's library has pretrained weights to offer for its models."""
    return spec.partition("/")[0] in ("timm", "torchvision", "hf") and not (Path(spec) / STUDENT_FILE).is_file()


def names(pattern: str = "*") -> list[str]:
    """Every SPEC by name that matches a shell pattern, such as 'cifar/*' or 'timm/resnet*'; the hub of hf/ is not asked."""
    import timm
    import torchvision

    known = [f"cifar/{name}" for name in cifar.names()]
    known += [f"torchvision/{name}" for name in torchvision.models.list_models(module=torchvision.models)]
    known += [f"timm/{name}" for name in timm.list_models()]
    return [name for name in known if fnmatch(name, pattern)]


def _open(spec: str, num_classes: int, pretrained: bool, new_head: bool = False) -> Classifier:
    if ".py:" in spec:
        return Classifier(spec, _from_file(spec, num_classes), num_classes)
    library, _, name = spec.partition("/")
    if library not in LIBRARIES or not name:
        if Path(spec).is_dir():
            raise InputError(f"{spec} holds no {STUDENT_FILE}: name the folder of a finished run")
        raise InputError(
            f"'{spec}' names no model.{nearest(spec, [f'cifar/{n}' for n in cifar.names()])} "
            f"A model is {', '.join(f'{known}/NAME' for known in LIBRARIES)}, a run's folder, or FILE.py:CALLABLE"
        )
    return LIBRARIES[library](spec, name, num_classes, pretrained, new_head)


def _from_cifar(spec: str, name: str, num_classes: int, pretrained: bool, new_head: bool) -> Classifier:
    return Classifier(spec, cifar.create(name, num_classes), num_classes)


def _from_timm(spec: str, name: str, num_classes: int, pretrained: bool, new_head: bool) -> Classifier:
    import timm
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    if not timm.is_model(name):
        raise InputError(
            f"timm has no model '{name}'.{nearest(name, timm.list_models())} See: angularkd list models 'timm/*'"
        )
    head: dict[str, Any] = {} if pretrained and not new_head else {"num_classes": num_classes}
    if pretrained:
        module = _download(spec, lambda: timm.create_model(name, pretrained=True, **head))
    else:
        try:
            module = timm.create_model(name, pretrained=False, **head)
        except RuntimeError as error:
            raise InputError(
                f"timm cannot make '{name}' ({str(error).splitlines()[0]}): leave out what follows the dot"
            ) from None
    wants = module.pretrained_cfg
    preprocessing = Preprocessing(tuple(wants["mean"]), tuple(wants["std"]), source="timm's own")
    size = tuple(wants["input_size"][-2:])
    imagenet = infer_imagenet_subset(module) if pretrained and not new_head else None
    return Classifier(
        spec,
        module,
        module.num_classes,
        preprocessing,
        tuple(ImageNetInfo(imagenet).label_names()) if imagenet else None,  # type: ignore[no-untyped-call]
        pretrained=pretrained,
        image_size=size if pretrained else None,
        native_size=size,
    )


def _from_torchvision(spec: str, name: str, num_classes: int, pretrained: bool, new_head: bool) -> Classifier:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise InputError(
            f"torchvision has no classifier '{name}'.{nearest(name, known)} See: angularkd list models 'torchvision/*'"
        )
    weights = torchvision.models.get_model_weights(name).DEFAULT
    wants = weights.transforms()
    size = (wants.crop_size[0], wants.crop_size[0])
    fresh = Classifier(spec, torchvision.models.get_model(name, num_classes=num_classes), num_classes, native_size=size)
    if not pretrained:
        return fresh
    module = _download(spec, lambda: torchvision.models.get_model(name, weights=weights))
    classes = tuple(weights.meta["categories"])
    if new_head and len(classes) != num_classes:
        _load_body(fresh.module, module.state_dict(), spec)
        module, classes = fresh.module, ()
    return replace(
        fresh,
        module=module,
        num_classes=len(classes) or num_classes,
        preprocessing=Preprocessing(tuple(wants.mean), tuple(wants.std), source="torchvision's own"),
        classes=classes or None,
        pretrained=True,
        image_size=size,
    )


def _download(spec: str, load: Callable[[], Any]) -> Any:
    remedy = "fetch them where there is a network and give the file as weights"
    return fetched(f"the pretrained weights of {spec}", load, remedy)


def _from_file(spec: str, num_classes: int) -> nn.Module:
    file, _, name = spec.rpartition(":")
    if not Path(file).is_file():
        raise InputError(f"there is no file {file}: a model of your own is FILE.py:CALLABLE")
    module_spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    _run_theirs(spec, module_spec.loader.exec_module, module)
    build = getattr(module, name, None)
    if not callable(build):
        public = [known for known, value in vars(module).items() if callable(value) and not known.startswith("_")]
        raise InputError(
            f"{file} has no callable '{name}'.{nearest(name, public)} It has: {', '.join(public) or 'none'}"
        )
    takes_classes = "num_classes" in inspect.signature(build).parameters
    model = _run_theirs(spec, build, **({"num_classes": num_classes} if takes_classes else {}))
    if not isinstance(model, nn.Module):
        raise InputError(f"{spec} returned a {type(model).__name__}: it must return a torch.nn.Module")
    return model


def _run_theirs(spec: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Run a user's own code; whatever it raises becomes one line that names the place."""
    try:
        return call(*arguments, **options)
    except Exception as error:
        file = spec.rpartition(":")[0]
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).resolve() == Path(file).resolve()
        ]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else "?")
        raise InputError(f"{spec} failed at line {line} of {file}: {type(error).__name__}: {error}") from error


def _from_run(folder: Path, num_classes: int, new_head: bool) -> Classifier:
    file = folder / STUDENT_FILE
    described = read_metadata(file)
    if "model" not in described:
        raise InputError(f"{file} does not say which model it holds: name the model, and the file as its weights")
    classifier = _open(described["model"], num_classes, pretrained=False)
    loaded = _with_weights(classifier, str(file), num_classes, new_head)
    return replace(loaded, spec=str(folder), architecture=described["model"])


LIBRARIES: dict[str, Callable[[str, str, int, bool, bool], Classifier]] = {
    "cifar": _from_cifar,
    "timm": _from_timm,
    "torchvision": _from_torchvision,
    "hf": from_huggingface,
}
"""Called with the SPEC, the name in it, the number of classes of a new head, and whether to take pretrained weights without theirs."""


def _with_weights(classifier: Classifier, file: str, num_classes: int, new_head: bool) -> Classifier:
    state = bare_names(read_weights(file), classifier.module)
    theirs = _classes_of_head(classifier.module, state, num_classes)
    described = read_metadata(file)
    if theirs is None:
        load_into(classifier.module, state, file)
    elif new_head:
        _load_body(classifier.module, state, file)
        described = {key: value for key, value in described.items() if key != "classes"}
    else:
        classifier = _open(classifier.architecture or classifier.spec, theirs, pretrained=False)
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


def _load_body(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load all but what has another shape: the classification layer, of another number of classes."""
    own = module.state_dict()
    head = set(misshaped(module, state))
    load_into(module, {name: own[name] if name in head else value for name, value in state.items()}, source)


def _classes_of_head(module: nn.Module, state: Mapping[str, Tensor], num_classes: int) -> int | None:
    """How many classes the weights tell apart, when that is all that keeps them from fitting; else None."""
    own = module.state_dict()
    head = misshaped(module, state)
    heads = {state[name].shape[0] for name in head if state[name].ndim}
    same_tails = all(
        state[name].shape[1:] == own[name].shape[1:] and own[name].shape[0] == num_classes for name in head
    )
    fits = not mismatches(module, {name: own[name] if name in head else value for name, value in state.items()})
    return heads.pop() if len(heads) == 1 and same_tails and fits else None


def _described_preprocessing(described: Mapping[str, Any]) -> Preprocessing | None:
    wants = described.get("input", described)
    if not isinstance(wants, Mapping) or "mean" not in wants or "std" not in wants:
        return None
    size = described.get("input_size")
    return Preprocessing(
        tuple(wants["mean"]), tuple(wants["std"]), (size[0], size[1]) if size else None, "comes with the weights"
    )


def _described_size(described: Mapping[str, Any]) -> Size | None:
    wants = described.get("input")
    size = wants.get("size") if isinstance(wants, Mapping) else described.get("image_size")
    return (int(size[-2]), int(size[-1])) if isinstance(size, list) and len(size) >= 2 else None
