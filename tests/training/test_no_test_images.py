"""A run on a data set without test images evaluates nothing at its end, wherever its images come from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from angularkd.config import DistillConfig, TrainConfig
from angularkd.training import open_dataset, run_distillation, run_training, save_untrained
from helpers import DIGITS, saved_weights


@pytest.mark.parametrize(
    "options",
    [{}, {"loader": "workers", "workers": 0}, {"on_bad_image": "skip"}, {"loader": "resident"}],
    ids=lambda options: ",".join(options) or "default",
)
def test_without_test_images_nothing_is_evaluated(tmp_path, options: dict[str, Any]) -> None:
    config = TrainConfig.from_options(
        **DIGITS, **options, model="cifar/resnet8", epochs=1, val_fraction=0.45, out=tmp_path / "run"
    )
    dataset = open_dataset(config)
    run = run_training(config, dataset=replace(dataset, test=dataset.test.select(np.zeros(0, dtype=np.int64))))
    assert run.results["metrics"] == {} and run.results["images"] == 0
    assert run.results["selected_validation_accuracy"] > 0


def test_who_insists_gets_a_teacher_that_knows_nothing(tmp_path) -> None:
    """The network that a training would begin with is saved as a SPEC, and teaches where that is insisted on."""
    teacher = tmp_path / "untrained"
    first = TrainConfig.from_options(**DIGITS, model="cifar/resnet8", epochs=1, seed=5)
    save_untrained(first, teacher)
    save_untrained(first, tmp_path / "again")
    weights, again = saved_weights(teacher), saved_weights(tmp_path / "again")
    assert all((weights[name] == again[name]).all() for name in weights)
    loss = {"ce": 1, "amd": "auto"}
    student = {
        **DIGITS,
        "teacher": teacher,
        "student": "cifar/resnet8",
        "loss": loss,
        "epochs": 1,
        "val_fraction": 0.45,
    }
    with pytest.raises(ValueError, match="no better than chance"):
        run_distillation(DistillConfig.from_options(**student, out=tmp_path / "refused"))
    run = run_distillation(DistillConfig.from_options(**student, insist=True, out=tmp_path / "run"))
    assert "no better than chance" in (run.folder / "plan.json").read_text()
