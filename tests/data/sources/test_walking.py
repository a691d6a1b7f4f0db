"""The walk of a data set's folders: each file once, files alone, and what cannot be read is named."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from angularkd.data import SPLITS, DataSet, open_data
from angularkd.data.sources import walking
from angularkd.errors import InputError


def write(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(path)
    return folder


def classes(root: Path, *folders: str, count: int = 4) -> Path:
    return write(root, *(f"{folder}/{index}.png" for folder in folders for index in range(count)))


def paths(data: DataSet) -> list[str]:
    return sorted(split.name(index) for split in map(data.splits.get, SPLITS) for index in range(len(split)))


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as refused:
        open_data(str(folder))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def everything(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*.png") if not path.is_symlink())


@pytest.mark.parametrize("target", ["..", "../..", "../class0", "../class1", ".", "../class1/deep"])
def test_a_link_within_the_data_shows_no_file_twice(tmp_path, target):
    folder = classes(tmp_path / "loop", "class0", "class1", "class1/deep")
    before = paths(open_data(str(folder)))
    (folder / "class0" / "up").symlink_to(target)
    data = open_data(str(folder))
    assert paths(data) == before == everything(folder)
    assert [int(name.split("/class")[1][0]) for name in map(data.train.name, range(len(data.train)))] == list(
        data.train.labels
    )
    assert any("passed over" in note and "class0/up" in note for note in data.notes)


def test_links_to_files_elsewhere_are_read_once(tmp_path):
    store = classes(tmp_path / "store", "a", "b", count=8)
    folder = tmp_path / "links"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for index in range(8):
            (folder / name / f"link{index}.png").symlink_to(store / name / f"{index}.png")
    data = open_data(str(folder))
    assert len(paths(data)) == 16 and not any("link" in note for note in data.notes)
    (folder / "a" / "again.png").symlink_to(store / "a" / "0.png")
    data = open_data(str(folder))
    assert len(paths(data)) == 16
    assert f"passed over, since links show the same files a second time: {folder}/a/link0.png" in data.notes[0]
    (folder / "b" / "other.png").symlink_to(store / "a" / "1.png")
    assert "are one file, in two classes: remove the link, or copy the file if that is meant" in refusal(folder)


def test_linked_folders_are_followed(tmp_path):
    store = classes(tmp_path / "store", "a", "b/deep", count=8)
    folder = classes(tmp_path / "data", "b")
    (folder / "a").symlink_to(store / "a")
    (folder / "b" / "more").symlink_to(store / "b")
    (tmp_path / "whole").symlink_to(folder)
    for root in (folder, tmp_path / "whole"):
        assert len(paths(open_data(str(root)))) == 20


@pytest.mark.parametrize("link", ["test", "test/a/0.png", "test/a"])
def test_one_file_in_two_splits_is_refused(tmp_path, link):
    folder = classes(tmp_path, "train/a", "train/b", "val/a", "val/b")
    target = folder / link.replace("test", "train")
    (folder / link).parent.mkdir(parents=True, exist_ok=True)
    (folder / link).symlink_to(target)
    message = refusal(folder)
    assert "are one file, in two splits: remove the link" in message and "/train/" in message and "/test/" in message


@pytest.mark.parametrize(("link", "message"), [
    ("c", "holds nothing but links to the images of other classes"), ("all", "holds no images"),
])  # fmt: skip
def test_a_class_that_is_another_one_is_refused(tmp_path, link, message):
    folder = classes(tmp_path / "data", "a", "b")
    (folder / link).symlink_to("." if link == "all" else "b")
    assert message in refusal(folder)


def test_a_broken_link_is_named_when_it_is_read(tmp_path):
    folder = classes(tmp_path, "a", "b")
    (folder / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    data = open_data(str(folder))
    assert str(folder / "a" / "gone.png") in paths(data)
    with pytest.raises(InputError, match=r"cannot read .*gone\.png: No such file"):
        data.train.store.image(data.train.store.paths.index(str(folder / "a" / "gone.png")))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_and_devices_are_passed_over(tmp_path):
    folder = classes(tmp_path, "a", "b")
    os.mkfifo(folder / "a" / "pipe.png")
    (folder / "b" / "zero.png").symlink_to("/dev/zero")
    data = open_data(str(folder))
    assert paths(data) == [path for path in everything(folder) if not path.endswith("pipe.png")]
    assert data.notes[0] == (
        f"train: passed over, since they are no files but pipes or devices: {folder}/a/pipe.png, {folder}/b/zero.png"
    )


@pytest.mark.parametrize("which", ["", "a", "a/deep"])
def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch, which):
    folder = classes(tmp_path, "a", "a/deep", "b")
    scan = os.scandir

    def locked(path: str | Path) -> object:
        if Path(path) == folder / which:
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(walking.os, "scandir", locked)
    assert (
        refusal(folder)
        == f"cannot read the folder {folder / which}: Permission denied; give access to it, or remove it."
    )


def test_many_links_to_each_other_end(tmp_path):
    names = [f"class{number}" for number in range(12)]
    folder = classes(tmp_path, *names, count=3)
    for name in names:
        for other in names:
            (folder / name / f"to_{other}").symlink_to(f"../{other}")
    assert paths(open_data(str(folder))) == everything(folder)
