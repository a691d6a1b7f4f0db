"""The evaluate command: the metrics that are asked for, from one pass, beside a teacher or alone."""

from __future__ import annotations

import json
from io import StringIO

import pytest
import torch
from rich.console import Console
from torch import nn

import angularkd
from angularkd import InputError
from angularkd.cli import main
from angularkd.models import cifar, open_classifier, read_metadata, save_weights

METRICS = ("cka", "attention_similarity", "accuracy")
DATA = {"data": "digits", "image_size": 8, "device": "cpu", "split": "val"}


def test_metrics_of_features_beside_a_teacher_come_from_one_forward_each(digits_teacher) -> None:
    model = str(digits_teacher)
    usual = angularkd.evaluate(**DATA, model=model, teacher=model)["metrics"][model]
    forwards: list[int] = []

    def count(module: nn.Module, inputs: tuple) -> None:
        if type(module).__name__ == network:
            forwards.append(len(inputs[0]))

    network = type(open_classifier(model, 10).module).__name__
    handle = nn.modules.module.register_module_forward_pre_hook(count)
    try:
        found = angularkd.evaluate(**DATA, model=model, teacher=model, metrics=METRICS)
    finally:
        handle.remove()
    figures = found["metrics"][model]
    assert tuple(figures) == METRICS
    assert figures["accuracy"] == usual["accuracy"] > 0.8
    assert figures["cka"] == pytest.approx(1, abs=1e-4), "of a model beside itself"
    assert figures["attention_similarity"] == pytest.approx(1, abs=1e-5)
    teachers = found["metrics"][f"{model} (teacher)"]
    assert teachers["accuracy"] == usual["accuracy"]
    # Both in the pass for the student's metrics, the teacher in one of its own, and one dry forward of two images, for they are alike.
    assert forwards.count(2) == 1 and sum(forwards) == 2 + 3 * found["images"]


def test_an_untrained_teacher_is_less_alike(digits_teacher, tmp_path) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "weights.safetensors"
    save_weights(weights, cifar.create("resnet14", 10), {})
    teacher = {"teacher": "cifar/resnet14", "teacher_weights": str(weights)}
    figures = angularkd.evaluate(**DATA, model=str(digits_teacher), **teacher, metrics=METRICS)["metrics"]
    alike = figures[str(digits_teacher)]
    assert 0 < alike["cka"] < 0.95 and 0 < alike["attention_similarity"] < 0.99


def test_the_command_line_prints_and_writes_the_metrics_that_are_asked_for(digits_teacher, tmp_path, capsys) -> None:
    model, file = str(digits_teacher), tmp_path / "figures.json"
    flags = ["--image-size", "8", "--split", "val", "--device", "cpu", "--json-file", str(file)]
    main(["evaluate", "digits", "--model", model, "--teacher", model, *flags, "--metrics", *METRICS])
    out = capsys.readouterr().out
    assert [out.index(name) for name in METRICS] == sorted(out.index(name) for name in METRICS)
    assert tuple(json.loads(file.read_text())["metrics"][model]) == METRICS


@pytest.mark.parametrize(
    ("metrics", "message"),
    [(("acuracy",), "Did you mean 'accuracy'"), (("cka",), "needs a `teacher`"), (("agreement",), "needs a `teacher`")],
)
def test_metrics_that_cannot_be_computed_are_named(digits_teacher, metrics, message) -> None:
    with pytest.raises(InputError, match=message):
        angularkd.evaluate(**DATA, model=str(digits_teacher), metrics=metrics)


STRUCTURED = ("recall", "confusion", "reliability", "angular_distributions", "corruptions", "timing")


def test_metrics_of_several_numbers_are_written_and_printed_in_80_columns(
    digits_teacher, tmp_path, capsys, monkeypatch
) -> None:
    from angularkd.commands import structures
    from angularkd.metrics import cost

    monkeypatch.setattr(cost, "REPEATS", 2)
    monkeypatch.setenv("COLUMNS", "80")
    model, file = str(digits_teacher), tmp_path / "figures.json"
    found = angularkd.evaluate(**DATA, model=model, teacher=model, metrics=STRUCTURED, json_file=str(file))
    assert json.loads(file.read_text()) == found
    figures = found["metrics"][model]
    assert tuple(figures) == STRUCTURED
    assert len(figures["recall"]) == len(found["classes"]) == len(figures["confusion"]) == 10
    assert sum(map(sum, figures["confusion"])) == found["images"] == sum(figures["reliability"]["equal_mass"]["count"])
    assert len(found["pairs"]) == len(figures["angular_distributions"]["pairs"]) > 0
    assert set(found["pairs"][0]) == {"teacher", "student"}
    file = StringIO()
    structures.print_evaluation(found, "figures.json", Console(file=file, width=80))
    out = file.getvalue()
    tables = [line for line in out.splitlines() if line and line[0] in "┏┃┡│└"]
    assert tables and max(map(len, tables)) <= 80
    assert "reliability, angular_distributions: curves and histograms lie in figures.json" in out
    assert "jpeg_compression" in out and "lowest first" in out
    monkeypatch.setattr(structures, "MOST_CLASSES", 2)
    monkeypatch.setattr(structures, "MOST_ROWS", 3)
    file = StringIO()
    structures.print_evaluation(found, None, Console(file=file, width=80))
    assert "3 of 10, lowest first" in file.getvalue() and "most frequent mistakes first" in file.getvalue()
    assert "are written with --json-file" in file.getvalue()


