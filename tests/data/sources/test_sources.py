"""Sources: every DATA spec opens, splits are settled by one rule, and what cannot be used is refused in one line."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import urllib.error
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torchvision import datasets

from angularkd.data import SOURCES, DataSet, Split, open_data
from angularkd.data.decode import EXTENSIONS
from angularkd.data.sources import small
from angularkd.data.sources.parquet import ParquetStore
from angularkd.data.split_names import split_named
from angularkd.data.splits import draw_stratified
from angularkd.errors import InputError

SPLITS = ("train", "val", "test")
KNOWN = "digits, cifar10:DIR, cifar100:DIR, cinic10:DIR, tiny-imagenet:DIR, imagenet:DIR, parquet:DIR, hf:NAME or shards:PATTERN"


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (12, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_folder(folder: Path, counts: dict[str, int], suffix: str = ".png") -> Path:
    for number, (name, count) in enumerate(counts.items()):
        for index in range(count):
            write_image(folder / name / f"{index:03}{suffix}", seed=1000 * number + index)
    return folder


def write_parquet(path: Path, labels: list[int], names: list[str] | None = None, rows_per_group: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = []
    for index, label in enumerate(labels):
        image = write_image(path.parent / "one.png", seed=index)
        images.append({"bytes": image.read_bytes(), "path": f"{label}/{index}.png"})
        image.unlink()
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(images, image_type), "label": pa.array(labels, pa.int64())})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=rows_per_group)
    return path


def images_of(split: Split) -> list[bytes]:
    return [split[index][0].tobytes() for index in range(len(split))]


def rows_of(data: DataSet) -> dict[str, list[int]]:
    return {name: getattr(data, name).rows.tolist() for name in SPLITS}


def refusal(spec: object, **options: object) -> str:
    with pytest.raises(InputError) as refused:
        open_data(str(spec), **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# Drawing splits


def test_drawn_splits_are_stratified_disjoint_complete_and_repeatable():
    labels = np.repeat([0, 1, 2], [100, 50, 7])[np.random.default_rng(0).permutation(157)]
    test, val, rest = draw_stratified(labels, 0.1, 2, "split", 0)
    assert sorted([*test, *val, *rest]) == list(range(157))
    for part in (test, val):
        assert np.bincount(labels[part]).tolist() == [10, 5, 1]
        assert part.tolist() == sorted(part)
    again = draw_stratified(labels, 0.1, 2, "split", 0)
    assert all(np.array_equal(a, b) for a, b in zip(again, (test, val, rest), strict=True))
    assert not np.array_equal(draw_stratified(labels, 0.1, 2, "split", 1)[0], test)


@pytest.mark.parametrize(("count", "each"), [(1, 0), (2, 0), (3, 1), (15, 2), (100, 10)])
def test_a_class_keeps_images_to_train_on(count, each):
    test, val, rest = draw_stratified(np.zeros(count, dtype=np.int64), 0.1, 2, "s")
    assert (len(test), len(val), len(rest)) == (each, each, count - 2 * each)


def test_splits_depend_on_the_split_seed_alone(tmp_path):
    folder = write_folder(tmp_path, {"cat": 20, "dog": 30})
    first = open_data(str(folder))
    np.random.seed(5)
    assert rows_of(open_data(str(folder), image_size=(64, 64))) == rows_of(first)
    other = open_data(str(folder), split_seed=1)
    assert rows_of(other)["val"] != rows_of(first)["val"]
    assert sorted(row for rows in rows_of(other).values() for row in rows) == list(range(50))


# Digits


def test_digits():
    data = open_data("digits")
    assert data.classes == tuple("0123456789")
    assert data.augment == ("crop",)
    assert len(data.train) + len(data.val) + len(data.test) == 1797
    assert 350 < len(data.test) < 370 and 135 < len(data.val) < 150
    image, label = data.train[0]
    assert image.shape == (16, 16, 3) and image.dtype == np.uint8 and label == data.train.labels[0]
    assert np.array_equal(image[..., 0], image[..., 1]) and image.max() > 150
    assert "the same whatever the seed" in data.notes[0]
    assert "validation: 14" in data.notes[1] and "split seed 0" in data.notes[1]


def test_digits_test_split_is_fixed_and_the_size_can_be_chosen():
    data = open_data("digits", split_seed=7, val_fraction=0.2, image_size=(8, 12))
    default = open_data("digits")
    assert rows_of(data)["test"] == rows_of(default)["test"]
    assert rows_of(data)["val"] != rows_of(default)["val"]
    assert data.train[3][0].shape == (8, 12, 3)
    smallest = min(np.bincount(default.test.labels))
    assert smallest >= 34  # 20 % of the rarest digit


# CIFAR


@pytest.fixture
def fake_cifar(tmp_path, monkeypatch) -> Callable[[str], Path]:
    """Writes CIFAR's files with ten images each, pickled as NumPy 1 under Python 2 pickled them."""

    def write(name: str) -> Path:
        kind, key = {"cifar10": (datasets.CIFAR10, "labels"), "cifar100": (datasets.CIFAR100, "fine_labels")}[name]
        folder = tmp_path / name / kind.base_folder
        folder.mkdir(parents=True)

        def dump(file: str, content: object) -> list[str]:
            data = pickle.dumps(content, protocol=2).replace(b"\x89\x88\x87", b"K\x00K\x01\x87")  # False, True as 0, 1
            (folder / file).write_bytes(data)
            return [file, hashlib.md5(data).hexdigest()]

        def batch(file: str, seed: int) -> list[str]:
            pixels = np.random.default_rng(seed).integers(0, 256, (10, 3072), dtype=np.uint8)
            return dump(file, {"data": pixels, key: [index % 5 for index in range(10)]})

        meta = kind.meta["filename"], {kind.meta["key"]: [f"class {index}" for index in range(5)]}
        monkeypatch.setattr(kind, "train_list", [batch(file, i) for i, (file, _) in enumerate(kind.train_list)])
        monkeypatch.setattr(kind, "test_list", [batch(file, 9) for file, _ in kind.test_list])
        monkeypatch.setattr(kind, "meta", kind.meta | {"md5": dump(*meta)[1]})
        return folder

    return write


