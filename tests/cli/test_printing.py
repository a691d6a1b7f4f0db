"""What is printed is text: bytes in names of files and classes do not act on the terminal, and messages are one line."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from PIL import Image
from rich.table import Table

from angularkd import cli
from angularkd.cli.printing import PIPED_WIDTH, TextConsole, one_line, open_console, printable

NASTY = "a\x1b[31mb\x07c\x9bd\u202ee\udcfff"
SHOWN = "a\\x1b[31mb\\x07c\\x9bd\\u202ee\\udcfff"


def test_what_is_no_text_is_escaped_and_other_scripts_are_not() -> None:
    assert printable(NASTY) == SHOWN
    assert printable("écran 画像 صورة 👩‍💻\tb\nc") == "écran 画像 صورة 👩‍💻\tb\nc"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_console_shows_names_as_they_are(terminal) -> None:
    out = io.StringIO()
    console = TextConsole(file=out, width=100, force_terminal=terminal, color_system=None)
    table = Table(NASTY, title=NASTY)
    table.add_row(NASTY)
    table.add_row("[red]:cat:")
    console.print(table)
    console.print(NASTY, soft_wrap=True, highlight=False)
    printed = out.getvalue()
    assert printed.count(SHOWN) == 4 and "[red]:cat:" in printed
    assert not {"\x07", "\x9b", "\u202e", "\udcff"} & set(printed)
    assert "\x1b[31m" not in printed
    assert {len(line) for line in printed.splitlines()[1:6]} == {len(SHOWN) + 4}  # what is escaped counts in the layout


@pytest.mark.parametrize(
    ("said", "width"), [("80", 80), (None, PIPED_WIDTH), ("0", PIPED_WIDTH), ("wide", PIPED_WIDTH)]
)
def test_a_pipe_is_as_wide_as_columns_says(monkeypatch, said, width) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if said is not None:
        monkeypatch.setenv("COLUMNS", said)
    assert open_console().width == width


def test_messages_are_one_line_with_an_end(capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", f"{NASTY}\n2", "--model", "a"])
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "\x1b" not in err and "a\\x1b[31mb" in err
    long = one_line("x" * 3000 + " give another")
    assert len(long) < 1100 and long.endswith("give another")


def test_names_of_files_do_not_act_on_the_terminal(tmp_path, capsys) -> None:
    for name in ("a\x1b]0;b\x07", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(30):
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / name / f"{i}.png")
        (tmp_path / "data" / name / "0.png").write_bytes(b"no image")
    with pytest.raises(SystemExit) as stop:
        cli.main(
            [
                "train",
                str(tmp_path / "data"),
                "--model",
                "cifar/resnet8",
                "--device",
                "cpu",
                "--out",
                str(tmp_path / "run"),
            ]
        )
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert "\x1b" not in printed.out + printed.err and "a\\x1b]0;b\\x07" in printed.err


def test_what_standard_output_cannot_encode_is_escaped(tmp_path) -> None:
    command = [sys.executable, "-m", "angularkd", "plan", f"é{NASTY}", "--teacher", "a", "--student", "b"]
    environment = {"PYTHONIOENCODING": "ascii", "PATH": "/bin"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 2 and "\\xe9a\\x1b[31mb" in done.stderr and "Traceback" not in done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "angularkd", "list", "losses"], capture_output=True, check=False, env=environment
    )
    assert done.returncode == 0
