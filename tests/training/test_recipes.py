"""The optimiser and its rates where they are not given: by what is trained, shown, and stored as numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import angularkd
from angularkd.config import TrainConfig
from angularkd.training.recipes import HEAD, PRETRAINED, SCRATCH, recipe_note, trained_part, with_recipe
from helpers import DIGITS, distillation_job, training_job


def config(**options: Any) -> TrainConfig:
    return TrainConfig(data="digits", model="cifar/resnet8", **options)


def test_parts() -> None:
    assert trained_part(pretrained=False, only_head=False) is SCRATCH
    assert trained_part(pretrained=True, only_head=False) is PRETRAINED
    assert trained_part(pretrained=True, only_head=True) is HEAD


@pytest.mark.parametrize(
    ("part", "given", "expected"),
    [
        (SCRATCH, {}, ("sgd", 0.1, 5e-4)),
        (HEAD, {}, ("adamw", 3e-3, 0.05)),
        (PRETRAINED, {}, ("adamw", 1e-3, 0.05)),
        (HEAD, {"optimizer": "sgd"}, ("sgd", 0.01, 5e-4)),
        (PRETRAINED, {"optimizer": "sgd"}, ("sgd", 3e-3, 5e-4)),
        (SCRATCH, {"optimizer": "adamw"}, ("adamw", 1e-3, 0.05)),
        (HEAD, {"lr": 0.2}, ("sgd", 0.2, 5e-4)),
        (HEAD, {"optimizer": "adamw", "lr": 0.2, "weight_decay": 0.0}, ("adamw", 0.2, 0.0)),
        (HEAD, {"weight_decay": 0.0}, ("adamw", 3e-3, 0.0)),
    ],
)
def test_what_is_given_stays_and_the_rest_suits_what_is_trained(part, given, expected) -> None:
    found = with_recipe(config(**given), part)
    assert (found.optimizer, found.lr, found.weight_decay) == expected
    assert with_recipe(found, SCRATCH) == found, "resolved numbers repeat it"


def test_the_note_says_who_chose() -> None:
    given = config(optimizer="adamw", lr=0.2)
    assert recipe_note(given, with_recipe(given, HEAD), HEAD).endswith("weight decay 0.05, as given")
    note = recipe_note(config(), with_recipe(config(), HEAD), HEAD)
    assert note.startswith("recipe: adamw, peak learning rate 0.003") and "the classification layer alone" in note


def test_the_linear_rule_scales_the_rate_once_and_says_so() -> None:
    given = config(batch_size=256, accumulate=2, lr_scaling="linear")
    found = with_recipe(given, SCRATCH)
    assert (found.lr, found.lr_scaling) == (pytest.approx(0.4), "none")
    assert with_recipe(found, SCRATCH) == found
    note = recipe_note(given, found, SCRATCH)
    assert "peak learning rate 0.4" in note and "0.1 times 512 images a step over 128" in note
    assert with_recipe(config(lr=0.2, batch_size=64, lr_scaling="linear"), SCRATCH).lr == pytest.approx(0.1)


def test_a_run_resolves_it(digits_teacher: Path) -> None:
    scratch = training_job(**DIGITS, model="cifar/resnet8")
    head = training_job(**DIGITS, model=str(digits_teacher), train_only_head=True)
    whole = training_job(**DIGITS, model=str(digits_teacher))
    for job, optimizer, lr in ((scratch, "sgd", 0.1), (head, "adamw", 3e-3), (whole, "adamw", 1e-3)):
        assert (job.config.optimizer, job.config.lr) == (optimizer, lr)
        assert job.optimizer.defaults["lr"] == lr and type(job.optimizer).__name__.lower() == optimizer
        assert [note for note in job.notes if note.startswith(f"recipe: {optimizer}, peak learning rate {lr:g}")]


def test_a_teachers_fit_and_its_student_have_recipes_of_their_own(digits_teacher: Path, tmp_path: Path) -> None:
    options = {**DIGITS, "teacher": str(digits_teacher), "student": "cifar/resnet8", "epochs": 1, "teacher_train": 1}
    run = angularkd.distill(**options, lr=0.05, out=tmp_path / "run")
    stored = yaml.safe_load((run.folder / "config.yaml").read_text())
    fitted = yaml.safe_load((run.folder / "teacher/config.yaml").read_text())
    assert (stored["optimizer"], stored["lr"]) == ("sgd", 0.05)
    assert (fitted["optimizer"], fitted["lr"], fitted["weight_decay"]) == ("adamw", 3e-3, 0.05)
    assert {key: stored[f"teacher_train_{key}"] for key in ("optimizer", "lr", "weight_decay")} == {
        key: fitted[key] for key in ("optimizer", "lr", "weight_decay")
    }


def test_a_student_of_other_classes_gets_a_new_head(digits_teacher: Path, tmp_path: Path) -> None:
    ten = str(digits_teacher / "student.safetensors")
    images(tmp_path / "data", classes=3)
    teacher = angularkd.train(
        data=str(tmp_path / "data"), image_size=8, model="cifar/resnet8", epochs=1, device="cpu", out=tmp_path / "t"
    )
    job = distillation_job(
        data=str(tmp_path / "data"),
        image_size=8,
        device="cpu",
        teacher=str(teacher.folder),
        student="cifar/resnet8",
        student_weights=ten,
    )
    assert job.student.num_classes == 3 and job.config.optimizer == "adamw" and job.config.lr == 1e-3
    assert [note for note in job.notes if "tell apart 10 classes: the classification layer starts anew, for 3" in note]


def test_weights_that_a_library_does_not_offer_are_refused(digits_teacher: Path) -> None:
    with pytest.raises(angularkd.InputError, match="give a file as `student_weights`, not `student_pretrained`"):
        distillation_job(**DIGITS, teacher=str(digits_teacher), student="cifar/resnet8", student_pretrained=True)


def images(folder: Path, classes: int) -> None:
    """Write a few images of each class, all alike but for their shade."""
    from PIL import Image

    for split in ("train", "val", "test"):
        for label in range(classes):
            (folder / split / f"class{label}").mkdir(parents=True)
            for shade in range(8):
                image = Image.new("RGB", (8, 8), (80 * label + shade, 40, 200 - shade))
                image.save(folder / split / f"class{label}" / f"{shade}.png")