@pytest.mark.parametrize(("name", "train"), [("cifar10", 50), ("cifar100", 10)])
def test_cifar(fake_cifar, name, train):
    folder = fake_cifar(name)
    data = open_data(f"{name}:{folder.parent}")
    assert data.name == name
    assert data.classes == tuple(f"class {index}" for index in range(5))
    assert data.augment == ("crop", "flip")
    assert len(data.train) + len(data.val) == train and len(data.test) == 10
    planes = np.random.default_rng(9).integers(0, 256, (10, 3072), dtype=np.uint8)[2].reshape(3, 32, 32)
    image, label = data.test[2]
    assert label == 2 and np.array_equal(image, planes.transpose(1, 2, 0))
    assert images_of(open_data(f"{name}:{folder}").val) == images_of(data.val)  # the inner folder will do as well


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_out_of_reach(tmp_path, monkeypatch, name):
    def unreachable(*arguments: object, **options: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(small.urllib.request, "urlopen", unreachable)
    message = refusal(f"{name}:{tmp_path / 'new'}")
    assert (
        f"https://www.cs.toronto.edu/~kriz/{name[:5]}-{name[5:]}-python.tar.gz cannot be fetched (no route to host)"
        in message
    )
    assert (
        f"get {name[:5]}-{name[5:]}-python.tar.gz elsewhere and put it" in message and str(tmp_path / "new") in message
    )
    assert not (tmp_path / "new").exists()


def test_a_damaged_cifar_is_not_read(fake_cifar, monkeypatch):
    folder = fake_cifar("cifar10")
    (folder / "data_batch_3").write_bytes(b"half of it")
    monkeypatch.setattr(
        small.urllib.request, "urlopen", lambda *_, **__: (_ for _ in ()).throw(TimeoutError("timed out"))
    )
    assert "no intact cifar-10-batches-py/" in refusal(f"cifar10:{folder.parent}")


# Folders


def test_class_folders_alone_have_validation_and_test_drawn(tmp_path):
    folder = write_folder(tmp_path / "pets", {"dog": 30, "cat": 20})
    data = open_data(str(folder), val_fraction=0.2)
    assert (data.name, data.classes) == ("pets", ("cat", "dog"))
    assert [np.bincount(getattr(data, name).labels).tolist() for name in SPLITS] == [[12, 18], [4, 6], [4, 6]]
    images = [image for name in SPLITS for image in images_of(getattr(data, name))]
    assert len(set(images)) == 50
    assert data.notes == (
        "test: 10 images drawn from train, stratified, split seed 0",
        "validation: 10 images drawn from train, stratified, split seed 0",
    )
    image, label = data.train[0]
    assert image.shape == (12, 10, 3) and image.dtype == np.uint8 and label == 0


def test_val_without_test_is_the_test_split(tmp_path):
    write_folder(tmp_path / "train", {"cat": 20, "dog": 20})
    write_folder(tmp_path / "val", {"cat": 5, "dog": 6})
    data = open_data(str(tmp_path))
    assert [len(getattr(data, name)) for name in SPLITS] == [36, 4, 11]
    assert data.notes[0] == "no test split: val (11 images) is the test split, held out until the end"
    assert "val" in data.test.name(0) and "train" in data.val.name(0)


@pytest.mark.parametrize("val_name", ["val", "valid", "validation"])
def test_three_folders_are_used_as_named(tmp_path, val_name):
    for name, count in (("train", 9), (val_name, 3), ("test", 4)):
        write_folder(tmp_path / name, {"cat": count, "dog": count})
    data = open_data(str(tmp_path))
    assert [len(getattr(data, name)) for name in SPLITS] == [18, 6, 8]
    assert data.notes == ()
    assert f"{val_name}/cat" in data.val.name(0)


def test_train_and_test_have_validation_drawn(tmp_path):
    write_folder(tmp_path / "train", {"cat": 20, "dog": 20})
    write_folder(tmp_path / "test", {"cat": 3})
    data = open_data(str(tmp_path))
    assert [len(getattr(data, name)) for name in SPLITS] == [36, 4, 3]


def test_a_class_may_be_called_train(tmp_path):
    data = open_data(str(write_folder(tmp_path, {"train": 10, "plane": 10})))
    assert data.classes == ("plane", "train")


def test_files_of_every_kind_below_a_class_and_nothing_else(tmp_path):
    write_folder(tmp_path, {"cat": 5, "dog": 5})
    for number, suffix in enumerate(EXTENSIONS):
        write_image(tmp_path / "cat" / "deep" / f"x{suffix.upper()}", seed=number)
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "cat" / "._000.png").write_bytes(b"what macOS leaves behind")
    (tmp_path / ".cache").mkdir()
    data = open_data(str(tmp_path))
    assert sum(len(getattr(data, name)) for name in SPLITS) == 10 + len(EXTENSIONS)
    assert data.classes == ("cat", "dog")
    paths = data.train.store.paths
    assert paths == [str(path) for path in sorted(map(Path, paths))]  # whatever order the file system lists them in
    assert data.notes[0] == "train: 1 file passed over, not images by extension"
    assert all(images_of(getattr(data, name)) for name in SPLITS)


