"""The classes of ImageNet, which some call by their synset (n01440764), some by a word (tench), and some by both."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

SYNSET = re.compile(r"^(n\d{8})(?=$|[\s_,.-])")


def synset_of(name: str) -> str | None:
    """Return the synset of a class of ImageNet by any of its usual names; None for other names, and for those of two classes."""
    found = SYNSET.match(name)
    if found is not None:
        return found[1]
    synsets = _synsets_by_word()
    return synsets.get(_plain(name)) or synsets.get(_plain(name.partition(",")[0]))


def synsets_of(names: Iterable[str]) -> list[str | None]:
    """Return the synset of each name, as `synset_of` does."""
    return [synset_of(name) for name in names]


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").split())


@cache
def _synsets_by_word() -> dict[str, str]:
    """Return the synset of each word that stands for one class alone: torchvision's words first, then those of longer descriptions."""
    from timm.data.imagenet_info import ImageNetInfo
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    info: Any = ImageNetInfo("imagenet-1k")
    synsets = info.label_names()
    described = [info.label_name_to_description(synset) for synset in synsets]
    kinds = (
        [(word,) for word in _IMAGENET_CATEGORIES],
        [(text,) for text in described],
        [text.split(", ")[:1] for text in described],
        [text.split(", ")[1:] for text in described],
    )
    found: dict[str, str | None] = {}
    for kind in kinds:
        words = [(word, synset) for synset, names in zip(synsets, kind, strict=True) for word in names]
        counts = Counter(word for word, _ in words)
        found = {word: synset if counts[word] == 1 else None for word, synset in words} | found
    return {word: synset for word, synset in found.items() if synset is not None}
