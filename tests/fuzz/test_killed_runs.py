"""Runs that are killed, asked to stop, started twice or damaged at random: each goes on to the very same end, or says in one line why not.

ANGULARKD_SOAK=1 tries every kind of run, and every damage of every file; otherwise a few of them. docs/reliability.md has the counts.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from angularkd import cli
from killed_runs import KINDS, OPTIONS, InProcess, check_equal, in_process, prepare, start

SOAK = os.environ.get("ANGULARKD_SOAK") == "1"
KILLED = list(KINDS) if SOAK else ["plain", "learned"]
KILLS = 8 if SOAK else 1
"""Of each kind, in one run after the other; a run that is killed goes on and is killed again."""
STOPS = 20 if SOAK else 1
DOUBLE_STARTS = 20 if SOAK else 1
LONGEST_LEAVING_SECONDS = 10.0

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked for these, to be killed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the networks and a teacher."""
    made = tmp_path_factory.mktemp("killed")
    prepare(made)
    return made


@pytest.fixture(scope="module")
def whole(folder: Path) -> Callable[[str], tuple[Path, float]]:
    """Runs of each kind from their beginning to their end, and the seconds that they took."""
    done: dict[str, tuple[Path, float]] = {}

    def run(kind: str) -> tuple[Path, float]:
        if kind not in done:
            began, out = time.monotonic(), folder / f"whole-{kind}"
            assert in_process(start(kind, folder, out)).wait() == 0
            done[kind] = out, time.monotonic() - began
        return done[kind]

    return run


@pytest.mark.parametrize("kind", KILLED)
def test_a_run_that_is_killed_at_random_moments_ends_as_if_it_were_not(kind, folder, whole, tmp_path) -> None:
    expected, seconds = whole(kind)
    draw, killed, number = random.Random(f"kill {kind}"), 0, 0
    while killed < KILLS:
        out, number, code = tmp_path / f"run{number}", number + 1, None
        while code != 0:
            run = in_process(start(kind, folder, out, resume=_begun(out)), tmp_path / "errors")
            if killed < KILLS:
                time.sleep(draw.uniform(0, seconds))
                run.kill()
            code = run.wait()
            killed += code == -signal.SIGKILL
            assert code in (0, -signal.SIGKILL), run.said
        check_equal(out, expected)
        assert not list(out.rglob(".*")), "neither lock nor temporary file is left"


@pytest.mark.parametrize("turn", range(STOPS))
def test_a_signal_within_an_epoch_leaves_a_checkpoint_in_time(turn, folder, whole, tmp_path) -> None:
    expected, seconds = whole("plain")
    draw, out = random.Random(f"stop {turn}"), tmp_path / "run"
    number = draw.choice([signal.SIGTERM, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT])
    run = in_process(partial(cli.main, _command(folder, out, checkpoint_every="1epoch")), tmp_path / "errors")
    _wait_for(out / "config.yaml", run)
    time.sleep(draw.uniform(0, 0.5 * seconds))
    began = time.monotonic()
    run.kill(number)
    code, leaving = run.wait(), time.monotonic() - began
    if code != 0:  # else it was done
        assert code == 128 + number and leaving < LONGEST_LEAVING_SECONDS
        assert run.said.count("\n") == 1 and "--resume" in run.said, run.said
    assert in_process(start("plain", folder, out, resume=True)).wait() == 0
    check_equal(out, expected)


@pytest.mark.parametrize("turn", range(DOUBLE_STARTS))
def test_of_two_that_are_started_at_once_one_runs(turn, folder, whole, tmp_path) -> None:
    expected, _ = whole("plain")
    draw, out = random.Random(f"twice {turn}"), tmp_path / "run"
    first = in_process(start("plain", folder, out), tmp_path / "first")
    time.sleep(draw.uniform(0, 0.3))
    second = in_process(start("plain", folder, out), tmp_path / "second")
    codes = {run.wait(): run.said for run in (first, second)}
    assert codes.keys() == {0, 2}
    assert "another process runs in" in codes[2] or "is not empty" in codes[2]
    assert codes[2].count("\n") == 1
    check_equal(out, expected)


