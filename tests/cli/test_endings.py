"""How commands end: one line and a code, whatever happens; a raw traceback reaches no terminal, and none is lost."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from angularkd import cli
from angularkd.cli import running
from angularkd.system.stopping import Stopped

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "angularkd"]
SCRIPT = "from angularkd.__main__ import main; main()"


def end(capsys, monkeypatch, error: BaseException, command: str = "list") -> tuple[int, str]:
    """Return the exit code and the standard error of a command that an error ends."""

    def fail(_: list[str]) -> None:
        raise error

    monkeypatch.setitem(running.COMMANDS, command, fail)
    with pytest.raises(SystemExit) as stop:
        cli.main([command])
    return int(stop.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [OverflowError("int too large"), RecursionError("too deep"), ValueError("a\n\x1b[31mb"), KeyError("x" * 5000)],
)
def test_what_nobody_foresaw_is_one_line_and_a_file(capsys, monkeypatch, tmp_path, error) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, err = end(capsys, monkeypatch, error)
    assert code == 70
    assert err.count("\n") == 1 and "Traceback" not in err and "\x1b" not in err and len(err) < 1200
    (file,) = tmp_path.iterdir()
    assert type(error).__name__ in err and str(file) in err
    report = file.read_text()
    assert "Traceback (most recent call last)" in report and "in fail\n" in report and "angularkd list" in report


def test_where_no_file_can_be_written_the_traceback_is_printed(capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    code, err = end(capsys, monkeypatch, OverflowError("int too large"))
    assert code == 70 and "Traceback" in err and err.splitlines()[-1].startswith("angularkd: this was not foreseen")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "runs/a"), "No space left on device: runs/a"),
        (PermissionError(13, "Permission denied", "runs/a"), "Permission denied: runs/a"),
        (BrokenPipeError(32, "Broken pipe"), "Broken pipe"),  # of another pipe than standard output
        (MemoryError(), "there is not enough memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
            "not enough memory",
        ),
    ],
)
def test_what_the_machine_refuses_is_one_line(capsys, monkeypatch, error, line) -> None:
    code, err = end(capsys, monkeypatch, error)
    assert code == 74 and line in err and err.count("\n") == 1 and "not foreseen" not in err


def test_an_interruption_is_one_line(capsys, monkeypatch) -> None:
    assert end(capsys, monkeypatch, KeyboardInterrupt()) == (130, "angularkd: interrupted\n")
    code, err = end(capsys, monkeypatch, KeyboardInterrupt(), "train")
    assert code == 130 and err == "angularkd: interrupted; if a checkpoint was written, it goes on with --resume\n"


@pytest.mark.parametrize(
    ("number", "saved", "code", "line"),
    [
        (signal.SIGTERM, True, 143, "stopped by SIGTERM; all is saved: it goes on where it was with --resume"),
        (signal.SIGINT, True, 130, "interrupted; all is saved: it goes on where it was with --resume"),
        (signal.SIGHUP, False, 129, "stopped by SIGHUP; if a checkpoint was written, it goes on with --resume"),
    ],
)
def test_who_is_stopped_says_how_to_go_on(capsys, monkeypatch, number, saved, code, line) -> None:
    assert end(capsys, monkeypatch, Stopped(number, saved), "distill") == (code, f"angularkd: {line}\n")
    assert end(capsys, monkeypatch, Stopped(number)) == (code, f"angularkd: {line.partition(';')[0]}\n")


def test_a_full_disk_is_one_line_whoever_meets_it(capsys, monkeypatch) -> None:
    error = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert end(capsys, monkeypatch, error) == (74, "angularkd: No space left on device\n")


@pytest.mark.parametrize("arguments", [["--help"], ["list", "losses"], ["train", "--help"]])
def test_a_closed_pipe_ends_a_command_in_silence(arguments) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run([*COMMAND, *arguments], stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", [["--version"], ["train", "--help"]])
def test_a_full_disk_behind_the_output_is_one_line(arguments) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 74
    assert done.stderr == "angularkd: what is printed cannot be written: No space left on device\n"


def test_nobody_need_listen() -> None:
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        assert (
            subprocess.run(f"{sys.executable} -m angularkd --version {closed}", shell=True, check=False).returncode == 0
        )
        assert subprocess.run(f"{sys.executable} -m angularkd train {closed}", shell=True, check=False).returncode == 2


@pytest.mark.parametrize(
    ("start", "imported"),
    [
        ("python -m angularkd", "angularkd.cli"),
        ("angularkd", "pydantic"),
        ("python -m angularkd", "tyro"),
        ("angularkd", "torch"),
    ],
)
def test_ctrl_c_during_imports_is_one_line(tmp_path, start, imported) -> None:
    """It comes, as from a terminal, while a module is being imported."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {imported!r}:\n"
        "            sys.meta_path.remove(self)\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = (
        [*COMMAND, "list", "models"] if start.startswith("python") else [sys.executable, "-c", SCRIPT, "list", "models"]
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (130, "angularkd: interrupted\n")


def test_the_installed_command_is_the_one_that_is_interrupted_well() -> None:
    scripts = re.findall(r'^angularkd = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert scripts == ["angularkd.__main__:main"]


def test_the_package_itself_imports_nothing_that_could_be_interrupted() -> None:
    code = "import sys; before = set(sys.modules); import angularkd; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['__future__', 'angularkd']"


def test_the_output_is_put_back(monkeypatch) -> None:
    before, handler = (
        sys.stdout,
        signal.getsignal(signal.SIGINT),
    )  # ignored already, where a shell has put the tests into the background
    with contextlib.suppress(SystemExit):
        cli.main(["distil"])
    assert sys.stdout is before
    assert signal.getsignal(signal.SIGINT) is handler
