"""The predict command: classes and probabilities of files and folders, or one line."""

from __future__ import annotations

import json

import pytest
from PIL import Image

import angularkd
from angularkd.cli import main


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    (folder / "inside").mkdir(parents=True)
    for name, grey in (("a.png", 0), ("inside/b.jpg", 200)):
        Image.new("RGB", (12, 9), (grey, grey, grey)).save(folder / name)
    (folder / "notes.txt").write_text("mine")
    return folder


def test_it_prints_and_writes_what_load_predicts(capsys, digits_teacher, photographs, tmp_path) -> None:
    file = tmp_path / "found.json"
    main(["predict", str(digits_teacher), str(photographs), "--top", "2", "--json-file", str(file), "--device", "cpu"])
    found = json.loads(file.read_text())
    assert [row["image"] for row in found] == [str(photographs / "a.png"), str(photographs / "inside/b.jpg")]
    expected = angularkd.load(digits_teacher, device="cpu").predict([row["image"] for row in found])
    for row, one in zip(found, expected, strict=True):
        assert row["classes"] == pytest.approx(one.top(2), abs=1e-6)
    out = capsys.readouterr().out
    assert f"{expected[0].probability:.2%}" in out and "b.jpg" in out


def test_probabilities_are_calibrated_unless_that_is_turned_off_and_it_says_so(
    capsys, digits_teacher, photographs
) -> None:
    said = {}
    for flags in ((), ("--no-calibrated",)):
        main(["predict", str(digits_teacher), str(photographs / "a.png"), "--device", "cpu", *flags])
        said[flags] = " ".join(capsys.readouterr().out.split())
    calibrated, plain = (angularkd.load(digits_teacher, device="cpu", calibrated=which) for which in (True, False))
    assert (
        f"logits are divided by {calibrated.temperature:.4g}" in said[()]
        and "calibrated" not in said["--no-calibrated",]
    )
    for text, classifier in zip(said.values(), (calibrated, plain), strict=True):
        assert f"{classifier.predict(photographs / 'a.png').probability:.2%}" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN"], "IMAGES is required"),
        (["RUN", "nowhere.png"], "there is no image nowhere.png"),
        (["RUN", __file__], "cannot decode"),
        (["RUN", "empty"], "the folder empty holds no images"),
        (["nowhere", __file__], "there is no run nowhere"),
        (["empty", __file__], "empty holds no student.safetensors"),
        (["RUN", __file__, "--top", "0"], "greater than 0"),
        (["RUN", __file__, "--device", "cuda"], "no CUDA device"),
        (["RUN", __file__, "--json-file", "empty"], "is a folder"),
    ],
)
def test_bad_input_is_answered_in_one_line(capsys, digits_teacher, tmp_path, monkeypatch, arguments, message) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as stop:
        main(["predict", *(str(digits_teacher) if word == "RUN" else word for word in arguments)])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and message in err and err.count("\n") == 1
