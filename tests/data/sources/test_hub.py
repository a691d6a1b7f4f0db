"""hf:NAME through the library `datasets`: folders that it reads, its cache, and what it cannot get, in one line."""

from __future__ import annotations

import logging
import pickle
import sys
from pathlib import Path

import datasets
import fsspec
import huggingface_hub
import numpy as np
import pytest
from PIL import Image

from angularkd.data import open_data
from angularkd.data.sources import hub
from angularkd.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 9, 11, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def rows(count: int, start: int = 0, image_column: str = "image", **columns: object) -> datasets.Dataset:
    """Lossless images of PIXELS with the labels 0, 1, 0, ... of cat and dog."""
    pictures = [Image.fromarray(pixels) for pixels in PIXELS[start : start + count]]
    kinds = {image_column: datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    labels = [index % 2 for index in range(count)]
    kinds |= {name: kind for name, (kind, _) in columns.items()}
    values = {image_column: pictures, "label": labels} | {name: value for name, (_, value) in columns.items()}
    kinds = {name: kind for name, kind in kinds.items() if kind is not None}
    return datasets.Dataset.from_dict({name: values[name] for name in kinds}, datasets.Features(kinds))


def as_parquet(folder: Path, **splits: datasets.Dataset) -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name, table in splits.items():
        table.to_parquet(folder / "data" / f"{name}-00000-of-00001.parquet")
    return folder


def as_saved(folder: Path, **splits: datasets.Dataset) -> Path:
    datasets.DatasetDict(splits).save_to_disk(folder)
    return folder


def as_image_folders(folder: Path, **splits: datasets.Dataset) -> Path:
    for name, table in splits.items():
        for index, row in enumerate(table):
            path = folder / name / table.features["label"].names[row["label"]] / f"{index:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            row["image"].save(path)
    return folder


def refusal(spec: str) -> str:
    with pytest.raises(InputError) as refused:
        open_data(spec)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("write", [as_parquet, as_saved, as_image_folders])
def test_what_the_library_reads(tmp_path, capfd, write):
    write(tmp_path / "pets", train=rows(20), validation=rows(6, 20), test=rows(4, 26))
    capfd.readouterr()
    data = open_data(f"hf:{tmp_path / 'pets'}")
    assert capfd.readouterr() == ("", "")  # neither progress bars nor warnings
    assert (data.name, data.classes, data.augment) == ("pets", ("cat", "dog"), ("crop", "flip"))
    assert data.notes == ()
    for split, start in ((data.train, 0), (data.val, 20), (data.test, 26)):
        found = {split[index][0].tobytes(): split[index][1] for index in range(len(split))}
        assert found == {PIXELS[start + index].tobytes(): index % 2 for index in range(len(split))}
        assert split.size(0) == (9, 11)
    again = pickle.loads(pickle.dumps(data.train))
    assert np.array_equal(again[3][0], data.train[3][0])
    assert str(tmp_path / "pets") in data.test.name(1) and "row 1 of" in data.test.name(1)


def test_splits_are_mapped_and_validation_drawn(tmp_path):
    as_parquet(tmp_path, train=rows(20), test=rows(4, 20))
    data = open_data(f"hf:{tmp_path}")
    assert [len(split) for split in (data.train, data.val, data.test)] == [18, 2, 4]
    card = """---
configs:
- config_name: {}
  data_files:
  - split: {}
    path: data/train*
  - split: extra
    path: data/test*
---
"""
    (tmp_path / "README.md").write_text(card.format("small", "train"))
    data = open_data(f"hf:{tmp_path},config=small")
    assert data.notes[0] == "extra: left out, it is not train, validation or test" and len(data.test) == 2
    (tmp_path / "README.md").write_text(card.format("default", "unsupervised"))
    assert "expected a split called train, found unsupervised, extra" in refusal(f"hf:{tmp_path}")


def test_columns_are_found_by_their_types(tmp_path):
    coarse = (datasets.ClassLabel(names=["pet"]), [0] * 20)
    as_parquet(tmp_path, train=rows(20, image_column="img", text=(datasets.Value("string"), ["x"] * 20), coarse=coarse))
    data = open_data(f"hf:{tmp_path}")
    assert data.classes == ("cat", "dog")  # of two columns of classes the one called label
    assert open_data(f"hf:{tmp_path},label=coarse,image=img").classes == ("pet",)


def test_integers_will_do_as_labels(tmp_path):
    as_parquet(tmp_path, train=rows(20, label=(None, None), target=(datasets.Value("int8"), [0, 2] * 10)))
    data = open_data(f"hf:{tmp_path}")
    assert data.classes == ("0", "1", "2") and set(data.train.labels) == {0, 2}


FINE = {"label": (None, None), "fine": (datasets.ClassLabel(names=["a", "b"]), [0, 1] * 10)}
COARSE = {"coarse": (datasets.ClassLabel(names=["a"]), [0] * 20)}


@pytest.mark.parametrize(("columns", "options", "message"), [
    (FINE | COARSE, "", "expected one column of class labels, found fine and coarse in (image: "),
    (FINE | COARSE, "", ",label=fine."),
    (FINE, ",label=image", "expected one column of class labels, found none in"),
    ({"image": (datasets.Value("string"), ["x"] * 20)}, "", "expected one column of images, found none in (image: string"),
    ({"label": (datasets.Value("string"), ["x"] * 20)}, "", "expected one column of class labels, found none"),
    ({"label": (datasets.Value("int64"), [0, None] * 10)}, "", "10 rows of train have no label"),
    ({"label": (datasets.Value("int64"), [0, -1] * 10)}, "", "the train split has the label -1"),
    ({}, ",lable=x", "cannot read 'lable': after the name come config=NAME, image=COLUMN and label=COLUMN. Did you mean"),
    ({}, ",config=other", "'other' not found. Available: ['default']"),
])  # fmt: skip
def test_columns_that_cannot_be_used(tmp_path, columns, options, message):
    as_parquet(tmp_path, train=rows(20, **columns))
    assert message in refusal(f"hf:{tmp_path}{options}")


@pytest.mark.parametrize("write", [as_parquet, as_saved])
@pytest.mark.parametrize("names", [["dog", "cat"], ["ant", "bee"]])
def test_files_that_name_classes_differently(tmp_path, write, names):
    other = (
        rows(6, 20).cast_column("label", datasets.Value("int64")).cast_column("label", datasets.ClassLabel(names=names))
    )
    write(tmp_path, train=rows(20), test=other)
    how = "the same classes in another order" if "dog" in names else "other classes"
    assert f"names {how} than " in refusal(f"hf:{tmp_path}")


def remote(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    """Have the files of a local folder lie at addresses, as those of the hub do."""
    memory = fsspec.filesystem("memory")
    addresses = []
    for file in sorted(folder.rglob("*.parquet")):
        addresses.append(f"memory://pets/{file.name}")
        with memory.open(addresses[-1], "wb") as opened:
            opened.write(file.read_bytes())
    monkeypatch.setattr(hub, "_files", lambda name, config: addresses)
    return addresses


@pytest.mark.parametrize("names", [["dog", "cat"], ["ant", "bee"]])
def test_remote_files_that_name_classes_differently(tmp_path, monkeypatch, names):
    other = rows(6, 20).cast_column("label", datasets.Value("int64"))
    as_parquet(tmp_path, train=rows(20), test=rows(10))
    remote(monkeypatch, tmp_path)
    open_data(f"hf:{tmp_path}")
    as_parquet(tmp_path / "other", test=other.cast_column("label", datasets.ClassLabel(names=names)))
    with fsspec.filesystem("memory").open("memory://pets/test-00000-of-00001.parquet", "wb") as opened:
        opened.write((tmp_path / "other/data/test-00000-of-00001.parquet").read_bytes())
    (tmp_path / "other/data/test-00000-of-00001.parquet").unlink()
    assert f"names {'the same classes in another order' if 'dog' in names else 'other classes'} than " in refusal(
        f"hf:{tmp_path}"
    )


def test_remote_files_that_are_out_of_reach_are_a_note(tmp_path, monkeypatch):
    as_parquet(tmp_path, train=rows(20), test=rows(10))
    remote(monkeypatch, tmp_path)
    fsspec.filesystem("memory").rm("memory://pets/test-00000-of-00001.parquet")
    notes = open_data(f"hf:{tmp_path}").notes
    assert f"hf:{tmp_path}: the class names in 1 of 2 files cannot be compared, for they are out of reach" in notes
    monkeypatch.setattr(hub, "_files", lambda name, config: [])
    notes = open_data(f"hf:{tmp_path}").notes
    assert f"hf:{tmp_path}: the class names in its files cannot be compared, for they are out of reach" in notes


def test_a_description_that_names_classes_in_another_order_than_the_files(tmp_path):
    as_parquet(tmp_path, train=rows(20), test=rows(10))
    card = (
        "---\ndataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n    dtype:\n      class_label:\n"
        "        names:\n          '0': dog\n          '1': cat\n---\n"
    )
    (tmp_path / "README.md").write_text(card)
    assert "its description names the same classes in another order than its files do" in refusal(f"hf:{tmp_path}")


def test_the_addresses_of_a_data_set_are_the_library_s(tmp_path):
    as_parquet(tmp_path, train=rows(20), test=rows(10))
    assert sorted(Path(file).name for file in hub._files(str(tmp_path), None)) == [
        "test-00000-of-00001.parquet",
        "train-00000-of-00001.parquet",
    ]


def test_splits_by_other_names(tmp_path, monkeypatch):
    tables = {"training": rows(20), "dev": rows(6, 20), "Evaluation_2": rows(6, 20), "holdout": rows(4, 26)}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config: dict(list(tables.items())[:2]))
    data = open_data("hf:owner/name")
    assert [len(split) for split in (data.train, data.val, data.test)] == [18, 2, 6]
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config: tables)
    assert "dev and Evaluation_2 both name the val split" in refusal("hf:owner/name")


