"""--on-bad-image skip: images that cannot be decoded are left out with their labels, counted and named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import angularkd
from angularkd.config import EvaluateConfig, TrainConfig
from angularkd.data import SPLITS, DataSet, load_resident, open_data, without_bad_images
from angularkd.data.in_memory import find_bad_images
from angularkd.errors import InputError
from angularkd.training import Job, build_evaluation, build_training, open_dataset


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of 40 cats and 40 dogs in train/ and 5 of each in test/, grey levels by number; the name sorts first in cat/."""
    for split, count in (("train", 40), ("test", 5)):
        for label, name in enumerate(("cat", "dog")):
            for index in range(count):
                path = tmp_path / split / name / f"{index:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((20, 20, 3), 100 * label + index, dtype=np.uint8)).save(path)
    return tmp_path


def spoil(folder: Path, *names: str) -> list[str]:
    """Each file is spoiled in another way, the first so that not even its size can be read."""
    ways = [lambda data: b"", lambda data: data[:60], lambda data: b"not an image" + data]
    for number, name in enumerate(names):
        path = folder / name
        path.write_bytes(ways[number % 3](path.read_bytes()))
    return [str(folder / name) for name in names]


def screened(data: DataSet, splits: Sequence[str] = SPLITS) -> DataSet:
    return without_bad_images(data, {name: find_bad_images(data.splits[name]) for name in splits})


def test_bad_images_are_left_out_with_their_labels(photographs):
    whole = open_data(str(photographs))
    bad = spoil(
        photographs, "train/cat/00.png", "train/cat/07.png", "train/dog/03.png", "train/dog/04.png", "test/dog/01.png"
    )
    data = screened(open_data(str(photographs)))
    for split in ("train", "val", "test"):
        before, after = getattr(whole, split), getattr(data, split)
        names = [after.name(index) for index in range(len(after))]
        assert names == [name for index in range(len(before)) if (name := before.name(index)) not in bad]
        loaded = load_resident(after)
        assert loaded.labels.tolist() == [int("/dog/" in name) for name in names]
        assert loaded.pixels[:, 0, 0, 0].tolist() == [100 * ("/dog/" in name) + int(Path(name).stem) for name in names]
    assert sum(len(getattr(data, split)) for split in ("train", "val", "test")) == 85
    assert len(data.left_out) == 5 and all(any(name in line for line in data.left_out) for name in bad)
    assert data.notes[-1] == f"test: left out 1 of 10 images, which cannot be decoded: {bad[4]}"
    assert whole.left_out == () and data.classes == whole.classes


def test_a_note_names_some(photographs):
    spoil(photographs, *(f"test/{name}/{index:02}.png" for name in ("cat", "dog") for index in range(3)))
    data = screened(open_data(str(photographs)), ["test"])
    first = ", ".join(str(photographs / "test" / "cat" / f"{index:02}.png") for index in range(3))
    assert data.notes[-1] == f"test: left out 6 of 10 images, which cannot be decoded: {first} and 3 more"
    assert len(data.left_out) == 6 and len(data.test) == 4


def test_only_the_splits_given_and_nothing_without_cause(photographs):
    data = open_data(str(photographs))
    same = screened(data)
    assert same.notes == data.notes and same.left_out == () and same.train is data.train
    spoil(photographs, "train/cat/00.png")
    assert screened(data, ["test"]).left_out == ()


def test_a_split_without_any_good_image_is_refused(photographs):
    spoil(photographs, *(f"test/{name}/{index:02}.png" for name in ("cat", "dog") for index in range(5)))
    with pytest.raises(
        InputError, match=r"none of the 10 images of the test split can be decoded: cannot decode .*00\.png"
    ):
        screened(open_data(str(photographs)))


def test_bad_images_are_found_in_order(photographs, monkeypatch):
    monkeypatch.setattr("angularkd.data.in_memory.IMAGES_PER_TASK", 2)
    split = open_data(str(photographs)).test
    spoil(photographs, "test/dog/04.png", "test/cat/02.png", "test/cat/00.png")
    found = find_bad_images(split)
    assert list(found) == [0, 2, 9]
    assert all(complaint.startswith(f"cannot decode {split.name(index)}: ") for index, complaint in found.items())


def options(folder: Path, **others: object) -> dict[str, object]:
    return {"data": str(folder), "model": "cifar/resnet8", "device": "cpu", "batch_size": 16, **others}


def build(config: TrainConfig) -> Job:
    return build_training(config, open_dataset(config))


@pytest.mark.parametrize("size", [{}, {"image_size": 16}])
def test_training_skips_or_stops(photographs, size):
    bad = spoil(photographs, "train/cat/00.png", "train/dog/03.png", "test/dog/01.png")
    with pytest.raises(InputError, match=r"cannot decode .*; repair the file or remove it"):
        build(TrainConfig.from_options(**options(photographs, **size)))
    job = build(TrainConfig.from_options(**options(photographs, on_bad_image="skip", **size)))
    dataset = job.data.dataset
    assert len(dataset.train) + len(dataset.val) == 78 and len(dataset.test) == 9
    assert job.test.epoch(0).__next__().images.shape[0] == 9
    assert len(dataset.left_out) == 3 and any(bad[2] in note for note in dataset.notes)


def test_evaluation_searches_what_it_needs(photographs, tmp_path):
    spoil(photographs, "train/cat/00.png", "test/dog/01.png")
    model = tmp_path / "model.py"
    model.write_text(
        "from angularkd.models.cifar import create\n\n\ndef make(num_classes): return create('resnet8', num_classes)\n"
    )
    base = options(photographs, model=f"{model}:make", on_bad_image="skip", normalization="half")
    config = EvaluateConfig.from_options(**base)
    data = build_evaluation(config, open_dataset(config)).data.dataset
    assert len(data.left_out) == 1 and "test" in data.left_out[0]
    config = EvaluateConfig.from_options(**{**base, "normalization": None})
    assert len(build_evaluation(config, open_dataset(config)).data.dataset.left_out) == 2


def test_an_option_with_two_values():
    with pytest.raises(InputError, match="on_bad_image"):
        angularkd.train(data="digits", model="cifar/resnet8", on_bad_image="ignore")


def test_a_class_of_which_no_training_image_is_left_is_named(photographs):
    spoil(photographs, *(f"train/dog/{number:02}.png" for number in range(40)))
    data = open_data(str(photographs))
    bad = {name: find_bad_images(data.splits[name]) for name in ("train", "test")}
    assert "train: no image is left of dog, which cannot be learned" in without_bad_images(data, bad).notes
    assert not any("cannot be learned" in note for note in without_bad_images(data, {"train": {}}).notes)