@pytest.mark.parametrize(("size", "image_size", "augment"), [
    ((64, 90), None, ("crop", "flip")),
    ((65, 90), None, ("resized_crop", "flip")),
    ((65, 90), (32, 32), ("crop", "flip")),
    ((32, 32), (224, 224), ("resized_crop", "flip")),
])  # fmt: skip
def test_the_augmentation_suits_the_size(tmp_path, size, image_size, augment):
    for name in ("a", "b"):
        for index in range(3):
            write_image(tmp_path / name / f"{index}.png", size=size)
    assert open_data(str(tmp_path), image_size=image_size).augment == augment


def make_empty_class(folder: Path) -> None:
    write_folder(folder, {"cat": 4, "dog": 4})
    (folder / "eel").mkdir()
    (folder / "eel" / "readme.txt").write_text("nothing")


def make_train_without_classes(folder: Path) -> None:
    write_image(folder / "train" / "1.png")
    write_image(folder / "test" / "1.png")


def make_unknown_class(folder: Path) -> None:
    write_folder(folder / "train", {"cat": 4, "dog": 4})
    write_folder(folder / "test", {"images": 4})


def make_flat_test(folder: Path) -> None:
    write_folder(folder / "train", {"cat": 4, "dog": 4})
    write_image(folder / "test" / "1.png")


