"""What a tar shard in the WebDataset layout holds, and where: its headers and labels read once, its images not at all.

A sample is the consecutive files KEY.* of a shard: one image (KEY.jpg, KEY.png, KEY.webp, ...) and its class index, as text
in KEY.cls or as "label" in KEY.json; KEY.cls goes before KEY.json, and other files are passed over.
"""

# Ours, where the webdataset library streams: views and caches need sample i at random, so headers are read once and images sought.

from __future__ import annotations

import json
import os
import re
import tarfile
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from angularkd.data.decode import EXTENSIONS
from angularkd.errors import InputError

MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")
"""KEY.EXTENSION: the key ends at the first dot of the file's name. Hidden files have no key."""
LABELS = ("cls", "json")
MAX_HEADER_BYTES = 2**18
MAX_LABEL_BYTES = 2**24
"""What a header, with a long name or extended attributes, or a label's file may take: more is damage, not to be read."""
LARGEST_LABEL = 2**62


class File(NamedTuple):
    """A file of a sample inside a shard.

    Attributes:
        key, extension: The two parts of its name.
        name: Its name in the shard.
        offset, size: Where its content is, in bytes.
        content: What a label's file holds; nothing is read of the others.
    """

    key: str
    extension: str
    name: str
    offset: int
    size: int
    content: bytes


class Sample(NamedTuple):
    """Where the image of a sample is, and its class index."""

    image: File
    label: int


def index_shard(shard: Path) -> list[Sample]:
    """Return the samples of one shard, in order, from its headers and labels.

    Raises:
        InputError: It is no uncompressed tar archive, it is cut off or damaged (the error names its last complete sample), or
            a sample lacks a class index or its one image.
    """
    files, intact = _read_headers(shard)
    groups = [list(group) for _, group in groupby(files, key=lambda file: file.key)]
    if not intact:
        whole = [group[0].key for group in groups if _image(group) and _label(group)]
        last = f"its last complete sample is {whole[-1]!r}" if whole else "it holds no complete sample"
        raise InputError(f"{shard} is cut off or damaged: {last}; get or write the shard again.")
    return [_sample(group, shard) for group in groups]


def _read_headers(shard: Path) -> tuple[list[File], bool]:
    """Return the complete files of a shard, and whether it ends as a tar archive ends: with a block of zeros."""
    files: list[File] = []
    try:
        size = os.path.getsize(shard)
        with open(shard, "rb") as stream, tarfile.open(fileobj=_headers(stream, size), mode="r:") as archive:
            start = 0
            for member in archive:
                if member.size < 0 or archive.offset <= start:  # the next header would be read again and again
                    return files, False
                start = archive.offset
                name = MEMBER.fullmatch(member.name)
                if name is None or not member.isreg():
                    continue
                if member.offset_data + member.size > min(archive.offset, size):
                    return files, False
                key, extension = name.group(1), name.group(2).lower()
                content = b""
                if extension in LABELS and member.size <= MAX_LABEL_BYTES:
                    stream.seek(member.offset_data)
                    content = stream.read(member.size)
                files.append(File(key, extension, member.name, member.offset_data, member.size, content))
            stream.seek(archive.offset)
            return files, stream.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
    except OSError as error:
        raise InputError(f"cannot read {shard}: {error.strerror}.") from error
    except Exception as error:  # a malformed header raises anything: ReadError, ValueError, RecursionError, ...
        if files:
            return files, False
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{shard} is no tar archive ({reason}); compressed ones cannot be used, unpack them."
        ) from error


class HeaderReader:
    """A file from which headers are read, and which raises tarfile.ReadError for sizes that only a damaged header states."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = size
        self.tell = stream.tell

    def read(self, size: int) -> bytes:
        """Read so many bytes."""
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._stream.read(size)

    def seek(self, offset: int) -> int:
        """Go to a header."""
        if not 0 <= offset <= self._size:
            raise tarfile.ReadError("a header beyond the end")
        return self._stream.seek(offset)


def _headers(stream: BinaryIO, size: int) -> Any:
    """Return the reader as tarfile's annotations want it, which ask for what only writing needs."""
    return HeaderReader(stream, size)


def _sample(group: list[File], shard: Path) -> Sample:
    image, label = _image(group), _label(group)
    name = f"{shard}: the sample {group[0].key!r}"
    if image is None or label is None:
        found = ", ".join(f".{file.extension}" for file in group)
        expected = "one image (.jpg, .png, .webp, ...)" if image is None else "a label (.cls, or .json with one)"
        raise InputError(f"{name} holds {found}: expected {expected}; write the shard anew.")
    value = _class_index(label)
    if value is None:
        raise InputError(
            f"{name} has {label.content[:40].decode(errors='replace')!r} in .{label.extension}: expected "
            f"{'a class index' if label.extension == 'cls' else 'an object with a class index as label'}, a whole number; "
            "write the shard anew."
        )
    return Sample(image, value)


def _class_index(label: File) -> int | None:
    try:
        value = int(label.content) if label.extension == "cls" else json.loads(label.content)["label"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST_LABEL else None


def _image(group: list[File]) -> File | None:
    """Return the image of a sample, if there is exactly one."""
    images = [file for file in group if f".{file.extension}" in EXTENSIONS]
    return images[0] if len(images) == 1 else None


def _label(group: list[File]) -> File | None:
    by_extension = {file.extension: file for file in group}
    return by_extension.get("cls") or by_extension.get("json")
