"""YAML as options are written in it: mappings, lists, words, numbers, true, false and null, each meaning what it looks like.

Dates, minutes (1:30), octal numbers and tags of YAML are read as words or refused; `<<` merges mappings, as in YAML 1.1; a name is given
once; and a short file stands for few values, however its aliases are nested.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

LARGEST_FILE_BYTES = 4 * 2**20
DEEPEST = 20
"""Lists and mappings inside each other."""
MOST_VALUES = 200_000
"""Values and names in a text, those that its aliases stand for counted each time."""

_TAG = "tag:yaml.org,2002:"
_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_WORDS = {
    "bool": (r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", "yYnNtTfFoO"),
    "int": (rf"[-+]?{_DIGITS}", "-+0123456789"),
    "float": (rf"[-+]?(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+0123456789."),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
}
"""What is more than a word: how it is written, and with which characters it begins."""


class _Loader(yaml.SafeLoader):
    """Reads such YAML."""

    yaml_implicit_resolvers = {}  # noqa: RUF012
    yaml_constructors = {  # noqa: RUF012
        **{
            f"{_TAG}{name}": yaml.SafeLoader.yaml_constructors[f"{_TAG}{name}"]
            for name in ("null", "bool", "str", "seq", "map")
        },
        None: yaml.SafeLoader.yaml_constructors[None],
    }
    _depth = 0

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._merged: set[int] = set()

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        tag = getattr(self.peek_event(), "tag", None)  # type: ignore[no-untyped-call]
        if tag is not None:
            raise yaml.YAMLError(f"it says what a value is by the tag {tag}: write the value alone")
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.YAMLError(f"its lists and mappings lie more than {DEEPEST} deep")
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if id(node) in self._merged:  # an alias stands for it, and it holds by now what it merges
            return
        self._merged.add(id(node))
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == "<<" and key.style is None:
                key.tag = f"{_TAG}merge"
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
        if twice is not None:
            raise yaml.YAMLError(f"'{twice}' is given twice in one mapping")
        super().flatten_mapping(node)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        text = node.value.lower().replace(".inf", "inf").replace(".nan", "nan")
        try:
            return int(text)
        except ValueError:  # a fraction, or more digits than Python reads
            return float(text)


class _Dumper(yaml.SafeDumper):
    """Writes it: what either this reader or another would take for a number is quoted where it is a word."""


for _name, (_written, _first) in _WORDS.items():
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(f"{_TAG}{_name}", re.compile(rf"^(?:{_written})$"), list(_first))
for _name in ("int", "float"):
    _Loader.add_constructor(f"{_TAG}{_name}", _Loader.construct_number)


def compose(text: str) -> yaml.Node | None:
    """Return the nodes of a text, None of an empty one.

    Raises:
        yaml.YAMLError: for what is not YAML, has tags, lies too deep, or stands for too many values.
    """
    loader = _Loader(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
    finally:
        loader.dispose()
    if node is not None:
        _weigh(node, {})
    return node


def read_yaml(text: str) -> Any:
    """Return what a text says.

    Raises:
        yaml.YAMLError: where `compose` does, and for a name that is given twice.
    """
    node = compose(text)
    return _Loader("").construct_document(node) if node is not None else None


def read_yaml_file(path: Path) -> Any:
    """Return what a file says. Errors are those of `read_text_file` and `read_yaml`."""
    return read_yaml(read_text_file(path))


def read_text_file(path: Path) -> str:
    """Return the text in a file, which is UTF-8.

    Raises:
        OSError: where it cannot be read.
        UnicodeDecodeError: where it is no text in UTF-8.
        yaml.YAMLError: for a file that is too large.
    """
    with path.open("rb") as file:
        data = file.read(LARGEST_FILE_BYTES + 1)  # a device may go on for ever
    if len(data) > LARGEST_FILE_BYTES:
        raise yaml.YAMLError(f"it is larger than {LARGEST_FILE_BYTES >> 20} MiB")
    return data.decode("utf-8-sig")


def write_yaml(value: Any) -> str:
    """Return plain values as the text that `read_yaml` reads back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _weigh(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Return how many values a node stands for and how deep they lie, aliases followed. `known` holds what was weighed before.

    An alias names what was written before it, so that the recursion is no deeper than the text.
    """
    if id(node) in known:
        weight = known[id(node)]
        if weight is None:
            raise yaml.YAMLError("an alias stands for what it is a part of")
        return weight
    known[id(node)] = None
    values, depth = 1, 1
    if isinstance(node, yaml.CollectionNode):
        for part in node.value:
            for child in part if isinstance(part, tuple) else (part,):
                more, deeper = _weigh(child, known)
                values, depth = values + more, max(depth, deeper + 1)
    if values > MOST_VALUES:
        raise yaml.YAMLError(f"it stands for more than {MOST_VALUES:,} values, its aliases followed")
    if depth > DEEPEST:
        raise yaml.YAMLError(f"its lists and mappings lie more than {DEEPEST} deep, its aliases followed")
    known[id(node)] = values, depth
    return values, depth
