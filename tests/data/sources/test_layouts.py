"""Layouts of folders, parquet files and shards: splits by any usual name are found by one rule, and never become classes."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from angularkd.data import open_data
from angularkd.data.split_names import split_called, split_named
from angularkd.errors import InputError


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def images(root: Path, *folders: str, count: int = 6) -> Path:
    """Write images into folders, in which {} stands for cat and dog."""
    for name in [folder.format(label) for folder in folders for label in ("cat", "dog")]:
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (root / name / f"{index}.png").write_bytes(png(index))
    return root


def parquet(root: Path, *stems: str, count: int = 12) -> Path:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": png(index), "path": f"{index}.png"} for index in range(count)]
    for stem in stems:
        path = root / f"{stem}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": pa.array(rows, kind), "label": [index % 2 for index in range(count)]}), path)
    return root


def shards(root: Path, *stems: str, count: int = 12) -> Path:
    for stem in stems:
        path = root / f"{stem}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as archive:
            for index in range(count):
                for name, data in ((f"{index:03}.png", png(index)), (f"{index:03}.cls", str(index % 2).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return root


def class_folders(root: Path, *stems: str) -> Path:
    return images(root, *(f"{stem}/{{}}" for stem in stems))


def refusal(spec: object) -> str:
    with pytest.raises(InputError) as refused:
        open_data(str(spec))
    assert "\n" not in str(refused.value)
    return str(refused.value)


SOURCES: dict[str, Callable[..., Path]] = {"": class_folders, "parquet:": parquet, "shards:": shards}


@pytest.mark.parametrize("prefix", SOURCES)
@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Testing"),
        ("training_set", "test_set"),
        ("Train_Data", "Test_Data"),
        ("TRAIN", "TEST"),
        ("trainset", "testset"),
        ("TrainImages", "ValidImages"),
        ("train2017", "val2017"),
        ("train", "dev"),
        ("train", "eval"),
        ("train", "Evaluation"),
        ("train", "holdout"),
        ("train", "hold-out"),
        ("train", "held_out"),
        ("seg_train", "seg_test"),
        ("trainval", "test"),
    ],
)  # fmt: skip
def test_splits_by_other_names(tmp_path, prefix, train, test):
    data = open_data(f"{prefix}{SOURCES[prefix](tmp_path, train, test)}")
    assert [len(split) for split in (data.train, data.val, data.test)] == [10, 2, 12]
    assert len(data.classes) == 2 and not {train, test} & set(data.classes)


@pytest.mark.parametrize("prefix", SOURCES)
def test_three_splits_and_a_stranger(tmp_path, prefix):
    data = open_data(f"{prefix}{SOURCES[prefix](tmp_path, 'Training', 'Dev', 'Testing', 'extra', 'more')}")
    assert [len(split) for split in (data.train, data.val, data.test)] == [12, 12, 12]
    assert data.notes[0].startswith("passed over, since the name gives no split: extra")
    assert "more" in data.notes[0]


@pytest.mark.parametrize("prefix", SOURCES)
@pytest.mark.parametrize(
    "names", [("train", "val", "dev"), ("train", "training", "test"), ("train", "test", "holdout")]
)
def test_two_names_for_one_split(tmp_path, prefix, names):
    message = refusal(f"{prefix}{SOURCES[prefix](tmp_path, *names)}")
    assert "both name the" in message and message.endswith(("keep one.", "keep one, or rename one."))


@pytest.mark.parametrize("prefix", SOURCES)
def test_no_training_images(tmp_path, prefix):
    assert "train" in refusal(f"{prefix}{SOURCES[prefix](tmp_path, 'Validation', 'Testing')}")


@pytest.mark.parametrize("prefix", ["parquet:", "shards:"])
@pytest.mark.parametrize("link", ["train-1", "test-0"])
def test_a_link_shows_no_shard_twice(tmp_path, prefix, link):
    root = SOURCES[prefix](tmp_path, "train-0", "val-0")
    suffix = ".tar" if prefix == "shards:" else ".parquet"
    (root / f"{link}{suffix}").symlink_to(f"train-0{suffix}")
    assert "are one file: remove the link, or copy the file if that is meant" in refusal(f"{prefix}{root}")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("prefix", ["parquet:", "shards:"])
def test_pipes_and_folders_are_no_shards(tmp_path, prefix):
    suffix = ".tar" if prefix == "shards:" else ".parquet"
    SOURCES[prefix](tmp_path, f"train{suffix}/part-0", "val-0")
    os.mkfifo(tmp_path / f"train-1{suffix}")
    assert len(open_data(f"{prefix}{tmp_path}").train) == 10


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["{}/train", "{}/test"], "the class folder 'cat' holds test/, train/: put the splits outside and the classes inside"),
        (["{}/Training", "{}/x"], "the class folder 'cat' holds Training/"),
        (["train/{}/train", "train/{}/val", "test/{}"], "the class folder 'cat' holds train/, val/"),
        (["fold1", "fold2", "fold3"], "the classes would be fold1, fold2, fold3, which look like splits"),
        (["test1", "test2"], "the classes would be test1, test2, which look like splits"),
        (["my_train/{}", "mine/{}"], "'my_train' would be a class, but looks like a split"),
        (["rgb_train/{}", "rgb_test/{}", "ir_train/{}", "ir_test/{}"], "holds the splits of several data sets"),
    ],
)  # fmt: skip
def test_splits_that_would_become_classes(tmp_path, folders, message):
    assert message in refusal(images(tmp_path, *folders))


@pytest.mark.parametrize("folders", [["{}/2019", "{}/2020"], ["{}/deep/er"], ["{}", "{}/test"], ["{}/images"]])
def test_folders_below_a_class_belong_to_it(tmp_path, folders):
    if folders == ["{}", "{}/test"]:
        images(tmp_path, "cat/test")
        folders = ["{}"]
    data = open_data(str(images(tmp_path, *folders)))
    assert data.classes == ("cat", "dog")
    told = "the classes are cat, dog; the folders 2019, 2020 inside of each are not told apart"
    assert (told in data.notes) == ("{}/2019" in folders)


@pytest.mark.parametrize(
    "names", [("train", "plane"), ("test_tube", "train_station"), ("dev", "ops"), ("latest", "best")]
)
def test_classes_that_are_called_a_little_like_splits(tmp_path, names):
    assert open_data(str(images(tmp_path, *names))).classes == tuple(sorted(names))


def test_images_beside_the_class_folders_are_noted(tmp_path):
    class_folders(tmp_path, "train", "test")
    (tmp_path / "train" / "1.png").write_bytes(png(0))
    notes = open_data(str(tmp_path)).notes
    assert "train: 1 image passed over that lie beside the class folders, in none of them" in notes


@pytest.mark.parametrize(("name", "split"), [
    ("Training", "train"), ("TrainSet_2", "train"), ("test-images", "test"), ("valid", "val"), ("seg_train", None),
    ("train_test", None), ("latest", None), ("2019", None), ("", None),
])  # fmt: skip
def test_names_that_are_those_of_a_split_alone(name, split):
    assert split_called(name) == split


@pytest.mark.parametrize(("name", "split"), [
    ("a/train_test-0.tar", None), ("train/validate.tar", "val"), ("seg_TEST-0.tar", "test"), ("contest.tar", None),
])  # fmt: skip
def test_names_that_hold_that_of_a_split(name, split):
    assert split_named(Path(name)) == split
