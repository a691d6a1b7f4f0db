"""Code runs from a SPEC that the user named, or from a file that is trusted by name; never because some other file names it."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest
import yaml

import angularkd
from angularkd import InputError
from angularkd.cli import main
from angularkd.models import open_classifier, read_metadata, save_weights
from helpers import DIGITS

CODE = """
from pathlib import Path
import torch
Path({ran!r}).write_text("ran")
def net(num_classes):
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 8, 3, 2, 1),
                               torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, num_classes))
"""
LOSSES = {"ce": 1.0, "amd": 1.0}


@pytest.fixture
def ran(tmp_path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def code(tmp_path, ran) -> Path:
    (tmp_path / "gift").mkdir()
    file = tmp_path / "gift/extra.py"
    file.write_text(CODE.format(ran=str(ran)))
    return file


@pytest.fixture
def gift(code, ran) -> Path:
    """A stranger's run folder, whose model is code beside it."""
    spec = f"{code}:net"
    metadata = {"model": spec, "classes": [str(k) for k in range(10)], "mean": [0.5] * 3, "std": [0.5] * 3}
    save_weights(code.parent / "student.safetensors", open_classifier(spec, 10).module, metadata)
    ran.unlink()
    return code.parent


def commands(gift: Path, image: Path) -> dict:
    base = {"data": "digits", "image_size": 8, "device": "cpu"}
    pair = {"teacher": "cifar/resnet8", "student": "cifar/resnet8"}
    return {
        "evaluate": lambda **more: angularkd.evaluate(**base, model=str(gift), **more),
        "evaluate teacher": lambda **more: angularkd.evaluate(
            **base, model=str(gift.parent / "good"), teacher=str(gift), **more
        ),
        "train": lambda **more: angularkd.train(
            **base, model=str(gift), out=str(gift.parent / "out"), epochs=1, **more
        ),
        "plan": lambda **more: angularkd.plan(**base, **{**pair, "teacher": str(gift)}, loss=LOSSES, **more),
        "plan student": lambda **more: angularkd.plan(
            **base,
            **{**pair, "teacher": str(gift.parent / "good"), "student": str(gift)},
            loss={"ce": 1, "kd": 1},
            **more,
        ),
        "explain": lambda **more: angularkd.explain(
            **{**pair, "teacher": str(gift)}, image=str(image), out=str(gift.parent / "a.png"), **more
        ),
    }


COMMANDS = ("evaluate", "evaluate teacher", "train", "plan", "plan student", "explain")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_strangers_folder_runs_no_code_unless_its_file_is_trusted(command, gift, ran, digits_teacher) -> None:
    from PIL import Image

    shutil.copytree(digits_teacher, gift.parent / "good")
    Image.new("RGB", (8, 8), "red").save(gift.parent / "red.png")
    call = commands(gift, gift.parent / "red.png")[command]
    for trust in ((), (str(gift / "other.py"),)):
        with pytest.raises(
            InputError, match=r"extra\.py:net, and to open it would run the code in .*extra\.py"
        ) as caught:
            call(trust=trust)
        assert "`trust=" in str(caught.value) and "\n" not in str(caught.value)
    assert not ran.exists()
    with contextlib.suppress(InputError):  # an untrained network is no teacher
        call(trust=gift / "extra.py" if command == "evaluate" else str(gift / "extra.py"))
    assert ran.exists()


def test_a_configuration_runs_no_code_that_the_command_does_not_name(code, ran, capsys, tmp_path) -> None:
    file = tmp_path / "c.yaml"
    options = {**DIGITS, "model": f"{code}:net", "epochs": 1}
    file.write_text(yaml.safe_dump(options))
    run = ["train", "--config", str(file), "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        main(run)
    told = capsys.readouterr().err
    assert "names the model" in told and f"--trust {code}" in told and told.count("\n") == 1
    file.write_text(yaml.safe_dump({**options, "trust": [str(code)]}))
    with pytest.raises(SystemExit):
        main(run)
    assert "leave it out there" in capsys.readouterr().err
    assert not ran.exists() and not (tmp_path / "run").exists()
    file.write_text(yaml.safe_dump(options))
    main([*run, "--trust", str(code)])
    main([*run[:3], "--model", f"{code}:net", "--out", str(tmp_path / "other")])
    assert ran.exists()
    assert "trust" not in yaml.safe_load((tmp_path / "run/config.yaml").read_text())


def test_ones_own_run_is_usable_and_goes_on_where_its_model_is_named(code, tmp_path) -> None:
    folder = str(tmp_path / "run")
    options = {**DIGITS, "model": f"{code}:net", "epochs": 1, "out": folder}
    angularkd.train(**options)
    assert read_metadata(tmp_path / "run/student.safetensors")["model"] == f"{code}:net"
    angularkd.train(**options, resume=True)
    angularkd.train(**options, resume=True, trust=str(code))  # it is the same run
    metrics = angularkd.evaluate(data="digits", model=folder, device="cpu", trust=[str(code)])["metrics"]
    assert folder in metrics
    fitted = angularkd.distill(
        **DIGITS,
        teacher=f"{code}:net",
        student="cifar/resnet8",
        teacher_train=8,
        teacher_train_what="all",
        epochs=1,
        loss=LOSSES,
        insist=True,
        out=str(tmp_path / "fitted"),
    )
    assert (fitted.folder / "teacher/student.safetensors").is_file()


def test_a_file_that_is_not_there_is_said_rather_than_asked_for(gift) -> None:
    (gift / "extra.py").unlink()
    with pytest.raises(InputError, match="there is no file"):
        open_classifier(str(gift), 10)