def test_an_image_that_is_gone(tmp_path):
    as_image_folders(tmp_path, train=rows(20))
    data = open_data(f"hf:{tmp_path}")
    (tmp_path / "train" / "cat" / "000.png").unlink()
    with pytest.raises(InputError, match=r"cannot read row 0 of .* train, .*000\.png: No such file"):
        data.train.store.image(0)


def test_what_is_not_there(tmp_path):
    assert "hf needs a name" in refusal("hf")
    assert "data file" in refusal(f"hf:{tmp_path}")
    (tmp_path / "train.parquet").write_bytes(b"PAR1 half a file")
    assert refusal(f"hf:{tmp_path}").startswith(f"hf:{tmp_path}: ")


@pytest.mark.parametrize("name", ["owner/name", "name"])
def test_offline(name, capfd, monkeypatch):
    assert refusal(f"hf:{name}").startswith(f"hf:{name}: Couldn't reach '{name}' on the Hub")
    assert "(offline: HF_HUB_OFFLINE is set); check the name and the connection" in refusal(f"hf:{name}")
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)  # the hub's client still is, as with no connection
    assert "HF_HUB_OFFLINE" not in refusal(f"hf:{name}")


def test_the_library_is_quiet_for_us_alone(monkeypatch):
    level, bars = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()

    def load(name: str, config: str | None) -> None:
        for logger in ("datasets.load", "huggingface_hub.utils"):
            assert not logging.getLogger(logger).isEnabledFor(logging.WARNING)  # no word of five retries
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert refusal("hf:owner/name").startswith("hf:owner/name: no route")
    assert (datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()) == (level, bars)


def test_without_the_library(monkeypatch):
    assert not hasattr(hub, "datasets")  # imported when it is needed
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert refusal("hf:owner/name") == "hf:NAME needs the library datasets: pip install 'angularkd[hf]'."
