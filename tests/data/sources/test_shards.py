"""Tar shards: what the webdataset library writes is read as it reads it, at random, and damage is named."""

from __future__ import annotations

import gc
import io
import json
import pickle
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from angularkd.data import decode_image, open_data
from angularkd.data.sources.shard_index import index_shard
from angularkd.data.sources.shards import ShardStore, expand_braces
from angularkd.errors import InputError


def image_bytes(level: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((9, 11, 3), level, dtype=np.uint8)).save(
        buffer, kind, **({"lossless": True} if kind == "WEBP" else {})
    )
    return buffer.getvalue()


def write_shard(path: Path, *files: tuple[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    return path


def plain(start: int, count: int, classes: int = 2) -> list[tuple[str, bytes]]:
    """Samples whose grey level is their number."""
    return [
        file
        for number in range(start, start + count)
        for file in ((f"{number:04}.png", image_bytes(number)), (f"{number:04}.cls", str(number % classes).encode()))
    ]


def refusal(spec: str) -> str:
    with pytest.raises(InputError) as refused:
        open_data(spec)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def levels(split) -> list[int]:
    return [int(split[index][0][0, 0, 0]) for index in range(len(split))]


@pytest.mark.parametrize(("kind", "extension"), [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp")])
@pytest.mark.parametrize("label", ["cls", "json"])
@pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning"
)  # webdataset leaves its shards to the garbage collector
def test_what_webdataset_writes_is_read_as_it_reads_it(tmp_path, kind, extension, label):
    pattern = str(tmp_path / "train-%03d.tar")
    with webdataset.ShardWriter(pattern, maxcount=5, verbose=0) as sink:
        for number in range(12):
            value = number % 3 if label == "cls" else {"label": number % 3, "caption": "x"}
            sample = {
                "__key__": f"folder/{number:05}",
                extension: image_bytes(number, kind),
                label: value,
                "txt": "more",
            }
            sink.write(sample)
    shards = sorted(tmp_path.glob("*.tar"))
    assert len(shards) == 3
    samples = [index_shard(shard) for shard in shards]
    theirs = list(webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=False))
    gc.collect()
    store = pickle.loads(pickle.dumps(ShardStore(shards, samples)))
    assert len(store) == len(theirs) == 12
    ours = [sample.label for of_shard in samples for sample in of_shard]
    for row in np.random.default_rng(0).permutation(12).tolist():
        assert np.array_equal(store.image(row), decode_image(theirs[row][extension], "theirs"))
        stated = theirs[row][label]
        assert ours[row] == (int(stated) if label == "cls" else json.loads(stated)["label"])
        assert store.size(row) == (9, 11)
    assert store.name(7) == f"folder/00007.{extension} in {shards[1]}"


@pytest.mark.parametrize("pattern", ["", "/{train,test}-{000..001}.tar", "/*-00[01].tar"])
def test_a_folder_or_a_pattern(tmp_path, pattern):
    write_shard(tmp_path / "train-000.tar", *plain(0, 10))
    write_shard(tmp_path / "train-001.tar", *plain(10, 10))
    write_shard(tmp_path / "test-000.tar", *plain(20, 3))
    write_shard(tmp_path / "test-001.tar", *plain(23, 3))
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    data = open_data(f"shards:{tmp_path}{pattern}")
    assert (data.name, data.classes, data.augment) == (tmp_path.name, ("cat", "dog"), ("crop", "flip"))
    assert levels(data.test) == list(range(20, 26)) and data.test.labels.tolist() == [0, 1] * 3
    assert sorted(levels(data.train) + levels(data.val)) == list(range(20))
    assert [level % 2 for level in levels(data.train)] == data.train.labels.tolist()


def test_only_the_shards_of_the_pattern(tmp_path):
    for number in range(3):
        write_shard(tmp_path / f"imagenet-train-{number}.tar", *plain(10 * number, 10))
        write_shard(tmp_path / "val" / f"{number}.tar", *plain(10 * number, 1))
    data = open_data(f"shards:{tmp_path}/imagenet-train-{{0..1}}.tar")
    assert sorted(level for split in (data.train, data.val, data.test) for level in levels(split)) == list(range(20))
    whole = open_data(f"shards:{tmp_path}")
    assert levels(whole.test) == [0, 10, 20] and len(whole.train) + len(whole.val) == 30
    assert "the data names no classes: they are named by number" in whole.notes


def test_shards_without_splits_and_with_strangers(tmp_path):
    files = plain(0, 10)
    files.insert(5, ("._0002.png", b"what macOS leaves behind"))
    write_shard(tmp_path / "00.tar", ("README", b"no sample"), *files)
    data = open_data(f"shards:{tmp_path}")
    assert data.notes[0] == "no shard's name gives a split: all are training images"
    assert len(data.train) + len(data.val) + len(data.test) == 10
    write_shard(tmp_path / "train-00.tar", *plain(0, 20))
    assert open_data(f"shards:{tmp_path}").notes[0] == "passed over, since the name gives no split: 00.tar"


@pytest.mark.parametrize(
    "pattern", ["a-{000..012}.tar", "{a,b}/{0..3}.tar", "{train,val}-{08..11}.tar", "plain.tar", "{a,{b,c}d}.tar"]
)
def test_braces_mean_what_they_mean_to_webdataset(pattern):
    assert sorted(expand_braces(pattern)) == sorted(webdataset.shardlists.expand_urls(pattern))
    assert expand_braces("x{9..11}") == ["x9", "x10", "x11"]


@pytest.mark.parametrize("members", [1, 4, 7, 8, 19])
@pytest.mark.parametrize("into", [0, 100, 512, 530])
def test_a_shard_that_is_cut_off_is_named_with_its_last_complete_sample(tmp_path, members, into):
    """Cut at the header of a member, inside it, at the start of the data and inside the data."""
    path = write_shard(tmp_path / "train-000.tar", *plain(0, 10))
    with tarfile.open(path) as archive:
        offsets = [member.offset for member in archive]
        inside = archive.getmembers()[members].size > 18 or into != 530
    path.write_bytes(path.read_bytes()[: offsets[members] + into])
    message = refusal(f"shards:{tmp_path}")
    last = (members + (not inside)) // 2 - 1
    expected = f"its last complete sample is '{last:04}'" if last >= 0 else "it holds no complete sample"
    assert message == f"{path} is cut off or damaged: {expected}; get or write the shard again."


def test_a_shard_that_is_damaged_inside(tmp_path):
    path = write_shard(tmp_path / "train-000.tar", *plain(0, 10))
    with tarfile.open(path) as archive:
        start = archive.getmembers()[8].offset
    data = bytearray(path.read_bytes())
    data[start : start + 512] = b"\xff" * 512
    path.write_bytes(data)
    assert "train-000.tar is cut off or damaged: its last complete sample is '0003'" in refusal(f"shards:{tmp_path}")


PNG = ("0001.png", image_bytes(1))


@pytest.mark.parametrize(("files", "message"), [
    ([PNG], "the sample '0001' holds .png: expected a label (.cls, or .json with one)"),
    ([("0001.cls", b"1")], "the sample '0001' holds .cls: expected one image (.jpg, .png, .webp, ...)"),
    ([PNG, ("0001.jpg", b""), ("0001.cls", b"1")], "the sample '0001' holds .png, .jpg, .cls: expected one image"),
    ([PNG, ("0001.cls", b"cat")], "has 'cat' in .cls: expected a class index, a whole number"),
    ([PNG, ("0001.cls", b"1.5")], "has '1.5' in .cls"),
    ([PNG, ("0001.cls", b"")], "has '' in .cls"),
    ([PNG, ("0001.json", b'{"label": "cat"}')], "in .json: expected an object with a class index as label"),
    ([PNG, ("0001.json", b'{"label": true}')], "in .json: expected"),
    ([PNG, ("0001.json", b'{"class": 1}')], "in .json: expected"),
    ([PNG, ("0001.json", b"[1")], "in .json: expected"),
    ([*plain(0, 2), ("0002.png", image_bytes(2)), ("0002.cls", b"-2")], "the train split has the label -2"),
])  # fmt: skip
def test_samples_that_cannot_be_used(tmp_path, files, message):
    path = write_shard(tmp_path / "train.tar", *files)
    found = refusal(f"shards:{tmp_path}")
    assert message in found and (str(path) in found or str(tmp_path) in found)


def test_patterns_that_cannot_be_used(tmp_path):
    assert "the folder holds no .tar files" in refusal(f"shards:{tmp_path}")
    write_shard(tmp_path / "train-0.tar", *plain(0, 9))
    assert f"there is no file {tmp_path}/train-1.tar" in refusal(f"shards:{tmp_path}/train-{{0..2}}.tar")
    assert "there is no file" in refusal(f"shards:{tmp_path}/*.tgz")
    assert "write shards:DIR or" in refusal("shards")
    (tmp_path / "classnames.txt").write_text("only one\n")
    assert "the train split has the label 1, but there are 1 classes" in refusal(f"shards:{tmp_path}")


def test_what_is_no_tar(tmp_path):
    with tarfile.open(tmp_path / "train-0.tar", "w:gz"):
        pass
    assert "is no tar archive (" in refusal(f"shards:{tmp_path}")
    (tmp_path / "train-0.tar").write_bytes(b"")
    assert "train-0.tar is no tar archive (empty file); compressed ones cannot be used" in refusal(f"shards:{tmp_path}")


def test_a_shard_that_is_gone_when_it_is_read(tmp_path):
    path = write_shard(tmp_path / "train-0.tar", *plain(0, 9))
    data = open_data(f"shards:{tmp_path}")
    path.unlink()
    with pytest.raises(InputError, match=r"cannot read 000\d\.png in .*train-0\.tar: No such file"):
        data.train[0]


def header(name: str, size: int, kind: bytes = b"0") -> bytes:
    """A header whose size is written as GNU tar writes numbers that octal digits cannot hold: negative and huge ones."""
    member = tarfile.TarInfo(name)
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT)[:512])
    block[124:136] = (
        b"\xff" * 4 + size.to_bytes(8, "big", signed=True) if size < 0 else b"\x80" + size.to_bytes(11, "big")
    )
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


