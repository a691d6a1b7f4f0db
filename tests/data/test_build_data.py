"""From a configuration to its images: opened once, decoded once, by two processes where two are asked for."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import angularkd
from angularkd.config import TrainConfig
from angularkd.data import SOURCES, DataSet, ResidentLoader, SourceRow, StreamingLoader, open_data
from angularkd.data.stores import ArrayStore, EncodedStore
from angularkd.errors import InputError
from angularkd.models import open_classifier
from angularkd.training import Job, build_data, open_dataset
from angularkd.training.build_data import Data, sized, training_batches
from helpers import saved_weights, training_job

SPLITS = ("train", "val", "test")
CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("leaves_no_process")


@pytest.fixture
def photographs(tmp_path, write_photographs) -> Path:
    for channel, name in enumerate(("a", "bb", "ccc")):
        write_photographs(tmp_path / "photographs" / name, 30, channel)
    return tmp_path / "photographs"


@pytest.fixture
def decoded(monkeypatch) -> Counter[str]:
    """Counts how often each image is decoded in this process."""
    counts: Counter[str] = Counter()
    decode = EncodedStore.image

    def counted(store: EncodedStore, row: int) -> np.ndarray:
        counts[store.name(row)] += 1
        return decode(store, row)

    monkeypatch.setattr(EncodedStore, "image", counted)
    return counts


def config_of(data: object, **more: object) -> TrainConfig:
    base = {"data": str(data), "model": "cifar/resnet8", "batch_size": 16, "epochs": 1, "device": "cpu"}
    return TrainConfig.from_options(**(base | more))


def model_at(size: tuple[int, int] | None = None):
    classifier = open_classifier("cifar/resnet8", 3)
    return classifier if size is None else build_data.replace(classifier, image_size=size)


def sized_for(config: TrainConfig, dataset: DataSet, size: tuple[int, int] | None = None) -> Data:
    return sized(config, dataset, CPU, model_at(size), None)


def use_all(data: Data) -> None:
    """Everything that a run asks of its data."""
    train = data.load("train")
    data.channel_stats(train)
    for split in ("val", "test"):
        list(data.batches(split, 16).epoch(0))
    some = data.some("val", 4)
    assert len(some.dataset.val) == 4 and len(next(some.batches("val", 16).epoch(0)).labels) == 4


@pytest.mark.parametrize("on_bad_image", ["stop", "skip"])
@pytest.mark.parametrize("image_size", [None, 16])
def test_each_image_is_decoded_once_also_for_a_teacher_before_its_student(
    photographs, decoded, on_bad_image, image_size
) -> None:
    config = config_of(photographs, on_bad_image=on_bad_image, image_size=image_size)
    dataset = open_dataset(config)
    for _ in range(2):
        use_all(sized_for(config, dataset))
    assert len(decoded) == 90 and set(decoded.values()) == {1}


def test_images_of_one_size_are_decoded_once_at_their_own(tmp_path, decoded, write_images) -> None:
    write_images(tmp_path / "train.parquet", 60)
    for on_bad_image in ("stop", "skip"):
        decoded.clear()
        config = config_of(f"parquet:{tmp_path}", on_bad_image=on_bad_image)
        data = sized_for(config, open_dataset(config))
        use_all(data)
        assert data.image_size is None and data.size_of("train") == (16, 12)
        assert len(decoded) == 60 and set(decoded.values()) == {1}


def test_bad_images_are_searched_for_once(photographs, decoded) -> None:
    for name in ("a/000.jpg", "a/001.jpg", "bb/007.jpg"):
        (photographs / name).write_bytes(b"no image")
    config = config_of(photographs, on_bad_image="skip")
    dataset = open_dataset(config)
    for size in (None, None, (24, 24)):
        before = decoded.copy()
        data = sized_for(config, dataset, size)
        use_all(data)
        assert sum(len(data.dataset.splits[split]) for split in SPLITS) == 87 and len(data.dataset.left_out) == 3
        for split in SPLITS:
            resident = data.load(split)
            assert resident is not None
            assert resident.labels.tolist() == data.dataset.splits[split].labels.tolist()
            assert resident.image_size == (size or (32, 32))
        if before:
            assert sum(decoded.values()) - sum(before.values()) == (87 if size else 0)
    assert max(decoded.values()) == 2


def test_another_size_decodes_anew_and_drops_the_old(photographs, decoded) -> None:
    config = config_of(photographs)
    dataset = open_dataset(config)
    use_all(sized_for(config, dataset, (16, 16)))
    assert dataset.decoded.holds("train", dataset.train, (16, 16))
    data = sized_for(config, dataset, (20, 20))
    assert not dataset.decoded.holds("train", dataset.train, (16, 16))
    use_all(data)
    assert set(decoded.values()) == {2}
    data.release()
    assert not dataset.decoded.holds("train", dataset.train, (20, 20))


def test_a_part_is_cut_from_what_is_decoded(photographs) -> None:
    config = config_of(photographs, image_size=16)
    data = sized_for(config, open_dataset(config))
    some = data.some("train", 10)
    whole, part = data.load("train"), some.load("train")
    assert whole is not None and part is not None
    rows = [data.dataset.train.rows.tolist().index(row) for row in some.dataset.train.rows]
    assert torch.equal(part.pixels, whole.pixels[rows]) and torch.equal(part.labels, whole.labels[rows])
    assert rows[0] == 0 and rows[-1] == len(whole) - 1 and data.some("train", 1000) is data
    assert data.load("train") is whole


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Notes what is opened."""
    calls: list[str] = []
    for name, row in list(SOURCES.items()):

        def noted(argument: str, row: SourceRow = row) -> object:
            calls.append(row.written)
            return row.open(argument)

        monkeypatch.setitem(SOURCES, name, build_data.replace(row, open=noted))
    return calls


