"""Where models come from: LIBRARIES, the table of SPECs LIBRARY/NAME, and two kinds of SPEC without a library.

A new library is a file here and a row of the table. Files of users (`file`) and folders of runs (`run`) have no names to list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from angularkd.models.classifier import Classifier
from angularkd.models.libraries.cifar import cifar_names, from_cifar
from angularkd.models.libraries.huggingface import from_huggingface, renamed
from angularkd.models.libraries.timm import from_timm, timm_names
from angularkd.models.libraries.torchvision import from_torchvision, torchvision_names
from angularkd.models.selecting import Rename

__all__ = ["LIBRARIES", "Library"]


@dataclass(frozen=True)
class Library:
    """A row of the table.

    Attributes:
        build: called with the SPEC, the name in it, the number of classes of a head that is built anew, whether to load the
            library's own weights, and whether to leave these without their head.
        names: lists the names that there are; those of a hub are not asked for.
        offers_weights: whether it has pretrained weights for its models.
        rename: gives weights, saved under names that the library has used for them, those of its module; None where it cannot.
    """

    build: Callable[[str, str, int, bool, bool], Classifier]
    names: Callable[[], list[str]] = list
    offers_weights: bool = True
    rename: Rename | None = None


LIBRARIES: dict[str, Library] = {
    "cifar": Library(from_cifar, cifar_names, offers_weights=False),
    "timm": Library(from_timm, timm_names),
    "torchvision": Library(from_torchvision, torchvision_names),
    "hf": Library(from_huggingface, rename=renamed),
}
