"""Classifiers of torchvision, by their names there."""

from __future__ import annotations

from dataclasses import replace

from angularkd.errors import InputError, nearest
from angularkd.models.classifier import Classifier
from angularkd.models.downloads import fetch_weights
from angularkd.models.heads import load_body
from angularkd.models.preprocessing import Preprocessing


def from_torchvision(spec: str, name: str, num_classes: int, pretrained: bool, new_head: bool) -> Classifier:
    """Build the classifier that torchvision has by this name; with its weights, their preprocessing and class names too.

    Args:
        spec: 'torchvision/NAME', for errors.
        name: the model's.
        num_classes: of a head that is built anew.
        pretrained: whether to load the default weights, with their own head unless `new_head`.
        new_head: whether to put a head for `num_classes` on the pretrained body, unless its own is for as many.

    Raises:
        InputError: for an unknown name, and for weights that cannot be fetched.
    """
    import torchvision

    known = torchvision_names()
    if name not in known:
        raise InputError(
            f"torchvision has no classifier '{name}'.{nearest(name, known)} See: angularkd list models 'torchvision/*'"
        )
    weights = torchvision.models.get_model_weights(name).DEFAULT
    transforms = weights.transforms()
    size = (transforms.crop_size[0], transforms.crop_size[0])
    fresh = Classifier(spec, torchvision.models.get_model(name, num_classes=num_classes), num_classes, native_size=size)
    if not pretrained:
        return fresh
    module = fetch_weights(spec, lambda: torchvision.models.get_model(name, weights=weights))
    classes = tuple(weights.meta["categories"])
    if new_head and len(classes) != num_classes:
        load_body(fresh.module, module.state_dict(), spec)
        module, classes = fresh.module, ()
    return replace(
        fresh,
        module=module,
        num_classes=len(classes) or num_classes,
        preprocessing=Preprocessing(tuple(transforms.mean), tuple(transforms.std), source="torchvision's own"),
        classes=classes or None,
        pretrained=True,
        image_size=size,
    )


def torchvision_names() -> list[str]:
    """Return the name of every classifier."""
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))