@pytest.mark.parametrize("size", [None, (16, 16), (8, 8), (100, 80)])
def test_data_are_opened_once_whatever_the_size_turns_out_to_be(photographs, opened, size) -> None:
    for data, written in (("digits", "digits"), (photographs, "FOLDER")):
        opened.clear()
        config = config_of(data)
        found = sized_for(config, open_dataset(config), size)
        assert opened == [written]
        natural = (16, 16) if written == "digits" else (32, 32)
        anew = open_data(str(data), image_size=size or natural)
        assert found.dataset.augment == anew.augment and found.dataset.notes == anew.notes
        for split in SPLITS:
            ours, theirs = found.dataset.splits[split], anew.splits[split]
            assert np.array_equal(ours.rows, theirs.rows) and np.array_equal(ours[0][0], theirs[0][0])


def test_digits_are_rendered_from_their_originals(opened) -> None:
    small = open_data("digits", image_size=(4, 4))
    large = small.at_size((20, 12))
    assert opened == ["digits"] and large.decoded is small.decoded
    expected = open_data("digits", image_size=(20, 12))
    assert isinstance(large.train.store, ArrayStore) and isinstance(expected.train.store, ArrayStore)
    assert np.array_equal(large.train.store.pixels, expected.train.store.pixels)
    assert small.val[0][0].shape == (4, 4, 3) and large.val[0][0].shape == (20, 12, 3)
    grey = torch.from_numpy(load_digits().images / 16.0 * 255.0)[:, None]
    grey = torch.nn.functional.interpolate(grey, size=(20, 12), mode="bilinear", antialias=True, align_corners=False)
    assert np.array_equal(large.train.store.pixels[..., 1], grey[:, 0].round().byte().numpy())
    assert large.train.store is large.val.store is large.test.store and large.at_size((20, 12)).train is large.train


