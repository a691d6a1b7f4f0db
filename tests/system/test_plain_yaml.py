"""YAML as options are written in it: values mean what they look like, and a short file cannot stand for a large one."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from angularkd.system.plain_yaml import DEEPEST, LARGEST_FILE_BYTES, read_yaml, read_yaml_file, write_yaml

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 2000))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("010", 10),
        ("0x10", "0x10"),
        ("1_000", 1000),
        ("1e4", 1e4),
        ("-.5", -0.5),
        ("+5", 5),
        (".inf", float("inf")),
        ("yes", True),
        ("~", None),
        ("", None),
        ("<<", "<<"),
        ("'1'", "1"),
        ("9" * 5000, float("inf")),
    ],
)
def test_values_are_what_they_look_like(text, value) -> None:
    assert read_yaml(f"a: {text}") == {"a": value}


def test_aliases_of_small_things_are_read() -> None:
    assert read_yaml("a: &x imagenet\nb: *x\nc: &y [1, 2]\nd: *y") == {
        "a": "imagenet",
        "b": "imagenet",
        "c": [1, 2],
        "d": [1, 2],
    }


def test_mappings_are_merged_and_what_is_written_beside_counts() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b\n  <<: *a\n  y: 3\nc: {<<: [*b, {x: 9, z: 4}]}\nd: *b\ne: {'<<': 5}"
    assert read_yaml(text) == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 1, "y": 3, "z": 4},
        "d": {"x": 1, "y": 3},
        "e": {"<<": 5},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {<<: b}", "expected a mapping"),
        ("a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a", "'<<' is given twice"),
        ("a: 1\na: 2", "'a' is given twice"),
        ("a: {b: 1, 'b': 2}", "'b' is given twice"),
        ("a: !!binary aGVsbG8=", "tag"),
        ("a: !!float x", "tag"),
        ("a: !!python/object:os.system x", "tag"),
        ("a: &x [*x]", "a part of"),
        (BOMB, "its aliases followed"),
        (CHAIN, "deep, its aliases followed"),
        ("[" * 3000, "deep"),
        ("- " * (DEEPEST + 1) + "x", "deep"),
        ("{[1]: 2}", "unhashable"),
        ("a: 'x", "quoted scalar"),
    ],
    ids=lambda text: text[:20],
)
def test_what_cannot_be_options_is_refused_at_once(text, message) -> None:
    started = time.perf_counter()
    with pytest.raises(yaml.YAMLError, match=message):
        read_yaml(text)
    assert time.perf_counter() - started < 20


def test_a_file_without_end_is_refused(tmp_path) -> None:
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (LARGEST_FILE_BYTES + 1))
    for path in (large, Path("/dev/zero")):
        with pytest.raises(yaml.YAMLError, match="larger than"):
            read_yaml_file(path)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path) -> None:
    (tmp_path / "a.yaml").write_bytes("\ufeffdata: é\n".encode())
    assert read_yaml_file(tmp_path / "a.yaml") == {"data": "é"}


def test_what_is_written_is_read_back_here_and_by_others() -> None:
    words = [
        "1e4",
        "1:30",
        "010",
        "0x10",
        "2020-01-01",
        "yes",
        "~",
        "",
        "<<",
        "=",
        "1_0",
        "a: b",
        "é",
        "\udcff",
        "null",
    ]
    value = {"words": words, "numbers": [1, 2.0, 1e-5, 1e22, -3], "others": [True, None, []]}
    assert read_yaml(write_yaml(value)) == value
    assert yaml.safe_load(write_yaml(value)) == value