FILES = (
    *("config.yaml", "metrics.jsonl", "plan.json", "checkpoints/last.ckpt", "checkpoints/previous.ckpt"),
    *("checkpoints/best.safetensors", "student.safetensors", "results.json"),
)
DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "empty": lambda whole: b"",
    "missing": lambda whole: None,
    "foreign": lambda whole: b"PK\x03\x04 nothing that anybody knows",
    **{
        f"cut at {part}": partial(lambda whole, part: whole[: len(whole) * part // 10], part=part) for part in range(10)
    },
    **{f"flip {number}": partial(lambda whole, number: _flipped(whole, number), number=number) for number in range(20)},
}


def _flipped(whole: bytes, number: int) -> bytes:
    draw = random.Random(number)
    place = draw.randrange(len(whole))
    return whole[:place] + bytes([whole[place] ^ (1 << draw.randrange(8))]) + whole[place + 1 :]


def _damages() -> list[tuple[str, str]]:
    every = [(file, damage) for file in FILES for damage in DAMAGES]
    return (
        every
        if SOAK
        else [("checkpoints/last.ckpt", "cut at 5"), ("config.yaml", "flip 3"), ("metrics.jsonl", "empty")]
    )


@pytest.fixture(scope="module")
def interrupted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a distillation that was killed within its second epoch, beside the files of its end that it does not have yet."""
    out = tmp_path_factory.mktemp("interrupted") / "run"
    run = in_process(start("auto", folder, out, checkpoint_every="2steps"))
    _wait_for(out / "metrics.jsonl", run)
    run.kill()
    run.wait()
    for file in ("student.safetensors", "results.json"):
        (out / file).write_bytes(b"{}")
    return out


@pytest.mark.parametrize(("file", "damage"), _damages())
def test_a_damaged_file_changes_nothing_in_silence(file, damage, folder, whole, interrupted, tmp_path) -> None:
    expected, _ = whole("auto")
    out = tmp_path / "run"
    shutil.copytree(interrupted, out)
    (out / ".lock").unlink(missing_ok=True)
    damaged = DAMAGES[damage]((out / file).read_bytes() or b"{}")
    if damaged is None:
        (out / file).unlink()
    else:
        (out / file).write_bytes(damaged)
    run = in_process(start("auto", folder, out, resume=True, checkpoint_every="2steps"), tmp_path / "errors")
    if run.wait() == 0:
        check_equal(out, expected)
    else:
        assert run.wait() == 2 and run.said.count("\n") == 1, run.said


def test_a_full_disk_ends_in_one_line_and_leaves_the_last_checkpoint(folder, whole, tmp_path) -> None:
    """The disk is full for files of more than some kilobytes, as a limit of the process has it."""
    expected, _ = whole("plain")
    out = tmp_path / "run"
    in_process(start("plain", folder, out), tmp_path / "errors").wait()
    sizes = [file.stat().st_size for file in (out / "checkpoints").iterdir()]
    shutil.rmtree(out)

    run = in_process(partial(_limited, min(sizes) // 2, _command(folder, out)), tmp_path / "errors")
    assert run.wait() == 74 and run.said.count("\n") == 1 and "File too large" in run.said, run.said
    assert in_process(start("plain", folder, out, resume=_begun(out))).wait() == 0
    check_equal(out, expected)


def test_a_folder_that_is_removed_under_a_run_ends_it_in_one_line(folder, tmp_path) -> None:
    out = tmp_path / "run"
    run = in_process(start("plain", folder, out, epochs=2000), tmp_path / "errors")
    _wait_for(out / "metrics.jsonl", run)
    out.rename(tmp_path / "moved")
    assert run.wait() == 2 and run.said.count("\n") == 1 and "was removed or moved while a run" in run.said, run.said
    assert not out.exists(), "it is not made anew"


def _limited(most: int, command: list[str]) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    cli.main(command)


def _command(folder: Path, out: Path, **more: str) -> list[str]:
    options = {**OPTIONS, "model": f"{folder / 'net.py'}:small", "out": str(out), **more}
    data = str(options.pop("data"))
    return [
        "train",
        data,
        "--no-report",
        *(text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))),
    ]


def _begun(out: Path) -> bool:
    return (
        (out / "config.yaml").exists()
        or (out / "checkpoints/last.ckpt").exists()
        or (out / "teacher/config.yaml").exists()
    )


def _wait_for(file: Path, run: InProcess) -> None:
    while not file.exists():
        assert run.running, run.said
        time.sleep(0.002)