def test_workers_are_shared_by_the_splits(photographs) -> None:
    import multiprocessing

    config = config_of(photographs, loader="workers", workers=2)
    data = sized_for(config, open_dataset(config))
    assert data.load("train") is None
    views = build_data.Views(("flip",), len(data.dataset.train), (32, 32))
    loaders = [training_batches(data, None, views, config), data.batches("val", 4), data.batches("test", 4)]
    loaders.append(data.some("val", 5).batches("val", 4))
    seen = set()
    for loader in loaders:
        assert isinstance(loader, StreamingLoader)
        list(loader.epoch(0))
        seen |= {process.pid for process in multiprocessing.active_children()}
    assert len(seen) == 2


def options(data: Path, **more: object) -> dict:
    base = {"data": str(data), "image_size": 16, "batch_size": 16, "epochs": 1, "device": "cpu", "augment": ("crop",)}
    return base | more


def check_equal(*runs: angularkd.Run) -> None:
    """Check that runs have equal weights and metrics; the error says which differ, and by how much."""
    first, second = (saved_weights(run.folder) for run in runs)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert runs[0].results["metrics"] == runs[1].results["metrics"]


def test_a_distillation_ends_with_the_same_weights_whoever_decodes(photographs, digits_teacher, tmp_path) -> None:
    """The teacher's classes are others, so nothing depends on what it gets right of nine validation images."""
    distill = options(photographs, teacher=str(digits_teacher), student="cifar/resnet8", loss={"ce": 1, "amd": 10})
    distill["augment"] = ("resized_crop", "flip")
    runs = {
        workers: angularkd.distill(**distill, loader="workers", workers=workers, out=str(tmp_path / f"{workers}"))
        for workers in (0, 2)
    }
    check_equal(runs[0], runs[2])
    notes = json.loads((runs[2].folder / "plan.json").read_text())["notes"]
    expected = (
        "train, val, test: images are decoded as they are needed, by 2 worker processes, as `loader=workers` asks"
    )
    assert expected in notes


def test_without_boxes_the_loaders_end_with_the_same_weights(photographs, tmp_path) -> None:
    train = options(photographs, model="cifar/resnet8", normalization="half")
    runs = [
        angularkd.train(**train, loader=loader, workers=0, out=str(tmp_path / loader))
        for loader in ("resident", "workers")
    ]
    check_equal(*runs)


def build(data: Path, **more: object) -> Job:
    return training_job(**options(data, model="cifar/resnet8", **more))


def test_auto_is_resident_where_that_fits_and_says_so_where_not(photographs, monkeypatch) -> None:
    job = build(photographs)
    assert job.config.loader == "resident"
    assert {type(loader) for loader in (job.batches, job.validation, job.test)} == {ResidentLoader}

    free = 30 * 16 * 16 * 3 / 0.6  # of 90 images, 9 each are for validation and test
    monkeypatch.setattr("angularkd.data.in_memory.free_memory_bytes", lambda: free)
    monkeypatch.setattr("angularkd.data.statistics.BYTES_AT_ONCE", 1)
    job = build(photographs, workers=0)
    assert job.config.loader == "workers"
    assert isinstance(job.batches, StreamingLoader)
    assert {type(loader) for loader in (job.validation, job.test)} == {ResidentLoader}
    assert job.data.dataset.notes[-1] == (
        "train: images are decoded as they are needed, by the run's own process, since they do not fit into memory"
    )
    assert next(job.batches.epoch(0)).images.shape == (16, 3, 16, 16)
    with pytest.raises(InputError, match="images of 16 x 16 need"):
        build(photographs, loader="resident")


def test_statistics_are_taken_only_where_a_model_needs_them(photographs, monkeypatch) -> None:
    own = build(photographs, loader="workers", workers=0).student.preprocessing
    assert own.source == "the training images' own"
    assert own.mean == pytest.approx(build(photographs, loader="resident").student.preprocessing.mean)
    monkeypatch.setattr("angularkd.data.statistics.load_resident", None)
    assert build(photographs, loader="workers", normalization="half").student.preprocessing.mean == (0.5, 0.5, 0.5)
