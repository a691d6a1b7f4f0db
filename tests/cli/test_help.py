"""The help: what matters first and in groups, all of it on request, within the terminal's width, without loading torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from angularkd import cli, config
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
    VerifyConfig,
    with_flags,
)
from angularkd.config.groups import FIRST, GROUPS, MAIN
from angularkd.errors import InputError

KINDS = {
    "train": TrainConfig,
    "distill": DistillConfig,
    "plan": DistillConfig,
    "evaluate": EvaluateConfig,
    "cache fill": DistillConfig,
    "cache verify": VerifyConfig,
    "cache info": CacheInfoConfig,
    "explain": ExplainConfig,
    "predict": PredictConfig,
    "export": ExportConfig,
    "demo": DemoConfig,
    "study": StudyConfig,
    "report": ReportConfig,
    "replay": ReplayConfig,
}
WITH_SHORT_HELP = [command for command in KINDS if command.split()[0] in FIRST and command != "cache info"]


def shown(capsys, monkeypatch, command: str, flag: str, width: int = 80) -> str:
    """Return the help of a command in a terminal of some width."""
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit) as stop:
        cli.main([*command.split(), flag])
    assert not stop.value.code
    return capsys.readouterr().out


def flags(text: str) -> list[str]:
    """Return the options that a help has an entry for."""
    return [line.split()[0].replace("[no-]", "") for line in text.splitlines() if line.startswith(("  -", "  DATA"))]


@pytest.mark.parametrize("command", WITH_SHORT_HELP)
def test_the_short_help_shows_ten_options_at_most_beside_what_is_required(capsys, monkeypatch, command) -> None:
    fields = KINDS[command].model_fields
    required = [name for name, field in fields.items() if field.is_required()]
    text = shown(capsys, monkeypatch, command, "--help")
    assert len(required) < len(flags(text)) <= len(required) + 10
    rest = len(fields) - len(flags(text))
    assert f"{rest} more options: angularkd {command} --help-all" in " ".join(text.split())
    assert shown(capsys, monkeypatch, command, "-h") == text


@pytest.mark.parametrize("command", sorted(KINDS))
@pytest.mark.parametrize("width", [80, 120])
def test_the_whole_help_shows_every_option_once_within_the_width(capsys, monkeypatch, command, width) -> None:
    text = shown(capsys, monkeypatch, command, "--help-all", width)
    written = {f"--{name.replace('_', '-')}" for name in KINDS[command].model_fields if name not in POSITIONAL}
    found = [flag for flag in flags(text) if flag.startswith("--")]
    assert set(found) == written and len(found) == len(written)
    assert max(map(len, text.splitlines())) <= width
    assert "default: None" not in text and "None" not in text.replace("NoneType", "")
    assert f"usage: angularkd {command} " in text


def test_options_stand_in_groups_in_one_order(capsys, monkeypatch) -> None:
    text = shown(capsys, monkeypatch, "distill", "--help-all")
    headings = [line for line in text.splitlines() if line in GROUPS]
    assert headings == ["Main", "Objective", "Recipe", "Data", "Teacher", "Student", "Cache", "Machine"]
    assert text.index("--teacher SPEC") < text.index("--student SPEC") < text.index("\nObjective\n")
    assert text.index("\nCache\n") < text.index("--cache-views N") < text.index("\nMachine\n")


@pytest.mark.parametrize("kind", [TrainConfig, DistillConfig, VerifyConfig])
def test_every_option_of_a_run_has_one_group(kind) -> None:
    rows = [name for row in GROUPS.values() for name in row]
    assert len(rows) == len(set(rows))
    assert set(kind.model_fields) <= set(rows), f"give these a row in GROUPS, or {MAIN}'s"


def test_groups_and_first_name_options_that_there_are() -> None:
    kinds = [one for one in vars(config).values() if isinstance(one, type) and issubclass(one, config.Config)]
    known = {name for kind in kinds for name in kind.model_fields}
    assert {name for row in GROUPS.values() for name in row} <= known
    for command in WITH_SHORT_HELP:
        if command != "cache fill":
            assert set(FIRST[command.split()[0]]) <= set(KINDS[command].model_fields), command


def test_the_help_says_defaults_and_ranges_which_are_those_of_the_configuration(capsys, monkeypatch) -> None:
    out = " ".join(shown(capsys, monkeypatch, "train", "--help-all").split())
    assert "--epochs N Passes over the training images. (default: 100; above 0, at most 100,000)" in out
    assert "--momentum X Momentum of sgd. (default: 0.9; at least 0, below 1)" in out
    assert "--image-size N [N] Height" in out and "--[no-]nesterov" in out and "--out PATH" in out
    assert "--schedule cosine|onecycle|step|constant" in out and "usage: angularkd train DATA --model SPEC" in out


def test_a_file_changes_the_defaults_that_are_shown(capsys, monkeypatch, tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("data: digits\nmodel: cifar/resnet8\nepochs: 7\n")
    with pytest.raises(SystemExit):
        cli.main(["train", "--config", str(tmp_path / "a.yaml"), "--help"])
    assert "(default: 7; above 0" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("arguments", [["--help"], ["distill", "--help"], ["distill", "--help-all"]])
def test_help_loads_no_torch(arguments) -> None:
    code = (
        "import sys\nfrom angularkd import cli\n"
        f"try:\n    cli.main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'timm', 'sklearn', 'lightning_fabric') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("kind", [TrainConfig, DistillConfig, EvaluateConfig, ExplainConfig, ExportConfig, DemoConfig])
def test_what_is_wrong_with_a_value_names_its_flag_once(kind) -> None:
    required = {name: "a" for name, field in kind.model_fields.items() if field.is_required()}
    refused = 0
    for name in kind.model_fields:
        for value in (-1, 10**12, "", (), True, "x" * 5000, 0.5, None, [[1]]):
            try:
                kind.from_options(**{**required, name: value})
            except InputError as error:
                line = with_flags(str(error))
                flag = name.upper() if name in POSITIONAL else f"--{name.replace('_', '-')}"
                refused += 1
                for part in line.split("; "):
                    assert part.count(f"{flag} ") + part.count(f"{flag}:") <= 1, line
                    assert f"{flag}: {name} " not in part and "`" not in part, line
    assert refused > 5