def make_two_validations(folder: Path) -> None:
    for name in ("train", "val", "validation"):
        write_folder(folder / name, {"cat": 2, "dog": 2})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "holds no class folders: expected one folder of images for each of two or more classes"),
        (lambda folder: write_image(folder / "1.png"), "holds no class folders"),
        (lambda folder: write_folder(folder, {"cat": 9}), "holds 1 class folder:"),
        (make_empty_class, "eel holds files of .txt and no images (.jpg .jpeg .png .webp .gif .bmp .tif .tiff .ppm .pgm): convert"),
        (make_train_without_classes, "train holds no class folders"),
        (make_unknown_class, "test has the class folder 'images', which train/ lacks: add it there, or move test/"),
        (make_flat_test, "test holds no class folders: put its images into one folder a class"),
        (make_two_validations, "val/ and validation/ both name the val split; keep one"),
        (lambda folder: write_folder(folder / "val", {"cat": 2, "dog": 2}), "found val/ but no train/; rename"),
        (lambda folder: write_folder(folder, {"cat": 2, "dog": 1}), "no class has the 3 images needed to draw test"),
    ],
)  # fmt: skip
def test_folders_that_cannot_be_used(tmp_path, make, message):
    make(tmp_path)
    assert message in refusal(tmp_path)


# Parquet


def test_parquet(tmp_path):
    write_parquet(tmp_path / "train.parquet", [0, 1] * 10, ["zebra", "ant"])
    write_parquet(tmp_path / "test.parquet", [1, 0, 1], ["zebra", "ant"])
    data = open_data(f"parquet:{tmp_path}")
    assert (data.name, data.classes) == (tmp_path.name, ("zebra", "ant"))
    assert [len(getattr(data, name)) for name in SPLITS] == [18, 2, 3]
    assert data.test.labels.tolist() == [1, 0, 1]
    for index in range(18):
        image, label = data.train[index]
        expected = np.random.default_rng(int(data.train.rows[index])).integers(0, 256, (12, 10, 3), dtype=np.uint8)
        assert np.array_equal(image, expected) and label == data.train.rows[index] % 2
    assert data.test.name(1) == f"row 1 of {tmp_path}, 0/1.png"


@pytest.mark.parametrize(
    "files",
    [
        ["data/train-00000-of-00002-ab.parquet", "data/train-00001-of-00002-cd.parquet", "data/validation-0.parquet"],
        ["train/0000.parquet", "train/0001.parquet", "val/0000.parquet"],
        ["train_1.parquet", "train_2.parquet", "valid.parquet"],
    ],
)  # fmt: skip
def test_parquet_shards_and_folders(tmp_path, files):
    for number, file in enumerate(files):
        write_parquet(tmp_path / file, [number] * 9, ["a", "b", "c"])
    data = open_data(f"parquet:{tmp_path}")
    assert data.test.labels.tolist() == [2] * 9  # train and val alone: val is the test split
    assert sorted([*data.train.labels, *data.val.labels]) == [0] * 9 + [1] * 9
    last = data.train[len(data.train) - 1][0]
    assert np.array_equal(
        last, np.random.default_rng(int(data.train.rows[-1]) - 9).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    )


def test_parquet_without_names_and_with_an_unlabelled_test(tmp_path):
    write_parquet(tmp_path / "train.parquet", [0, 1, 2] * 6)
    write_parquet(tmp_path / "validation.parquet", [0, 1, 2])
    write_parquet(tmp_path / "test.parquet", [-1] * 4)
    write_parquet(tmp_path / "extra.parquet", [0])
    data = open_data(f"parquet:{tmp_path}")
    assert data.classes == ("0", "1", "2")
    assert len(data.test) == 3
    assert data.notes[:3] == (
        "passed over, since the name gives no split: extra.parquet",
        "test: left out, its labels are all -1, which means unlabelled",
        "the data names no classes: they are named by number",
    )


