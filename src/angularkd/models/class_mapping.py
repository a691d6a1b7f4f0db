"""Maps a teacher's classes to the data's: which of its logits stand for each class of the data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from angularkd.errors import InputError, nearest
from angularkd.models.imagenet import synset_of, synsets_of
from angularkd.system.compiling import made_once
from angularkd.system.plain_yaml import compose, read_text_file


@dataclass(frozen=True)
class ClassMapping:
    """For each class of the data, in their order, the teacher's classes that it consists of.

    Calling it maps logits [batch, teacher classes] to [batch, data classes]: the probabilities of a group's classes are
    summed, and those of classes in no group are left out:

        mapped_k = logsumexp_{j in groups[k]} logits_j

    so that softmax(mapped) is the teacher's prediction, given that the image shows one of the data's classes.
    """

    groups: tuple[tuple[int, ...], ...]

    def __call__(self, logits: Float[Tensor, "batch teacher_classes"]) -> Float[Tensor, "batch classes"]:
        """Return the logits of the data's classes."""
        if self.one_to_one:
            return logits[:, _indices(self.groups, logits.device)[:, 0]]
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        padded = torch.nn.functional.pad(wide, (0, 1), value=float("-inf"))
        return padded[:, _indices(self.groups, logits.device)].logsumexp(dim=2)

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def one_to_one(self) -> bool:
        """Return whether every class of the data is a single class of the teacher."""
        return all(len(group) == 1 for group in self.groups)

    def head_weight(self, weight: Float[Tensor, "teacher_classes dim"]) -> Float[Tensor, "classes dim"]:
        """Return the rows of the classification layer that give the mapped logits.

        Raises:
            InputError: where a class of the data consists of several of the teacher's.
        """
        if not self.one_to_one:
            raise InputError(
                "a loss uses the teacher's classification layer, which has no single row for a class that is mapped "
                "to several of the teacher's: map each class to one, or leave out that loss"
            )
        return weight[_indices(self.groups, weight.device)[:, 0]]


@made_once
def _indices(groups: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
    """Return [classes, longest group], filled up with -1, on the device once and for all: no copy, hence no wait, in a step."""
    longest = max(map(len, groups))
    return torch.tensor([[*group, *[-1] * (longest - len(group))] for group in groups], device=device)


def match_names(classes: Sequence[str], teacher_classes: Sequence[str] | None) -> ClassMapping | None:
    """Return the mapping by equal names, or by names of the same class of ImageNet ('n01440764', 'n01440764 tench', 'tench').

    It is None unless the teacher's names hold each of the data's exactly once.
    """
    if teacher_classes is None:
        return None
    equal = _by_names(classes, teacher_classes)
    return equal if equal is not None else _by_names(synsets_of(classes), synsets_of(teacher_classes))


def _by_names(names: Sequence[str | None], known: Sequence[str | None]) -> ClassMapping | None:
    counts = Counter(known)
    if any(name is None or counts[name] != 1 for name in names) or len(set(names)) < len(names):
        return None
    return ClassMapping(tuple((known.index(name),) for name in names))


def read_class_mapping(
    path: str | Path, classes: Sequence[str], teacher_classes: Sequence[str] | None, num_teacher_classes: int
) -> ClassMapping:
    """Read the mapping in a YAML or JSON file, from each class of the data to a class of the teacher or a list of such.

        n01440764: 0
        church: church
        dog: [beagle, 163, English setter]

    A teacher's class is its index (an unquoted whole number) or its name.

    Args:
        path: of the file.
        classes: of the data, in their order.
        teacher_classes: the names of the teacher's, where they are known.
        num_teacher_classes: how many the teacher has.

    Raises:
        InputError: for a class of the data that is not mapped, one that the data does not have, an index out of range, a
            name that is unknown or names several classes, a teacher's class that is taken twice, and a file that is no such
            mapping.
    """
    entries = _read_entries(Path(path))
    for name in entries:
        if name not in classes:
            raise InputError(f"{path} maps '{name}', which is no class of the data.{nearest(name, classes)}")
    absent = [name for name in classes if name not in entries]
    if absent:
        raise InputError(
            f"{path} maps no class of the teacher to {', '.join(repr(name) for name in absent)}: every class of the data needs one"
        )
    groups: list[tuple[int, ...]] = []
    taken: dict[int, str] = {}
    for name in classes:
        group = []
        for entry in entries[name]:
            index = _index_of(entry, teacher_classes, num_teacher_classes, f"{path}, class '{name}'")
            if index in taken:
                raise InputError(f"{path} takes the teacher's class {entry!r} twice, for '{taken[index]}' and '{name}'")
            taken[index] = name
            group.append(index)
        groups.append(tuple(group))
    return ClassMapping(tuple(groups))


def _index_of(entry: Any, teacher_classes: Sequence[str] | None, count: int, where: str) -> int:
    if isinstance(entry, int) and not isinstance(entry, bool):
        if not 0 <= entry < count:
            raise InputError(f"{where}: the teacher has classes 0 to {count - 1}, got {entry}")
        return entry
    if not isinstance(entry, str):
        raise InputError(
            f"{where}: expected a name or an index of a teacher's class, or a list of these, got {entry!r}"
        )
    if teacher_classes is None:
        raise InputError(
            f"{where}: the names of the teacher's classes are not known, got {entry!r}: give indices 0 to {count - 1}"
        )
    found = [index for index, name in enumerate(teacher_classes) if name == entry]
    if not found and (synset := synset_of(entry)) is not None:
        found = [index for index, name in enumerate(synsets_of(teacher_classes)) if name == synset]
    if not found:
        raise InputError(f"{where}: the teacher has no class '{entry}'.{nearest(entry, teacher_classes)}")
    if len(found) > 1:
        raise InputError(f"{where}: '{entry}' names the teacher's classes {found}: give one of these indices")
    return found[0]


def _read_entries(path: Path) -> dict[str, list[Any]]:
    """Return the names of the data's classes, as they are written, with the teacher's classes of each."""
    try:
        text = read_text_file(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"there is no class mapping {path} to read ({error})") from None
    try:
        pairs = json.loads(text, object_pairs_hook=list) if path.suffix == ".json" else _yaml_pairs(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path} is neither YAML nor JSON: {' '.join(str(error).split())}") from None
    if not isinstance(pairs, list) or not pairs or not all(isinstance(pair, tuple) for pair in pairs):
        raise InputError(
            f"{path} must hold a mapping from the data's classes to the teacher's, a line 'NAME: CLASS' for each"
        )
    repeated = [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]
    if repeated:
        raise InputError(f"{path} maps '{repeated[0]}' twice: keep one line")
    entries = {name: value if isinstance(value, list) else [value] for name, value in pairs}
    empty = [name for name, value in entries.items() if not value]
    if empty:
        raise InputError(f"{path} maps '{empty[0]}' to nothing: give a teacher's class")
    return entries


def _yaml_pairs(text: str) -> Any:
    """Return keys and words as they are written, so that a class may be called 007 or no; only plain whole numbers are numbers."""
    node = compose(text)
    if not isinstance(node, yaml.MappingNode):
        return None
    if not all(isinstance(key, yaml.ScalarNode) for key, _ in node.value):
        return None
    return [(key.value, _yaml_value(value)) for key, value in node.value]


def _yaml_value(node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_yaml_value(part) for part in node.value]
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:int" and node.value.lstrip("-").isdigit():
        return int(node.value)
    return None if node.tag == "tag:yaml.org,2002:null" else node.value