def test_costs_alone_take_no_pass_over_the_images(digits_teacher, tmp_path) -> None:
    model = str(digits_teacher)
    found = angularkd.evaluate(**DATA, model=model, teacher=model, metrics=("macs", "parameters", "file_mib"))
    figures = found["metrics"][model]
    assert figures == found["metrics"][f"{model} (teacher)"] and "images_per_second" not in found
    assert figures["parameters"] == found["parameters"] and list(figures) == ["macs", "parameters", "file_mib"]
    size = (digits_teacher / "student.safetensors").stat().st_size / 2**20
    assert figures["file_mib"] == pytest.approx(size, rel=0.05)
    assert figures["macs"] > 1e5


def test_a_runs_temperature_is_used_and_one_is_fitted_where_there_is_none(digits_teacher, tmp_path) -> None:
    names = ("nll", "nll_calibrated", "ece_calibrated")
    run, test = str(digits_teacher), {**DATA, "split": "test"}
    results = json.loads((digits_teacher / "results.json").read_text())
    stored = angularkd.evaluate(**test, model=run, metrics=names)
    assert stored["temperature"] == {run: results["temperature"]["last epoch"]}
    for name in names:
        assert stored["metrics"][run][name] == pytest.approx(results["metrics"]["last epoch"][name], rel=1e-4)
    assert "nll_calibrated" in angularkd.evaluate(**test, model=run)["metrics"][run], "it costs nothing"

    described = read_metadata(digits_teacher / "student.safetensors")
    del described["temperature"]
    bare = tmp_path / "bare.safetensors"
    save_weights(bare, open_classifier(run, 10).module, described)
    without = {"model": "cifar/resnet8", "weights": str(bare)}
    fitted = angularkd.evaluate(**test, **without, metrics=names)
    assert fitted["temperature"]["cifar/resnet8"] == pytest.approx(stored["temperature"][run], rel=1e-3)
    assert not any("flatter" in note for note in fitted["notes"])
    usual = angularkd.evaluate(**test, **without)
    assert usual["temperature"] == {} and "nll_calibrated" not in usual["metrics"]["cifar/resnet8"]
    again = angularkd.evaluate(**{**test, "split": "val"}, model=run, metrics=names)
    assert any("flatter" in note for note in again["notes"])
    plain = angularkd.evaluate(**{**test, "split": "val"}, model=run, metrics=("nll",))
    assert not any("flatter" in note for note in plain["notes"])
    assert again["metrics"][run]["nll_calibrated"] < again["metrics"][run]["nll"]


@pytest.mark.parametrize("role", ["model", "teacher"])
def test_weights_that_are_not_finite_are_named(digits_teacher, tmp_path, role) -> None:
    (tmp_path / "own.py").write_text(OVERFLOWING.replace("    return Over", "    model = Over") + BROKEN)
    models = {"model": str(digits_teacher), role: f"{tmp_path / 'own.py'}:build"}
    with pytest.raises(InputError, match=rf"the weights of the {role} .* are not finite, in conv\.weight: they are"):
        angularkd.evaluate(**DATA, **models, metrics=("accuracy",))


BROKEN = """    with torch.no_grad():
        model.conv.weight[0, 0, 0, 0] = float("nan")
    return model
"""
OVERFLOWING = """
import torch
from torch import nn


class Overflowing(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 10)

    def forward(self, images):
        return self.head(torch.exp(1e3 * self.conv(images).mean((2, 3)).abs() + 1e3))


def build():
    return Overflowing()
"""


@pytest.mark.parametrize("role", ["model", "teacher"])
def test_outputs_that_are_not_finite_are_named_and_are_no_result(digits_teacher, tmp_path, role) -> None:
    (tmp_path / "own.py").write_text(OVERFLOWING)
    spec, file = f"{tmp_path / 'own.py'}:build", tmp_path / "figures.json"
    models = {"model": str(digits_teacher), role: spec}
    with pytest.raises(InputError, match=rf"the outputs of the {role} .* are not finite for \d+ of the images"):
        angularkd.evaluate(**DATA, **models, json_file=str(file))
    assert not file.exists()


def test_images_per_second_do_not_count_the_teacher(digits_teacher, tmp_path) -> None:
    (tmp_path / "slow.py").write_text(
        OVERFLOWING.replace("1e3", "0.1").replace("        return", "        time.sleep(0.3)\n        return")
        + "\nimport time\n"
    )
    found = angularkd.evaluate(
        **DATA, model=str(digits_teacher), teacher=f"{tmp_path / 'slow.py'}:build", batch_size=32
    )
    batches = -(-found["images"] // 32)
    assert batches >= 2 and found["images"] / found["images_per_second"] < 0.3 * batches