def test_parquet_rows_survive_a_small_cache_and_a_process_boundary(tmp_path, monkeypatch):
    monkeypatch.setattr("angularkd.data.sources.parquet.CACHE_BYTES", 1)
    write_parquet(tmp_path / "train.parquet", list(range(11)), rows_per_group=3)
    store = pickle.loads(pickle.dumps(ParquetStore([tmp_path / "train.parquet"])))
    assert isinstance(store, ParquetStore) and len(store) == 11
    for row in (10, 0, 5, 9, 2):
        expected = np.random.default_rng(row).integers(0, 256, (12, 10, 3), dtype=np.uint8)
        assert np.array_equal(store.image(row), expected)
        assert store.size(row) == (12, 10)


def cut_parquet(folder: Path) -> None:
    path = write_parquet(folder / "train.parquet", [0, 1] * 10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_labels(folder: Path) -> None:
    overwrite(write_parquet(folder / "train.parquet", [0, 1] * 10), "label")


def overwrite(path: Path, column: str) -> None:
    """Destroy what the first row group holds of a column; its footer stays as it was."""
    group = pq.read_metadata(path).row_group(0)
    found = next(part for part in map(group.column, range(group.num_columns)) if part.path_in_schema.startswith(column))
    start = found.dictionary_page_offset or found.data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + found.total_compressed_size] = b"\xff" * found.total_compressed_size
    path.write_bytes(data)


def test_a_parquet_damaged_among_its_images_is_named_when_they_are_read(tmp_path):
    path = write_parquet(tmp_path / "train.parquet", [0, 1] * 10)
    overwrite(path, "image")
    with pytest.raises(InputError, match=r"cannot read .*train\.parquet: .*; get or write the file again\.$"):
        ParquetStore([path]).image(1)
    assert ParquetStore([path]).size(4) == (12, 10)  # the next row group is whole


@pytest.mark.parametrize(("name", "split"), [
    ("train-00000-of-00004.parquet", "train"), ("imagenet_valid_3.tar", "val"), ("train/0000.parquet", "train"),
    ("test/train-0.tar", "train"), ("a/Validation/b/0.tar", "val"), ("latest.tar", None), ("training.tar", "train"),
])  # fmt: skip
def test_splits_in_names(name, split):
    assert split_named(Path(name)) == split


def test_an_unreadable_first_image_does_not_hinder_opening(tmp_path):
    write_folder(tmp_path, {"cat": 9, "dog": 9})
    for name in ("cat", "dog"):
        (tmp_path / name / "000.png").write_bytes(b"")
    assert open_data(str(tmp_path)).augment == ("crop", "flip")
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"")
    assert "cannot decode" in refusal(tmp_path)


def test_every_source_is_described():
    assert SOURCES[""].written == "FOLDER"
    assert [row.written.partition(":")[0] for name, row in SOURCES.items() if name] == [
        name for name in SOURCES if name
    ]
    assert all(row.summary and "\n" not in row.summary for row in SOURCES.values())


def write_columns(path: Path, **columns: list[object]) -> None:
    pq.write_table(pa.table(columns), path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: None, "expected train*.parquet (and test*.parquet or validation*.parquet), found no parquet files"),
        (lambda d: write_parquet(d / "test.parquet", [0, 1]), "found test.parquet; rename the files by split"),
        (
            lambda d: write_columns(d / "train.parquet", img=[b"x"], fine_label=[1]),
            "image: struct<bytes: binary, path: string> and label: int64, found img: binary, fine_label: int64; rename",
        ),
        (lambda d: write_columns(d / "train.parquet", image=["x"], label=[1]), "found image: string, label: int64"),
        (lambda d: (d / "train.parquet").write_bytes(b"no parquet"), "cannot read"),
        (cut_parquet, "train.parquet: Parquet magic bytes not found in footer"),
        (damage_labels, "train.parquet: "),
        (lambda d: write_parquet(d / "train.parquet", [0, 2], ["a", "b"]), "has the label 2, but there are 2 classes"),
        (lambda d: write_parquet(d / "train.parquet", [0, None], ["a", "b"]), "1 rows have no label"),
        (lambda d: write_parquet(d / "train.parquet", [], ["a", "b"]), "the train split holds no images"),
        (
            lambda d: (write_parquet(d / "train.parquet", [0], ["a"]), write_parquet(d / "test.parquet", [0], ["b"])),
            "test.parquet names other classes than train.parquet; write all files with one list of class names",
        ),
    ],
)  # fmt: skip
def test_parquet_that_cannot_be_used(tmp_path, make, message):
    make(tmp_path)
    assert message in refusal(f"parquet:{tmp_path}")


