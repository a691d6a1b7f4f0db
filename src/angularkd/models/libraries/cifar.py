"""The CIFAR families of this package, as a library among the others."""

from __future__ import annotations

from angularkd.models.cifar import MODELS, create
from angularkd.models.classifier import Classifier


def from_cifar(spec: str, name: str, num_classes: int, pretrained: bool, new_head: bool) -> Classifier:
    """Build the network of this name, freshly initialised: there are no weights of it to take.

    Raises:
        InputError: for an unknown name.
    """
    return Classifier(spec, create(name, num_classes), num_classes)


def cifar_names() -> list[str]:
    """Return the name of every network, family by family."""
    return list(MODELS)
