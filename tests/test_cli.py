"""The command line: what is documented exists, and bad input is one line with a remedy and exit code 2."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from angularkd import cli
from angularkd.commands.cache import ACTIONS
from angularkd.commands.list import LISTS
from angularkd.config import (
    POSITIONAL,
    CacheInfoConfig,
    DemoConfig,
    DistillConfig,
    EvaluateConfig,
    ExplainConfig,
    ExportConfig,
    PredictConfig,
    ReplayConfig,
    ReportConfig,
    StudyConfig,
    TrainConfig,
)

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]
KINDS = {
    "train": TrainConfig,
    "distill": DistillConfig,
    "plan": DistillConfig,
    "evaluate": EvaluateConfig,
    "cache": DistillConfig,
    "explain": ExplainConfig,
    "predict": PredictConfig,
    "export": ExportConfig,
    "demo": DemoConfig,
    "study": StudyConfig,
    "report": ReportConfig,
    "replay": ReplayConfig,
}


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command, in this process."""
    code = 0
    try:
        cli.main(arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def documented(document: Path) -> list[str]:
    """Every `angularkd ...` line in the code blocks of a document, continuation lines joined, prompts left out."""
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", document.read_text(), re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    commands = [line.strip().removeprefix("$ ").removeprefix(".venv/bin/") for line in lines]
    return [command for command in commands if command.startswith("angularkd ")]


def test_the_documents_show_every_command() -> None:
    shown = {document: {shlex.split(line)[1] for line in documented(document)} for document in DOCUMENTS}
    assert shown[README] >= {"train", "plan", "distill", "evaluate", "predict", "export", "study", "report", "explain"}
    assert set().union(*shown.values()) >= set(cli.COMMANDS) - {"demo"}  # which `make demo` runs


def test_documents_show_commands() -> None:
    found = {document.name: len(documented(document)) for document in DOCUMENTS}
    assert (
        found["README.md"] > 7
        and found["your-data.md"] > 4
        and found["plans.md"] > 3
        and found["losses.md"] > 0
        and found["explain.md"] > 0
    )


@pytest.mark.parametrize(
    ("document", "line"),
    [(document.name, line) for document in DOCUMENTS for line in documented(document)],
)
def test_commands_of_the_documents_parse(document, line, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = DistillConfig.from_options(data="photos", teacher="runs/teacher", student="cifar/resnet20")
    for file in re.findall(r"\S+\.yaml", line):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(config.dump())
    _, command, *arguments = shlex.split(line, comments=True)
    assert command in cli.COMMANDS, document
    if command == "cache":
        action = arguments.pop(0)
        assert action in (*ACTIONS, "info")
        if action == "info":
            cli.parse(CacheInfoConfig, "cache info", arguments)
            return
    if command == "list":
        assert arguments[0] in LISTS and len(arguments) < 3
    else:
        cli.parse(KINDS[command], command, arguments)


def test_the_overview_names_every_command(capsys) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for command in cli.COMMANDS:
        assert f"angularkd {command}" in out
    assert run(capsys)[1] == out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("command", sorted(KINDS))
def test_help_shows_every_option_with_its_meaning(capsys, command) -> None:
    code, out, _ = run(capsys, command, *(["fill"] if command == "cache" else []), "--help-all")
    assert code == 0
    out = out.replace("[no-]", "")
    for name, field in KINDS[command].model_fields.items():
        if name not in POSITIONAL:
            assert f"--{name.replace('_', '-')}" in out
        first_words = " ".join((field.description or "").split()[:2])
        assert first_words in " ".join(out.split()), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distil"], "there is no command 'distil'. Did you mean 'distill'"),
        (["evaluate", "digits", "--model", "cifar/resnet21"], "Did you mean"),
        (["evaluate", "digits", "--model", "cifar/resnet20"], "has no trained weights"),
        (["evaluate", "digts", "--model", "cifar/resnet20"], "Did you mean 'digits'"),
        (["train", "digits", "--model", "cifar/resnet8", "--lr", "-1"], "greater than 0"),
        (["train", "digits", "--model", "cifar/resnet8", "--device", "cuda"], "no CUDA device"),
        (
            ["distill", "digits", "--teacher", "a", "--student", "b", "--loss", "amd"],
            "write amd=auto, or a number, as in amd=1",
        ),
        (["distill", "digits", "--teacher", "a", "--student", "b", "--loss", "adm=1"], "Did you mean 'amd'"),
        (["distill", "digits", "--teacher", "a", "--student", "b", "--loss", "amd=-1"], "a number >= 0 as its weight"),
        (["distill", "digits", "--teacher", "a", "--student", "b", "--loss", "amd=5,grdi=2"], "Did you mean 'grid'"),
        (["train", "digits", "--model", "cifar/resnet8", "--epochs", "one"], "'one'"),
        (["train", "digits", "--model", "cifar/resnet8", "--epochs", "2", "--warmup-epochs", "2"], "give fewer"),
        (["train", "digits", "--model", "cifar/resnet8", "--batch-size", "1"], "at least 2 in training"),
        (["train", "digits"], "model"),
        (["train", "digits", "--model", "cifar/resnet8", "--precision", "16-mixed", "--device", "cpu"], "needs a GPU"),
        (["train", "digits", "--model", "cifar/resnet8", "--out", "/proc/x/y"], "cannot be written to"),
        (["evaluate", "digits", "--model", "a", "--json-file", "/proc/x.json"], "cannot be written to"),
        (["train", "--config", "."], "no configuration file . to read"),
        (["train", "--config", "absent.yaml"], "no configuration file absent.yaml"),
        (["train", "--config"], "--config needs"),
        (["list"], "angularkd: say what to list"),
        (["list", "lossess"], "there is no 'lossess'. Did you mean 'losses'? Or say what to list"),
        (["cache"], "angularkd: say what to do with the cache"),
        (["cache", "fil", "digits"], "there is no 'fil'. Did you mean 'fill'"),
        (["list", "models", "cifar/nothing*"], "no models match"),
    ],
)
def test_bad_input_is_answered_in_one_line(capsys, tmp_path, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert message in err
    assert err.startswith("angularkd:")
    assert err.count("\n") == 1
    assert "pydantic" not in err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_flag_gets_its_nearest(capsys) -> None:
    code, _, err = run(capsys, "train", "digits", "--model", "cifar/resnet8", "--epoch", "3")
    assert code == 2
    assert "has no flag --epoch. Did you mean '--epochs'" in err


def test_an_unknown_key_in_a_file_gets_its_nearest(capsys, tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("data: digits\nmodle: cifar/resnet8\n")
    code, _, err = run(capsys, "train", "--config", str(tmp_path / "a.yaml"))
    assert code == 2
    assert "unknown key 'modle'. Did you mean 'model'" in err


def test_options_that_there_are_stand_in_order(capsys, tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("data: digits\nxyzzy: 1\n")
    err = run(capsys, "train", "--config", str(tmp_path / "a.yaml"))[2]
    valid = err.partition("The valid ones are: ")[2].strip().split(", ")
    assert len(valid) > 20 and valid == sorted(valid)


def test_errors_name_flags(capsys, tmp_path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    code, _, err = run(capsys, "train", "digits", "--model", "cifar/resnet8", "--out", str(tmp_path / "run"))
    assert code == 2
    assert "give another with --out, or go on with --resume" in err and "`" not in err


def test_lists_show_what_there_is(capsys) -> None:
    assert "cifar/resnet56\n" in run(capsys, "list", "models", "cifar/*")[1]
    assert "margin=1.35" in " ".join(run(capsys, "list", "losses", "amd")[1].split())
    assert "parquet:DIR" in run(capsys, "list", "datasets")[1]
    metrics = run(capsys, "list", "metrics", "a*")[1]
    assert "agreement" in metrics and "accuracy" in metrics and "nll" not in metrics


def test_the_installed_command_works_and_prints_a_line_an_epoch_to_a_file(tmp_path) -> None:
    command = [
        sys.executable,
        "-m",
        "angularkd",
        "train",
        "digits",
        "--model",
        "cifar/resnet8",
        "--image-size",
        "8",
    ]
    done = subprocess.run(
        [*command, "--epochs", "2", "--out", str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert all("images/s" in line and "val " in line and "ce " in line and " left" in line for line in lines)
    assert "\x1b[" not in done.stdout
    assert f"run folder: {tmp_path / 'run'}" in done.stdout