@pytest.mark.parametrize("second", [["dog", "cat"], ["cat", "dog", "eel"], ["cat", "ant"]])
@pytest.mark.parametrize("split", ["train", "test"])
def test_parquet_files_that_name_classes_differently(tmp_path, second, split):
    write_parquet(tmp_path / "train-0.parquet", [0, 1] * 6, ["cat", "dog"])
    write_parquet(tmp_path / "train-1.parquet", [0, 1] * 6)  # names none: its numbers are those of the others
    write_parquet(tmp_path / f"{split}-2.parquet", [0, 1] * 6, second)
    how = "the same classes in another order" if len(second) == 2 and "dog" in second else "other classes"
    message = f"{split}-2.parquet names {how} than train-0.parquet; write all files with one list of class names."
    if split == "test":
        write_parquet(tmp_path / "test-1.parquet", [0, 1] * 6, ["cat", "dog"])
    assert message in refusal(f"parquet:{tmp_path}")


NOT_META = [
    b"no JSON", b"[1]", b'"text"', b"7", b'{"info": "text"}', b'{"info": {"features": [1]}}', b"\xff\xfe", b"[" * 100_000,
    b'{"info": {"features": {"label": {"names": "cat"}}}}', b'{"info": {"features": {"label": {"names": {"0": "cat"}}}}}',
    b'{"info": {"features": {"label": {"names": [1, 2]}}}}', b'{"info": {"features": {"label": 5}}}',
]  # fmt: skip


@pytest.mark.parametrize("metadata", NOT_META)
def test_parquet_metadata_that_is_not_what_is_meant(tmp_path, metadata):
    path = write_parquet(tmp_path / "train.parquet", [0, 1] * 6)
    pq.write_table(pq.read_table(path).replace_schema_metadata({"huggingface": metadata}), path)
    message = refusal(f"parquet:{tmp_path}")
    assert "train.parquet: cannot read the class names of label in its metadata; write the file again" in message


@pytest.mark.parametrize("metadata", [b"{}", b'{"info": null}', b'{"info": {"features": {"other": {}}}}'])
def test_parquet_metadata_without_names(tmp_path, metadata):
    path = write_parquet(tmp_path / "train.parquet", [0, 1] * 6)
    pq.write_table(pq.read_table(path).replace_schema_metadata({"huggingface": metadata}), path)
    assert open_data(f"parquet:{tmp_path}").classes == ("0", "1")


@pytest.mark.parametrize("label", [2**31, 70_000, 2**62])
def test_a_parquet_label_that_no_data_set_has(tmp_path, label):
    write_parquet(tmp_path / "train.parquet", [0, 1, label] * 6)
    assert f"the train split has the label {label}, too large a class index for so few images" in refusal(
        f"parquet:{tmp_path}"
    )


def test_a_parquet_file_of_names_that_are_no_text(tmp_path):
    path = write_parquet(tmp_path / "train.parquet", [0, 1] * 6)
    path.write_bytes(path.read_bytes().replace(b"path", b"\xecath"))
    assert "train.parquet: 'utf-8' codec can't decode" in refusal(f"parquet:{tmp_path}")


def test_a_parquet_path_that_is_no_text(tmp_path):
    paths = pa.array([b"\xec.png"], pa.binary()).view(pa.string())
    image = pa.StructArray.from_arrays([pa.array([b"no image"], pa.binary()), paths], ["bytes", "path"])
    pq.write_table(pa.table({"image": image, "label": [0]}), tmp_path / "train.parquet")
    store = ParquetStore([tmp_path / "train.parquet"])
    assert store.name(0) == rf"row 0 of {tmp_path}, \xec.png"
    with pytest.raises(InputError, match=r"cannot decode row 0 of .*, \\xec\.png: not an image"):
        store.image(0)


