"""From a model SPEC to a classifier: the module, the classes it tells apart, and the preprocessing it wants."""

from __future__ import annotations

import importlib.util
import inspect
import json
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from angularkd.errors import InputError, nearest
from angularkd.models import cifar
from angularkd.models.weights import load_into, mismatches, misshaped, read_metadata, read_weights

NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}

STUDENT_FILE = "student.safetensors"
"""The weights in a run's folder, which make the folder itself a SPEC."""


@dataclass(frozen=True)
class Preprocessing:
    """What a model wants done to images in 0..1: bring them to `size` (None: leave it), subtract `mean`, divide by `std`.

    Calling it maps [batch, 3, height, width] to the same, resized bilinearly with antialiasing where the size differs.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None = None
    source: str = ""

    def __call__(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 new_height new_width"]:
        if self.size is not None and images.shape[-2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        return (images - _constant(self.mean, images.device)) / _constant(self.std, images.device)

    def __str__(self) -> str:
        mean, std = (" ".join(f"{value:.3f}" for value in values) for values in (self.mean, self.std))
        size = f", resized to {self.size[0]}x{self.size[1]}" if self.size else ""
        return f"mean {mean}, std {std}{size}" + (f" ({self.source})" if self.source else "")


@dataclass(frozen=True)
class Classifier:
    """A model ready to use.

    spec:          what was asked for; architecture: the SPEC that builds the bare module, where that is another.
    preprocessing: None when nothing is known of it: the images' own statistics are then used.
    classes: names in the order of the logits, where they are known.
    image_size: (height, width) of the images that it was trained on, where that is known.
    """

    spec: str
    module: nn.Module
    num_classes: int
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] | None = None
    pretrained: bool = False
    architecture: str = ""
    image_size: tuple[int, int] | None = None

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.module.parameters())


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
        new_head: load the weights without their head when their number of classes differs, and keep a new one.

    Raises InputError: unknown SPEC (nearest names), weights of another architecture, unreadable files.
    """
    if (Path(spec) / STUDENT_FILE).is_file() and weights is None:
        classifier = _from_run(Path(spec), num_classes, new_head)
    else:
        classifier = _open(spec, num_classes, pretrained and weights is None)
    if weights is not None:
        classifier = _with_weights(classifier, weights, num_classes, new_head)
    if normalization is not None:
        size = classifier.preprocessing.size if classifier.preprocessing else None
        mean, std = parse_normalization(normalization)
        classifier = replace(classifier, preprocessing=Preprocessing(mean, std, size, f"as given: {normalization}"))
    return classifier


def names(pattern: str = "*") -> list[str]:
    """Every SPEC by name that matches a shell pattern, such as 'cifar/*' or 'timm/resnet*'."""
    import timm
    import torchvision

    known = [f"cifar/{name}" for name in cifar.names()]
    known += [f"torchvision/{name}" for name in torchvision.models.list_models(module=torchvision.models)]
    known += [f"timm/{name}" for name in timm.list_models()]
    return [name for name in known if fnmatch(name, pattern)]


def parse_normalization(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation from a name or from 'm,m,m/s,s,s'."""
    if text in NORMALIZATIONS:
        return NORMALIZATIONS[text]
    try:
        mean, std = (tuple(float(value) for value in part.split(",")) for part in text.split("/"))
    except ValueError:
        mean, std = (), ()
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise InputError(
            f"normalization '{text}' is not known.{nearest(text, NORMALIZATIONS)} "
            f"Use {', '.join(NORMALIZATIONS)}, or six numbers m,m,m/s,s,s"
        )
    return mean, std


@lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """One number a channel, on the device once and for all: no copy, hence no wait, in a step."""
    return torch.tensor(values, device=device).view(1, -1, 1, 1)


def _open(spec: str, num_classes: int, pretrained: bool) -> Classifier:
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
    return LIBRARIES[library](spec, name, num_classes, pretrained)


def _from_cifar(spec: str, name: str, num_classes: int, pretrained: bool) -> Classifier:
    return Classifier(spec, cifar.create(name, num_classes), num_classes)


def _from_timm(spec: str, name: str, num_classes: int, pretrained: bool) -> Classifier:
    import timm

    if not timm.is_model(name):
        raise InputError(
            f"timm has no model '{name}'.{nearest(name, timm.list_models())} See: angularkd list models 'timm/*'"
        )
    if pretrained:
        module = _download(spec, lambda: timm.create_model(name, pretrained=True))
    else:
        module = timm.create_model(name, pretrained=False, num_classes=num_classes)
    wants = module.pretrained_cfg
    preprocessing = Preprocessing(tuple(wants["mean"]), tuple(wants["std"]), source="timm's own")
    size = tuple(wants["input_size"][-2:]) if pretrained else None
    return Classifier(spec, module, module.num_classes, preprocessing, pretrained=pretrained, image_size=size)


def _from_torchvision(spec: str, name: str, num_classes: int, pretrained: bool) -> Classifier:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise InputError(
            f"torchvision has no classifier '{name}'.{nearest(name, known)} See: angularkd list models 'torchvision/*'"
        )
    if not pretrained:
        return Classifier(spec, torchvision.models.get_model(name, num_classes=num_classes), num_classes)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    module = _download(spec, lambda: torchvision.models.get_model(name, weights=weights))
    wants = weights.transforms()
    preprocessing = Preprocessing(tuple(wants.mean), tuple(wants.std), source="torchvision's own")
    classes = tuple(weights.meta["categories"])
    size = (wants.crop_size[0], wants.crop_size[0])
    return Classifier(spec, module, len(classes), preprocessing, classes, pretrained=True, image_size=size)


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
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
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


LIBRARIES: dict[str, Callable[[str, str, int, bool], Classifier]] = {
    "cifar": _from_cifar,
    "timm": _from_timm,
    "torchvision": _from_torchvision,
}


def _with_weights(classifier: Classifier, file: str, num_classes: int, new_head: bool) -> Classifier:
    state = read_weights(file)
    theirs = _classes_of_head(classifier.module, state, num_classes)
    described = read_metadata(file)
    if theirs is None:
        load_into(classifier.module, state, file)
    elif new_head:
        head = set(misshaped(classifier.module, state))
        own = classifier.module.state_dict()
        load_into(classifier.module, {n: own[n] if n in head else value for n, value in state.items()}, file)
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
    return Preprocessing(tuple(wants["mean"]), tuple(wants["std"]), source="comes with the weights")


def _described_size(described: Mapping[str, Any]) -> tuple[int, int] | None:
    wants = described.get("input")
    size = wants.get("size") if isinstance(wants, Mapping) else described.get("image_size")
    return (int(size[-2]), int(size[-1])) if isinstance(size, list) and len(size) >= 2 else None


def _download(spec: str, load: Callable[[], Any]) -> Any:
    """Run a library's own download; a hub that cannot be reached becomes one line with the way round it."""
    try:
        return load()
    except (OSError, RuntimeError, ValueError, json.JSONDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"the pretrained weights of {spec} could not be had ({reason}): "
            "fetch them where there is a network and give the file as weights"
        ) from None
