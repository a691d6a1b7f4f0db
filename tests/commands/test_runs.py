"""Whole runs on the embedded digits: files, figures, repetition, resumption, and what stops them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

import angularkd
from angularkd import InputError
from angularkd.losses.logit import CrossEntropy
from angularkd.models import cifar, fingerprint, save_weights
from angularkd.models.weights import read_metadata
from angularkd.training import Silent, build
from helpers import DIGITS as SMALL
from helpers import same
from helpers import saved_weights as weights

LOSSES = {"ce": 0.1, "kd": 0.9, "amd": 50.0}


@pytest.fixture(scope="module")
def teacher(digits_teacher) -> Path:
    return digits_teacher


def options(teacher: Path, out: Path, **more) -> dict:
    return {
        **SMALL,
        "teacher": str(teacher),
        "student": "cifar/resnet8",
        "loss": LOSSES,
        "epochs": 2,
        "out": str(out),
        **more,
    }


@pytest.fixture(scope="module")
def run(teacher, tmp_path_factory) -> angularkd.Run:
    return angularkd.distill(**options(teacher, tmp_path_factory.mktemp("runs") / "a", clip_norm=5.0))


def test_a_distillation_leaves_the_files_of_a_run(run, teacher) -> None:
    files = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_file()}
    assert files == {
        "config.yaml",
        "plan.json",
        "metrics.jsonl",
        "checkpoints/last.ckpt",
        "checkpoints/previous.ckpt",
        "checkpoints/best.safetensors",
        "student.safetensors",
        "results.json",
    }
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    for row in rows:
        assert row["loss"] == pytest.approx(row["ce"] + row["kd"] + row["amd"], rel=1e-4)
        assert {"lr", "step", "images_per_second", "train_accuracy", "val_accuracy", "val_nll", "val_ece"} <= set(row)
    results = json.loads((run.folder / "results.json").read_text())
    assert results == run.results
    assert set(results["metrics"]) == {"last epoch", "selected epoch", "teacher"}
    assert results["metrics"]["last epoch"]["accuracy"] > 0.5
    assert results["metrics"]["teacher"]["accuracy"] > 0.8
    assert results["selected_validation_accuracy"] == max(row["val_accuracy"] for row in rows)


def test_the_student_alone_is_enough_to_use_it(run) -> None:
    metadata = read_metadata(run.folder / "student.safetensors")
    assert metadata["model"] == "cifar/resnet8"
    assert metadata["classes"] == [str(digit) for digit in range(10)]
    assert metadata["image_size"] == [8, 8]
    measured = angularkd.evaluate(data="digits", model=str(run.folder), device="cpu")  # at the size it was trained on
    expected = {k: v for k, v in run.results["metrics"]["last epoch"].items() if k not in ("agreement", "divergence")}
    assert measured["metrics"][str(run.folder)] == pytest.approx(expected, rel=1e-5)


def test_evaluation_beside_the_teacher(run, teacher, tmp_path) -> None:
    file = tmp_path / "figures.json"
    measured = angularkd.evaluate(
        data="digits", model=str(run.folder), teacher=str(teacher), device="cpu", json_file=str(file)
    )
    expected = run.results["metrics"]
    assert measured["metrics"][str(run.folder)] == pytest.approx(expected["last epoch"], rel=1e-4)
    assert measured["metrics"][f"{teacher} (teacher)"] == pytest.approx(expected["teacher"], rel=1e-5)
    assert json.loads(file.read_text()) == measured


def test_an_evaluation_takes_as_many_images_as_there_is_room_for(run, monkeypatch) -> None:
    wanted = {"data": "digits", "image_size": 8, "model": str(run.folder), "device": "cpu"}
    usual = angularkd.evaluate(**wanted)
    asked = []
    monkeypatch.setattr(build, "largest_batch", lambda predict, size, device, least: asked.append((size, least)) or 300)
    at_once = angularkd.evaluate(**wanted)
    assert asked == [((8, 8), 128)]
    accuracies = [next(iter(found["metrics"].values()))["accuracy"] for found in (usual, at_once)]
    assert accuracies[0] == accuracies[1]


def test_the_teacher_is_the_same_afterwards_and_in_no_checkpoint(run, teacher) -> None:
    model = cifar.create("resnet8", 10)
    model.load_state_dict(weights(teacher))
    assert run.results["teacher_fingerprint"] == fingerprint(model)
    checkpoint = torch.load(run.folder / "checkpoints/last.ckpt", weights_only=True)
    assert set(checkpoint["distiller"]) == {f"student.{name}" for name in model.state_dict()}


def test_the_plan_shows_what_will_happen(run, teacher) -> None:
    plan = json.loads((run.folder / "plan.json").read_text())
    assert [(p["teacher"], p["student"], p["compared_at"]) for p in plan["pairs"]] == [
        ("layer1", "layer1", [8, 8]),
        ("layer2", "layer2", [4, 4]),
        ("layer3", "layer3", [2, 2]),
    ]
    assert plan["teacher_validation"]["accuracy"] > 0.8
    assert sum(plan["gradient_share"].values()) == pytest.approx(1)
    assert plan["images_per_second"] > 0
    assert plan["data"]["train"] + plan["data"]["val"] + plan["data"]["test"] == 1797


def test_planning_changes_nothing_and_writes_nothing(run, teacher, tmp_path) -> None:
    found = angularkd.plan(**options(teacher, tmp_path / "never"))
    assert found.pairs == json.loads((run.folder / "plan.json").read_text())["pairs"]
    assert list(tmp_path.iterdir()) == []


def test_the_same_seed_gives_the_same_weights_bit_for_bit(run, teacher, tmp_path) -> None:
    again = angularkd.distill(**options(teacher, tmp_path / "b", clip_norm=5.0))
    assert same(weights(again.folder), weights(run.folder))
    other = angularkd.distill(**options(teacher, tmp_path / "c", clip_norm=5.0, seed=1))
    assert not same(weights(other.folder), weights(run.folder))


def test_the_written_configuration_repeats_the_run(run, tmp_path) -> None:
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert config["lr"] == 0.1
    assert config["image_size"] == [8, 8]
    assert "out" not in config
    again = angularkd.distill(**config, out=str(tmp_path / "again"))
    assert same(weights(again.folder), weights(run.folder))


@pytest.mark.parametrize("stop_at", ["epoch", "step"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_stopped_run_goes_on_and_ends_with_the_same_weights(
    teacher, tmp_path, monkeypatch, stop_at, optimizer
) -> None:
    learned = {"vid": 0.1, "crd": {"weight": 0.1, "num_negatives": 20}} if optimizer == "adamw" else {}
    more = {"optimizer": optimizer, "epochs": 3, "augment": ("crop", "flip"), "loss": {**LOSSES, **learned}}
    whole = angularkd.distill(**options(teacher, tmp_path / "whole", **more))

    def stop_in_the_second_epoch(self: Silent, *arguments) -> None:
        if stop_at == "step" and arguments[:2] == (1, 5):
            raise KeyboardInterrupt
        if stop_at == "epoch" and arguments[0]["epoch"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Silent, stop_at, stop_in_the_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            angularkd.distill(**options(teacher, tmp_path / "stopped", **more))
    assert not (tmp_path / "stopped/student.safetensors").exists()
    torch.manual_seed(99)
    resumed = angularkd.distill(**options(teacher, tmp_path / "stopped", **more), resume=True)
    assert same(weights(resumed.folder), weights(whole.folder))
    best = "checkpoints/best.safetensors"
    assert same(weights(resumed.folder, best), weights(whole.folder, best))
    assert resumed.results["metrics"] == whole.results["metrics"]
    rows = [json.loads(line) for line in (resumed.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(teacher, tmp_path, monkeypatch) -> None:
    forward, calls = CrossEntropy.forward, []

    def broken(self, *arguments) -> Tensor:
        calls.append(1)
        value = forward(self, *arguments)
        return value * float("nan") if len(calls) > 40 else value

    monkeypatch.setattr(CrossEntropy, "forward", broken)
    with pytest.raises(
        InputError,
        match=r"not finite in epoch 2, at step \d+: the loss ce is not finite.*the last checkpoint stays as it was",
    ):
        angularkd.distill(**options(teacher, tmp_path / "nan", epochs=9))
    checkpoint = torch.load(tmp_path / "nan/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["state"]["epoch"] == 1
    assert all(value.isfinite().all() for value in checkpoint["distiller"].values())
    assert not (tmp_path / "nan/student.safetensors").exists()


def test_a_last_step_that_ruins_the_weights_is_not_saved(tmp_path) -> None:
    with pytest.raises(InputError, match="not finite on the validation images after epoch 1"):
        angularkd.train(
            **{**SMALL, "batch_size": 2000}, model="cifar/resnet8", epochs=3, lr=1e9, out=str(tmp_path / "ruin")
        )
    assert not (tmp_path / "ruin/checkpoints").exists()


def test_a_folder_with_a_run_is_left_alone(run, teacher) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    with pytest.raises(InputError, match="exists and is not empty: give another with `out`, or go on with `resume`"):
        angularkd.distill(**options(teacher, run.folder))
    with pytest.raises(InputError, match=r"was started with other options \(epochs\)"):
        angularkd.distill(**options(teacher, run.folder, clip_norm=5.0, epochs=7), resume=True)
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before


def test_there_must_be_something_to_resume(teacher, tmp_path) -> None:
    with pytest.raises(InputError, match="no run to resume"):
        angularkd.distill(**options(teacher, tmp_path / "none"), resume=True)


def test_a_damaged_checkpoint_is_refused(run, teacher, tmp_path) -> None:
    folder = tmp_path / "damaged"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/last.ckpt").write_bytes((run.folder / "checkpoints/last.ckpt").read_bytes()[:-500])
    with pytest.raises(InputError, match="is damaged"):
        angularkd.distill(**options(teacher, folder, clip_norm=5.0), resume=True)


def untrained(tmp_path: Path, classes: int) -> str:
    torch.manual_seed(3)
    save_weights(tmp_path / "weights.safetensors", cifar.create("resnet8", classes), {})
    return str(tmp_path / "weights.safetensors")


def test_a_teacher_no_better_than_chance_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="no better than chance"):
        angularkd.distill(**options("cifar/resnet8", tmp_path / "run"), teacher_weights=untrained(tmp_path, 10))
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_classes_teaches_its_maps_alone(tmp_path) -> None:
    base = options("cifar/resnet8", tmp_path / "run", teacher_weights=untrained(tmp_path, 7))
    with pytest.raises(InputError, match=r"the teacher tells apart 7 classes, the data has 10: .*`loss=ce=1`"):
        angularkd.distill(**base)
    assert not (tmp_path / "run").exists()
    done = angularkd.distill(**{**base, "loss": {"ce": 1.0, "amd": 10.0}, "epochs": 1})
    plan = json.loads((done.folder / "plan.json").read_text())
    assert any("its maps teach, its logits do not" in note for note in plan["notes"])
    assert plan["teacher_validation"] == {}


def test_a_teacher_without_weights_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="has no trained weights: give a file as `teacher_weights`"):
        angularkd.distill(**options("cifar/resnet8", tmp_path / "run"))
    with pytest.raises(InputError, match="has no trained weights: give a file as `weights`"):
        angularkd.evaluate(data="digits", model="cifar/resnet8")


def test_training_starts_from_weights_and_needs_leave_for_a_new_head(tmp_path) -> None:
    base = {**SMALL, "model": "cifar/resnet8", "weights": untrained(tmp_path, 7), "epochs": 1}
    with pytest.raises(InputError, match="7 classes, the data has 10: give `new_head`"):
        angularkd.train(**base, out=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    done = angularkd.train(**base, out=str(tmp_path / "run"), new_head=True, label_smoothing=0.1)
    assert done.results["metrics"]["last epoch"]["accuracy"] > 0.2


def test_half_precision_trains(teacher, tmp_path) -> None:
    done = angularkd.distill(**options(teacher, tmp_path / "bf16", precision="bf16-mixed", epochs=2))
    assert done.results["metrics"]["last epoch"]["accuracy"] > 0.5
    assert all(value.dtype != torch.bfloat16 for value in weights(done.folder).values())


def test_a_run_without_a_checkpoint_is_resumed_with_the_same_options_only(teacher, tmp_path, monkeypatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Silent, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            angularkd.distill(**options(teacher, tmp_path / "run", epochs=1))
    before = (tmp_path / "run/config.yaml").read_text()
    with pytest.raises(InputError, match=r"was started with other options \(command\)"):
        angularkd.train(**SMALL, model="cifar/resnet8", epochs=1, out=str(tmp_path / "run"), resume=True)
    with pytest.raises(InputError, match=r"was started with other options \(epochs\):"):
        angularkd.distill(**options(teacher, tmp_path / "run", epochs=2), resume=True)
    assert (tmp_path / "run/config.yaml").read_text() == before
    assert angularkd.distill(**options(teacher, tmp_path / "run", epochs=1), resume=True).results["epochs"] == 1


def folder_of_images(root: Path, counts: dict[str, int], size: int = 12) -> Path:
    generator = torch.Generator().manual_seed(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = torch.randint(0, 256, (size, size, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(root / name / f"{i}.png")
    return root


def test_the_default_folder_of_a_run_may_lie_among_the_images(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, level in (("cat", 50), ("dog", 200)):
        Path(name).mkdir()
        for i in range(20):
            Image.new("RGB", (8, 8), (level + i,) * 3).save(f"{name}/{i}.png")
    finished = angularkd.train(data=".", model="cifar/resnet8", epochs=1, device="cpu")
    assert finished.folder.is_relative_to("runs") and (finished.folder / "student.safetensors").is_file()


def test_a_broken_test_image_is_found_before_training(tmp_path) -> None:
    data = tmp_path / "data"
    folder_of_images(data / "train", {"a": 20, "b": 20})
    folder_of_images(data / "test", {"a": 3, "b": 3})
    broken = data / "test/b/1.png"
    broken.write_bytes(broken.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"cannot decode .*test/b/1\.png"):
        angularkd.train(data=str(data), model="cifar/resnet8", epochs=1, out=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_model_of_the_same_classes_in_another_order_is_refused(run, tmp_path) -> None:
    metadata = read_metadata(run.folder / "student.safetensors")
    model = cifar.create("resnet8", 10)
    save_weights(tmp_path / "student.safetensors", model, {**metadata, "classes": metadata["classes"][::-1]})
    with pytest.raises(InputError, match=r"same classes in another order \(9, 8, 7"):
        angularkd.evaluate(data="digits", model=str(tmp_path))


def test_a_model_of_ones_own_must_give_logits(tmp_path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\ndef build():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 7))\n"
    )
    base = {**SMALL, "model": f"{file}:build", "out": str(tmp_path / "run")}
    with pytest.raises(InputError, match="tells apart 7 classes, the data has 10"):
        angularkd.train(**base)
    with pytest.raises(InputError, match="cannot take images of 9x9"):
        angularkd.train(**{**base, "image_size": 9})
    assert not (tmp_path / "run").exists()


def test_a_finished_model_is_tuned_for_other_classes_with_a_new_head(teacher, tmp_path) -> None:
    data = folder_of_images(tmp_path / "data", {"a": 30, "b": 30}, size=8)
    base = {"data": str(data), "model": str(teacher), "epochs": 1, "batch_size": 16, "out": str(tmp_path / "run")}
    with pytest.raises(InputError, match="give `new_head`"):
        angularkd.train(**base)
    done = angularkd.train(**base, new_head=True)
    assert read_metadata(done.folder / "student.safetensors")["classes"] == ["a", "b"]


def test_a_pretrained_teacher_reaches_the_accuracy_stated_beside_its_weights(shared_folder) -> None:
    weights_file = shared_folder / "weights/cifar10_resnet20_akamaster.safetensors"
    stated = json.loads(weights_file.with_suffix(".json").read_text())["accuracy"]
    found = angularkd.evaluate(
        data=f"parquet:{shared_folder / 'data/cifar10'}", model="cifar/resnet20", weights=weights_file, device="cpu"
    )
    accuracy = 100 * found["metrics"]["cifar/resnet20"]["accuracy"]
    assert accuracy == pytest.approx(stated["measured_top1_data/cifar10/test.parquet"], abs=0.1)
    assert found["images"] == 10_000