@pytest.mark.parametrize("kind", [b"0", b"L", b"K", b"x", b"g", b"S", b"7"])
@pytest.mark.parametrize("size", [-512, -1024, -(2**40), 2**40, 2**62])
def test_sizes_that_only_damage_states_neither_hang_nor_take_memory(tmp_path, kind, size):
    path = write_shard(tmp_path / "train-0.tar", *plain(0, 3))
    with tarfile.open(path) as archive:
        end = archive.getmembers()[-1].offset_data + 512
    path.write_bytes(path.read_bytes()[:end] + header("0004.png", size, kind) + bytes(1024))
    tracemalloc.start()
    try:
        message = refusal(f"shards:{tmp_path}")
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()
    assert "train-0.tar is cut off or damaged: its last complete sample is '0002'" in message


@pytest.mark.parametrize("kind", [b"L", b"x"])
def test_a_shard_of_nothing_but_long_headers(tmp_path, kind):
    (tmp_path / "train-0.tar").write_bytes((header("a", 0, kind)) * 5000 + bytes(1024))
    assert "train-0.tar is no tar archive (" in refusal(f"shards:{tmp_path}")


@pytest.mark.parametrize("label", [b"2147483648", b"70000", b"9" * 30, b"9" * 5000, b"[" * 100_000])
@pytest.mark.parametrize("extension", ["cls", "json"])
def test_labels_that_no_data_set_has(tmp_path, label, extension):
    data = label if extension == "cls" or label.startswith(b"[") else b'{"label": ' + label + b"}"
    write_shard(tmp_path / "train.tar", *plain(0, 9), ("9.png", image_bytes(1)), (f"9.{extension}", data))
    tracemalloc.start()
    try:
        message = refusal(f"shards:{tmp_path}")
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()
    assert "too large a class index for so few images" in message or "expected " in message


def test_classes_without_images_are_counted(tmp_path):
    write_shard(tmp_path / "train.tar", *plain(0, 9), ("9.png", image_bytes(1)), ("9.cls", b"4"))
    assert "classes without any image: 2 of 5, since labels are counted from 0" in open_data(f"shards:{tmp_path}").notes
