"""From options to parts: the optimiser, the schedule, the layout and the augmentation that were asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.optim import SGD, AdamW

from angularkd import InputError
from angularkd.data import SOURCES
from angularkd.models import open_classifier, save_weights
from angularkd.system.devices import resolve_precision
from angularkd.training import build as training_build
from helpers import training_job

BASE = {"data": "digits", "model": "cifar/resnet8", "image_size": 8, "batch_size": 100, "epochs": 5, "device": "cpu"}


def build(**options):
    return training_job(**{**BASE, **options})


def test_sgd_and_its_defaults() -> None:
    optimizer = build().optimizer
    assert isinstance(optimizer, SGD)
    expected = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
    assert {name: optimizer.defaults[name] for name in expected} == expected
    plain = build(nesterov=False, lr=0.3, weight_decay=0.0, momentum=0.5).optimizer.defaults
    assert (plain["nesterov"], plain["lr"], plain["weight_decay"], plain["momentum"]) == (False, 0.3, 0.0, 0.5)
    assert not build(momentum=0.0).optimizer.defaults["nesterov"]


def test_adamw_and_its_defaults() -> None:
    optimizer = build(optimizer="adamw").optimizer
    assert isinstance(optimizer, AdamW)
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (1e-3, 0.05)


def test_what_depends_on_the_data_is_filled_into_the_configuration() -> None:
    job = build()
    assert (job.config.lr, job.config.weight_decay, job.config.augment) == (0.1, 5e-4, ("crop",))
    assert job.config.image_size == (8, 8)


def test_the_schedule_spans_the_run() -> None:
    job = build(schedule="cosine", warmup_epochs=1, lr=1.0)
    steps = len(job.batches)
    assert steps == 12  # of 1295 images, the last batch, not full, left out
    rates = [job.scheduler.lr_lambdas[0](step) for step in range(5 * steps + 1)]
    assert rates.index(max(rates)) == steps
    assert rates[-1] == pytest.approx(0.0)


def test_channels_last_is_the_default_for_weights_and_images() -> None:
    job = build()
    assert job.student.module.layer2[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    batch = next(job.batches.epoch(0))
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert job.student.module.layer1(job.student.module.conv1(batch.images)).is_contiguous(
        memory_format=torch.channels_last
    )


def test_images_are_normalised_by_the_training_images_by_default() -> None:
    own = build().student.preprocessing
    assert own.source == "the training images' own"
    assert 0.2 < own.mean[0] < 0.4
    assert build(normalization="imagenet").student.preprocessing.mean == (0.485, 0.456, 0.406)


def test_the_seed_decides_the_initial_weights() -> None:
    first, again, other = (build(seed=seed).student.module.conv1.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_label_smoothing_reaches_the_loss() -> None:
    job = build(label_smoothing=0.2)
    assert job.distiller.losses.losses["ce"].label_smoothing == 0.2


def test_a_device_that_is_not_there_is_named() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(InputError, match="no CUDA device"):
        build(device="cuda")


@pytest.mark.parametrize("size", [(16, 16), (8, 8)])
def test_data_are_opened_once_and_brought_to_the_size_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    weights = tmp_path / "model.safetensors"
    trained = {"model": "cifar/resnet8", "classes": list(map(str, range(10))), "image_size": list(size)}
    save_weights(weights, open_classifier("cifar/resnet8", 10).module, {**trained, "mean": [0.5] * 3, "std": [0.5] * 3})
    opened, row = [], SOURCES["digits"]
    counted = replace(row, open=lambda argument: opened.append(argument) or row.open(argument))
    monkeypatch.setitem(SOURCES, "digits", counted)
    options = {"data": "digits", "model": "cifar/resnet8", "weights": weights, "device": "cpu"}
    job = training_job(**options)
    assert (job.views.image_size, len(opened)) == (size, 1)
    asked = next(training_job(**options, image_size=size).batches.epoch(0))
    assert torch.equal(next(job.batches.epoch(0)).images, asked.images)


def test_evaluation_takes_what_a_gpu_has_room_for_unless_workers_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        training_build, "largest_batch", lambda predict, size, device, least: asked.append(least) or 120
    )
    job = build()
    assert [len(batch.labels) for batch in job.validation.epoch(0)][:-1] == [120] * (len(job.validation) - 1)
    assert asked == [100, 100] and len(next(job.batches.epoch(0)).labels) == 100
    decoding = build(loader="workers", workers=0)
    assert len(next(decoding.validation.epoch(0)).labels) == 100 and asked == [100, 100]


@pytest.mark.parametrize(
    ("device", "cuda", "bf16", "precision"),
    [
        ("auto", True, True, "bf16-mixed"),
        ("cuda", True, False, "32-true"),
        ("cpu", True, True, "32-true"),
        ("auto", False, True, "32-true"),
    ],
)
def test_half_precision_is_taken_where_a_gpu_has_it(monkeypatch, device, cuda, bf16, precision) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_precision(device, "auto") == precision
    assert resolve_precision(device, "16-mixed") == "16-mixed"