def test_parquet_classes_that_are_splits(tmp_path):
    write_parquet(tmp_path / "train.parquet", [0, 1] * 6, ["Testing", "Training"])
    assert "the classes would be Testing, Training, which look like splits" in refusal(f"parquet:{tmp_path}")


def test_a_parquet_row_without_bytes_is_named(tmp_path):
    image = {"bytes": pa.array([b"", None], pa.binary()), "path": pa.array(["a.png", "b.png"])}
    column = pa.StructArray.from_arrays(list(image.values()), list(image))
    pq.write_table(pa.table({"image": column, "label": [0, 1]}), tmp_path / "train.parquet")
    with pytest.raises(InputError, match=r"row 1 of .*, b\.png: it holds no bytes"):
        ParquetStore([tmp_path / "train.parquet"]).image(1)


def test_real_parquet(shared_folder):
    data = open_data(f"parquet:{shared_folder / 'data' / 'cifar10'}")
    assert [len(getattr(data, name)) for name in SPLITS] == [45_000, 5_000, 10_000]
    assert np.bincount(data.val.labels).tolist() == [500] * 10
    assert (data.classes[0], data.classes[9], data.augment) == ("airplane", "truck", ("crop", "flip"))
    assert data.notes == ("validation: 5000 images drawn from train, stratified, split seed 0",)
    assert data.train[7][0].shape == (32, 32, 3)
    tiny = open_data(f"parquet:{shared_folder / 'data' / 'tiny_imagenet100_32px'}")
    assert [len(getattr(tiny, name)) for name in SPLITS] == [45_000, 5_000, 5_000]
    assert tiny.classes[0] == "n01443537 goldfish" and "is the test split" in tiny.notes[0]


# Specs


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", f"no folder 'digit': expected a folder, {KNOWN}. Did you mean 'digits'?"),
        ("cifar1O:x", f"unknown data 'cifar1O:x': expected a folder, {KNOWN}. Did you mean 'cifar1"),
        ("digits:x", "takes no folder"),
        ("cifar10", "write cifar10:DIR"),
        ("cifar100:", "write cifar100:DIR"),
        ("parquet", "write parquet:DIR"),
        ("parquet:no/such", "parquet:no/such: no such folder"),
        (f"parquet:{__file__}", "is a file, not a folder"),
        (f"cifar10:{__file__}", "is a file, not a folder"),
        (__file__, "is a file: expected a folder of class folders"),
        ("", "no folder ''"),
    ],
)  # fmt: skip
def test_unknown_specs(spec, message):
    assert message in refusal(spec)


@pytest.mark.parametrize("fraction", [0.0, 0.5, -0.1])
def test_impossible_fractions(fraction):
    assert f"`val_fraction` must be above 0 and below 0.5, got {fraction}" in refusal("digits", val_fraction=fraction)


def test_impossible_size():
    assert "`image_size` must be positive, got 0 x 16" in refusal("digits", image_size=(0, 16))


def test_names_that_are_no_text_become_text(tmp_path):
    """Files of other encodings, such as archives from elsewhere hold them."""
    for name in (b"caf\xe9", b"tea"):
        folder = os.path.join(os.fsencode(tmp_path / "drinks"), name)
        try:
            os.makedirs(folder)
        except OSError:
            pytest.skip("this file system has names in UTF-8 alone")
        for number in range(4):
            Image.new("RGB", (9, 9), (60 * number, 0, 0)).save(os.fsdecode(os.path.join(folder, b"%d.png" % number)))
    data = open_data(str(tmp_path / "drinks"))
    assert data.classes == ("caf\\xe9", "tea") and json.loads(json.dumps(data.classes)) == list(data.classes)
    "".join(data.classes).encode()
    assert data.train[0][0].shape == (9, 9, 3)


def test_files_that_are_images_elsewhere_are_named(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.heic").write_bytes(b"....ftypheic")
    with pytest.raises(
        InputError, match=r"cat holds files of \.heic and no images .*: convert these, add some or remove it"
    ):
        open_data(str(tmp_path))
