"""imagenet, tiny-imagenet and cinic10: each layout is read as it is distributed, and anything else refused in one line."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import imagenet as torchvision_imagenet

from angularkd.data import open_data
from angularkd.data.sources.imagenet import CINIC10_CLASSES
from angularkd.errors import InputError

TENCH, GOLDFISH, NEWT = "n01440764", "n01443537", "n01630670"
TRUTH = [GOLDFISH, TENCH, NEWT, TENCH, NEWT, GOLDFISH]


def write(path: Path, count: int, seed: int, pattern: str = "{}.JPEG", side: int = 70) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = np.full((side, side, 3), 10 * seed + index, dtype=np.uint8)
        Image.fromarray(pixels).save(path / pattern.format(index + 1), "PNG")


def refusal(spec: str) -> str:
    with pytest.raises(InputError) as refused:
        open_data(spec)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# ImageNet


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """train/ of three classes, and val/ with six images whose grey level is their number."""
    for seed, wnid in enumerate((NEWT, TENCH, GOLDFISH), start=1):
        write(tmp_path / "train" / wnid, 6, seed, wnid + "_{}.JPEG")
    write(tmp_path / "val", 6, 0, "ILSVRC2012_val_{:08}.JPEG")
    return tmp_path


def write_kit(folder: Path) -> Path:
    """The development kit: leaf classes in an order of its own behind an inner node, and the numbers of `TRUTH`."""
    data = folder / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    fields = [("ILSVRC2012_ID", float), ("WNID", object), ("words", object), ("gloss", object), ("num_children", float)]
    rows = [(1, NEWT, "newt", "", 0), (4, "n00000001", "animal", "", 3), (2, GOLDFISH, "goldfish, gold", "", 0)]
    synsets = np.array([*rows, (3, TENCH, "tench, Tinca tinca", "", 0)], dtype=fields)
    savemat(data / "meta.mat", {"synsets": synsets[:, None]})
    number = {NEWT: 1, GOLDFISH: 2, TENCH: 3}
    truth = "".join(f"{number[wnid]}\n" for wnid in TRUTH)
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    return data.parent


def kit_unpacked(folder: Path, _: pytest.MonkeyPatch) -> None:
    write_kit(folder)


def kit_archived(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kit = write_kit(folder)
    archive = folder / "ILSVRC2012_devkit_t12.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(kit, kit.name)
    shutil.rmtree(kit)
    known = (archive.name, hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setitem(torchvision_imagenet.ARCHIVE_META, "devkit", known)


def kit_as_torchvision_keeps_it(folder: Path, _: pytest.MonkeyPatch) -> None:
    torch.save(({TENCH: ("tench",)}, TRUTH), folder / "meta.bin")


@pytest.mark.parametrize("write_labels", [kit_unpacked, kit_archived, kit_as_torchvision_keeps_it])
def test_flat_imagenet(imagenet, monkeypatch, write_labels):
    write_labels(imagenet, monkeypatch)
    before = sorted(imagenet.iterdir())
    data = open_data(f"imagenet:{imagenet}")
    assert data.name == "imagenet" and data.augment == ("resized_crop", "flip")
    assert data.classes == ("n01440764 tench", "n01443537 goldfish", "n01630670 common newt")
    wnids = [data.classes[label].split()[0] for label in data.test.labels]
    assert wnids == TRUTH and [data.test[index][0][0, 0, 0] for index in range(6)] == list(range(6))
    assert len(data.train) + len(data.val) == 18 and "is the test split" in data.notes[0]
    level = {TENCH: 2, GOLDFISH: 3, NEWT: 1}
    for index in range(len(data.train)):
        image, label = data.train[index]
        assert image[0, 0, 0] // 10 == level[data.classes[label].split()[0]]
    assert sorted(imagenet.iterdir()) == before  # nothing is written among the data


def test_the_kit_is_read_as_torchvision_reads_it(imagenet, monkeypatch, tmp_path_factory):
    kit_archived(imagenet, monkeypatch)
    torchvision_imagenet.parse_devkit_archive(imagenet)
    theirs = torchvision_imagenet.load_meta_file(imagenet)[1]
    assert theirs == TRUTH


def test_imagenet_of_class_folders(imagenet):
    shutil.rmtree(imagenet / "val")
    for wnid in (NEWT, TENCH):
        write(imagenet / "val" / wnid, 2, 5)
    write(imagenet / "test", 2, 9)
    data = open_data(f"imagenet:{imagenet}")
    assert data.test.labels.tolist() == [0, 0, 2, 2]
    assert data.notes[0] == "test/ passed over: its labels were never published"


def bad_name(folder: Path) -> None:
    write_kit(folder)
    (folder / "val" / "ILSVRC2012_val_00000006.JPEG").rename(folder / "val" / "ILSVRC2012_val_00000007.JPEG")


def class_without_training(folder: Path) -> None:
    write_kit(folder)
    shutil.rmtree(folder / "train" / NEWT)


def damaged_kit(folder: Path) -> None:
    (write_kit(folder) / "data" / "meta.mat").write_bytes(b"no matrix")


def foreign_archive(folder: Path) -> None:
    (folder / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"half an archive")


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda folder: None, "no ILSVRC2012_devkit_t12.tar.gz to tell the classes of its images: put that archive beside val/"),
    (lambda folder: shutil.rmtree(folder / "val"), "expected train/ and val/, found train/; name the folder"),
    (lambda folder: write(folder / "train" / "cat", 1, 0), "holds the folder 'cat': expected a folder of images for each Word"),
    (bad_name, "ILSVRC2012_val_00000007.JPEG: expected a name such as ILSVRC2012_val_00000001.JPEG, numbered up to 6"),
    (class_without_training, f"ILSVRC2012_val_00000003.JPEG is of class {NEWT}, which train/ lacks"),
    (damaged_kit, "cannot read the development kit ("),
    (foreign_archive, "is not present in the root directory or is corrupted"),
])  # fmt: skip
def test_imagenet_that_cannot_be_used(imagenet, spoil, message):
    spoil(imagenet)
    assert message in refusal(f"imagenet:{imagenet}")


def test_real_imagenet_classes(shared_folder, tmp_path):
    with tarfile.open(shared_folder / "data" / "imagenette_224_subset.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    data = open_data(f"imagenet:{tmp_path / 'imagenette'}")
    assert (data.classes[0], data.classes[1], len(data.classes)) == (
        "n01440764 tench",
        "n02102040 English springer",
        10,
    )
    assert [len(split) for split in (data.train, data.val, data.test)] == [1030, 120, 450]
    assert data.train[0][0].shape[2] == 3 and min(data.train.size(0)) == 224


# Tiny ImageNet


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    wnids = [NEWT, TENCH, GOLDFISH]  # an order of its own, which is to be kept
    (tmp_path / "wnids.txt").write_text("\n".join(wnids) + "\n")
    (tmp_path / "words.txt").write_text(f"{TENCH}\ttench, Tinca tinca\n{GOLDFISH}\tgoldfish\nn09\tother\n")
    for seed, wnid in enumerate(wnids):
        write(tmp_path / "train" / wnid / "images", 10, seed, wnid + "_{}.JPEG", side=64)
        (tmp_path / "train" / wnid / f"{wnid}_boxes.txt").write_text("0 0 1 1")
    write(tmp_path / "val" / "images", 6, 0, "val_{}.JPEG", side=64)
    lines = [f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n" for number, wnid in enumerate(TRUTH, start=1)]
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(reversed(lines)))
    write(tmp_path / "test" / "images", 2, 0, "test_{}.JPEG", side=64)
    return tmp_path


def test_tiny_imagenet(tiny):
    data = open_data(f"tiny-imagenet:{tiny}")
    assert data.name == "tiny-imagenet" and data.augment == ("crop", "flip")
    assert data.classes == (NEWT, f"{TENCH} tench", f"{GOLDFISH} goldfish")
    assert [len(split) for split in (data.train, data.val, data.test)] == [27, 3, 6]
    assert data.notes[:2] == (
        "train: 3 files passed over, not images by extension",
        "test/ passed over: its labels were never published",
    )
    for index in range(6):
        image, label = data.test[index]
        assert data.classes[label].startswith(TRUTH[image[0, 0, 0]])
    for index in range(27):
        image, label = data.train[index]
        assert image[0, 0, 0] // 10 == label


def test_tiny_imagenet_without_words_and_with_a_rearranged_val(tiny):
    (tiny / "words.txt").unlink()
    shutil.rmtree(tiny / "val")
    for wnid in (TENCH, NEWT):
        write(tiny / "val" / wnid, 2, 0)
    data = open_data(f"tiny-imagenet:{tiny}")
    assert data.classes == (NEWT, TENCH, GOLDFISH) and data.test.labels.tolist() == [1, 1, 0, 0]


def rewrite(name: str, old: str, new: str):
    def spoil(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return spoil


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda folder: (folder / "wnids.txt").unlink(), "wnids.txt: No such file"),
    (rewrite("wnids.txt", NEWT + "\n", ""), f"lists 2 classes, train/ holds 3 folders, and only one of them has {NEWT}"),
    (rewrite("val/val_annotations.txt", NEWT, "n00000009"), "names the class 'n00000009', which wnids.txt lacks"),
    (rewrite("val/val_annotations.txt", "val_6", "val_7"), "line 1 names val_7.JPEG, which images/ lacks; unpack"),
    (rewrite("val/val_annotations.txt", f"val_6.JPEG\t{GOLDFISH}\t0\t32\t44\t62\n", ""), "has 5 lines for the 6 images"),
    (lambda folder: shutil.rmtree(folder / "train"), "expected train/ and val/, found test/, val/"),
])  # fmt: skip
def test_tiny_imagenet_that_cannot_be_used(tiny, spoil, message):
    spoil(tiny)
    assert message in refusal(f"tiny-imagenet:{tiny}")


# CINIC-10


@pytest.fixture
def cinic(tmp_path: Path) -> Path:
    for name in CINIC10_CLASSES:
        for split, count in (("train", 3), ("valid", 2), ("test", 1)):
            write(tmp_path / split / name, count, 0, "cifar10-{}.png", side=32)
    return tmp_path


def test_cinic10(cinic):
    data = open_data(f"cinic10:{cinic}")
    assert (data.name, data.classes, data.augment) == ("cinic10", CINIC10_CLASSES, ("crop", "flip"))
    assert [len(split) for split in (data.train, data.val, data.test)] == [30, 20, 10]
    assert "valid/airplane" in data.val.name(0) and data.notes == ()


def test_cinic10_that_cannot_be_used(cinic):
    (cinic / "train" / "truck").rename(cinic / "train" / "van")
    for split in ("valid", "test"):
        shutil.rmtree(cinic / split / "truck")
    assert "expected the class folders airplane, automobile" in refusal(f"cinic10:{cinic}")
    shutil.rmtree(cinic / "valid")
    assert "expected train/, valid/ and test/, found test/, train/" in refusal(f"cinic10:{cinic}")
