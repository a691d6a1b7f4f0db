"""`angularkd cache info FOLDER` describes the caches in a folder by their own files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import angularkd
from angularkd import InputError, cli
from angularkd.distillation import stored_caches
from helpers import DIGITS


@pytest.fixture(scope="module")
def caches(digits_teacher, tmp_path_factory) -> Path:
    """The folder of two caches, filled by one epoch each: the one view that there is, and one of two."""
    folder = tmp_path_factory.mktemp("caches") / "cache"
    options = {**DIGITS, "teacher": str(digits_teacher), "student": "cifar/resnet8", "epochs": 1, "cache": str(folder)}
    for augment in ((), ("flip",)):
        angularkd.distill(**options, augment=augment, out=str(folder.parent / f"run{len(augment)}"))
    return folder


def test_it_says_what_they_are_of_and_how_full(caches, capsys) -> None:
    found = {cache.about.views_count: cache for cache in stored_caches(caches) if cache.about is not None}
    (whole,), (half,) = ({field.filled for field in found[views].fields} for views in (1, 2))
    assert whole > 0.9 and half == whole / 2  # all but the images of a last batch that is not full
    assert "logits" in {field.name for field in found[1].fields}
    cli.main(["cache", "info", str(caches)])
    out = " ".join(capsys.readouterr().out.split())
    for cache in found.values():
        assert str(cache.folder) in out
    assert (
        "2 views of" in out
        and "of 8x8, augmented by flip (seed 0)" in out
        and f"│ {whole:.1%} │" in out
        and f"│ {half:.1%} │" in out
    )


def test_one_cache_can_be_named_itself(caches) -> None:
    first = stored_caches(caches)[0]
    assert stored_caches(first.folder) == [first]


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda folder: (folder / "about.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "about.json").write_text("[]"), "cannot be read"),
        (lambda folder: (folder / "about.json").write_text(json.dumps({"format": 1})), "of another version"),
        (lambda folder: next(folder.glob("*.done")).write_bytes(b"1"), "is damaged"),
        (lambda folder: next(folder.glob("logits*.json")).write_text("{}"), "cannot be read"),
    ],
)
def test_what_is_broken_is_said_beside_what_is_not(caches, tmp_path, capsys, spoil, problem) -> None:
    shutil.copytree(caches, tmp_path / "cache")
    spoil(stored_caches(tmp_path / "cache")[0].folder)
    found = stored_caches(tmp_path / "cache")
    assert problem in (found[0].problem or "") and found[1].problem is None
    cli.main(["cache", "info", str(tmp_path / "cache")])
    assert problem in " ".join(capsys.readouterr().out.split())


def test_a_renamed_cache_is_said_to_be_lost(caches, tmp_path) -> None:
    first = stored_caches(caches)[0]
    shutil.copytree(first.folder, tmp_path / "other")
    assert f"renamed from {first.folder.name}" in (stored_caches(tmp_path / "other")[0].problem or "")


@pytest.mark.parametrize("name", ["absent", "."])
def test_a_folder_without_caches_is_named(tmp_path, name) -> None:
    with pytest.raises(InputError, match="name the folder that `cache` of a run names"):
        stored_caches(tmp_path / name)
