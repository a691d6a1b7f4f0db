"""A run fits its students' temperatures on validation images, and writes them into their files."""

from __future__ import annotations

import pytest
import torch

import angularkd
from angularkd.metrics import fit_temperature
from angularkd.models import open_classifier, read_metadata
from angularkd.system.modes import mode
from helpers import DIGITS, saved_weights, training_job


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> angularkd.Run:
    out = tmp_path_factory.mktemp("run") / "run"
    return angularkd.train(**DIGITS, model="cifar/resnet8", epochs=3, out=str(out))


def test_it_is_that_of_the_validation_images(run) -> None:
    job = training_job(**DIGITS, model="cifar/resnet8", epochs=1)
    student = open_classifier(str(run.folder), 10)
    assert student.temperature == run.results["temperature"]["last epoch"]
    with mode(student.module, training=False), torch.inference_mode():
        batches = list(job.validation.epoch(0))
        logits = torch.cat([student.predict(batch.images) for batch in batches])
    expected = fit_temperature(logits, torch.cat([batch.labels for batch in batches]))
    assert student.temperature == pytest.approx(expected, rel=1e-4) and expected != 1


def test_both_students_files_hold_their_own(run) -> None:
    files = {"last epoch": "student.safetensors", "selected epoch": "checkpoints/best.safetensors"}
    for name, file in files.items():
        assert read_metadata(run.folder / file)["temperature"] == run.results["temperature"][name]
    calibrated = {"nll_calibrated", "brier_calibrated", "ece_calibrated"}
    for figures in run.results["metrics"].values():
        assert calibrated <= set(figures) and all(isinstance(value, float) for value in figures.values())


def test_a_selected_epoch_that_is_not_the_last_has_its_own(tmp_path) -> None:
    found = angularkd.train(
        **{**DIGITS, "schedule": "constant"}, model="cifar/resnet8", epochs=4, lr=0.4, out=str(tmp_path / "run")
    ).results
    if found["selected_epoch"] == 4:
        pytest.skip("the last epoch was the best")
    assert found["temperature"]["last epoch"] != found["temperature"]["selected epoch"]
    assert found["metrics"]["last epoch"] != found["metrics"]["selected epoch"]


def test_a_teachers_own_temperature_calibrates_it(run, tmp_path) -> None:
    options = {**DIGITS, "teacher": str(run.folder), "student": "cifar/resnet8", "loss": ("ce=1",), "epochs": 1}
    results = angularkd.distill(**options, out=str(tmp_path / "run")).results
    assert results["temperature"]["teacher"] == run.results["temperature"]["last epoch"]
    expected = run.results["metrics"]["last epoch"]
    assert results["metrics"]["teacher"]["nll_calibrated"] == pytest.approx(expected["nll_calibrated"], rel=1e-5)


def test_a_student_that_starts_from_calibrated_weights_has_its_own(run, tmp_path) -> None:
    found = angularkd.train(
        **DIGITS, model=str(run.folder), lr=0.01, optimizer="sgd", epochs=1, out=str(tmp_path / "run")
    )
    assert (
        read_metadata(found.folder / "student.safetensors")["temperature"] == found.results["temperature"]["last epoch"]
    )
    assert found.results["temperature"]["last epoch"] != run.results["temperature"]["last epoch"]
    assert saved_weights(found.folder).keys() == saved_weights(run.folder).keys()


def test_other_classes_take_the_temperature_away(run, tmp_path) -> None:
    weights = str(run.folder / "student.safetensors")
    assert open_classifier("cifar/resnet8", 4, weights=weights, new_head=True).temperature is None
    assert open_classifier("cifar/resnet8", 10, weights=weights).temperature is not None
