"""Tar shards in the WebDataset layout (`shard_index`), with random access to their samples."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

import numpy as np

from angularkd.data.decode import check_bytes
from angularkd.data.sources.shard_index import Sample, index_shard
from angularkd.data.split_names import files_by_split, passed_over
from angularkd.data.splits import Source, labelled_splits
from angularkd.data.stores import EncodedStore
from angularkd.errors import InputError

CLASS_NAMES = "classnames.txt"
BRACES = re.compile(r"\{([^{}]*)\}")
GLOB = re.compile(r"[*?\[]")
NUMBERS = re.compile(r"(\d+)\.\.(\d+)")
INDEXING_THREADS = 8


class ShardStore(EncodedStore):
    """A store of the samples of several shards, in order; each is read by seeking to it, and no file stays open."""

    def __init__(self, shards: Sequence[Path], samples: Sequence[Sequence[Sample]]) -> None:
        self.shards = [str(shard) for shard in shards]
        images = [sample.image for of_shard in samples for sample in of_shard]
        self.names = [image.name for image in images]
        self.shard_of = np.repeat(np.arange(len(samples)), [len(of_shard) for of_shard in samples])
        self.offsets = np.array([image.offset for image in images], dtype=np.int64)
        self.sizes = np.array([image.size for image in images], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def files(self) -> Sequence[str | Path]:
        """Return the shards."""
        return self.shards

    def name(self, row: int) -> str:
        """Return the name of an image in its shard, and the shard."""
        return f"{self.names[row]} in {self.shards[self.shard_of[row]]}"

    def encoded(self, row: int) -> tuple[bytes, str]:
        """Return the bytes of an image, and its name. Raises InputError when the shard cannot be read."""
        check_bytes(int(self.sizes[row]), self.name(row))
        try:
            with open(self.shards[self.shard_of[row]], "rb") as shard:
                shard.seek(self.offsets[row])
                return shard.read(int(self.sizes[row])), self.name(row)
        except OSError as error:
            raise InputError(f"cannot read {self.name(row)}: {error.strerror}.") from error


def open_shards(pattern: str) -> Source:
    """Open the shards of a folder, at any depth, or those that a pattern names: {000..009}, {a,b}, * and ? as in a shell.

    The split is in the name of the shard (train-000.tar) or of a folder (train/000.tar); where no name has one, all
    shards are training images. Classes are named by the lines of classnames.txt beside the shards, else by number.

    Raises:
        InputError: Shards are missing, cut off or compressed, or samples lack an image or a label.
    """
    if not pattern:
        raise InputError("shards needs a folder or a pattern: write shards:DIR or shards:DIR/train-{000..009}.tar.")
    root, paths = _find(str(Path(pattern).expanduser()))
    by_split, unnamed = files_by_split(root, paths)
    notes = passed_over(path.relative_to(root).as_posix() for path in unnamed)
    if not by_split:
        by_split, notes = {"train": unnamed}, ("no shard's name gives a split: all are training images",)
    with ThreadPoolExecutor(INDEXING_THREADS) as pool:
        samples = {name: list(pool.map(index_shard, shards)) for name, shards in by_split.items()}
    stores = {name: ShardStore(shards, samples[name]) for name, shards in by_split.items()}
    labels = {
        name: np.array([sample.label for of_shard in samples[name] for sample in of_shard], dtype=np.int64)
        for name in samples
    }
    classes, splits, label_notes = labelled_splits(str(root), stores, labels, _class_names(root))
    return Source(root.resolve().name, classes, splits, (*notes, *label_notes))


def expand_braces(pattern: str) -> list[str]:
    """Expand braces as a shell does: {000..002} is 000, 001 and 002, {a,b} is a and b, in every combination."""
    braces = BRACES.search(pattern)
    if braces is None:
        return [pattern]
    numbers = NUMBERS.fullmatch(braces.group(1))
    if numbers:
        first, last = numbers.groups()
        choices = [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
    else:
        choices = braces.group(1).split(",")
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    return list(dict.fromkeys(path for choice in choices for path in expand_braces(before + choice + after)))


def _find(pattern: str) -> tuple[Path, list[Path]]:
    """Return the folder of the shards, and the shards."""
    if Path(pattern).is_dir():
        found = sorted(path for path in Path(pattern).rglob("*.tar") if path.is_file())
        if not found:
            raise InputError(f"shards:{pattern}: the folder holds no .tar files; name the folder that holds them.")
        return Path(pattern), found
    names = [name for part in expand_braces(pattern) for name in (sorted(glob(part)) if GLOB.search(part) else [part])]
    names = [os.path.abspath(name) for name in names]
    missing = next((name for name in names if not Path(name).is_file()), None)
    if missing is not None or not names:
        raise InputError(f"shards:{pattern}: there is no file {missing or pattern}; correct the pattern.")
    return Path(os.path.commonpath([os.path.dirname(name) for name in names])), [Path(name) for name in names]


def _class_names(root: Path) -> tuple[str, ...] | None:
    file = root / CLASS_NAMES
    try:
        return tuple(file.read_text().splitlines()) if file.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file}: expected a class name a line.") from error
