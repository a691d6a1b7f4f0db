"""The folder of a run: its files by name, and who may write there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from angularkd import InputError
from angularkd.runs import STUDENT_FILE, RunFolder


def test_its_files_have_names(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    names = {
        "config": "config.yaml",
        "plan": "plan.json",
        "metrics": "metrics.jsonl",
        "checkpoint": "checkpoints/last.ckpt",
        "previous": "checkpoints/previous.ckpt",
        "best": "checkpoints/best.safetensors",
        "student": "student.safetensors",
        "results": "results.json",
    }
    assert {name: getattr(folder, name).relative_to(tmp_path).as_posix() for name in names} == names
    assert names["student"] == STUDENT_FILE
    assert folder.teacher == RunFolder(tmp_path / "teacher")
    assert not list(tmp_path.iterdir()), "a name makes no file"


def test_what_is_written_is_read_back(tmp_path) -> None:
    folder = RunFolder(tmp_path / "new" / "run")
    assert not folder.started and folder.read_config() is None
    folder.write_config("epochs: 3\nimage_size: [8, 8]\n")
    folder.write_plan({"pairs": []})
    folder.write_metrics([{"epoch": 1}, {"epoch": 2}])
    folder.write_results({"epochs": 2})
    assert folder.started and folder.read_config() == {"epochs": 3, "image_size": [8, 8]}
    assert json.loads(folder.plan.read_text()) == {"pairs": []}
    assert [json.loads(line) for line in folder.metrics.read_text().splitlines()] == [{"epoch": 1}, {"epoch": 2}]
    assert json.loads(folder.results.read_text()) == {"epochs": 2}


@pytest.mark.parametrize(
    "content",
    [b"a: b: c", b"- 3\n", b"", b"just words", b"epochs: [3\n", b"\xff\xfe\x00epochs", b"epochs: \x07"],
    ids=["two colons", "a list", "nothing", "a text", "an open list", "no text", "a bell"],
)
def test_a_damaged_configuration_is_none(tmp_path, content) -> None:
    folder = RunFolder(tmp_path)
    folder.config.write_bytes(content)
    assert folder.started and folder.read_config() is None


def claim(path: Path, resume: bool = False) -> None:
    """Hold a folder, and do nothing in it."""
    with RunFolder(path).claimed(resume):
        pass


def test_an_empty_or_new_folder_is_claimed_and_left_as_it_is(tmp_path) -> None:
    claim(tmp_path)
    claim(tmp_path / "new" / "run")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_refused(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty: give another with `out`, or go on with `resume`"):
        claim(tmp_path)
    with pytest.raises(InputError, match=r"no run to resume in .*: leave out `resume`, or name its folder with `out`"):
        claim(tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "name", ["config.yaml", "checkpoints/last.ckpt", "checkpoints/previous.ckpt", "teacher/config.yaml"]
)
def test_a_started_run_is_resumed_and_not_begun_anew(tmp_path, name) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("epochs: 3\n")
    claim(tmp_path, resume=True)
    with pytest.raises(InputError, match="is not empty"):
        claim(tmp_path)


def test_a_place_that_cannot_hold_a_run_is_refused(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for resume in (False, True):
        with pytest.raises(InputError, match=r"cannot hold results, for .*file is a file: give another with `out`"):
            claim(tmp_path / "file" / "run", resume)


def test_who_has_the_folder_keeps_others_out_until_the_end(tmp_path) -> None:
    path = tmp_path / "run"
    with RunFolder(path).claimed(resume=False) as folder:
        for resume in (False, True):
            if resume:
                folder.write_config("epochs: 3\n")
                (tmp_path / "link").symlink_to(path)
            for name in (path, tmp_path / "run" / ".." / "run", *([tmp_path / "link"] if resume else [])):
                with pytest.raises(
                    InputError, match=r"another process runs in .*: wait until it is done, or give .*`out`"
                ):
                    claim(name, resume)
    claim(path, resume=True)


HOLDER = """
import sys
from pathlib import Path
from angularkd.runs import RunFolder
with RunFolder(Path(sys.argv[1])).claimed(resume=False) as folder:
    folder.write_config("epochs: 3")
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_process_that_is_killed_gives_the_folder_back(tmp_path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="another process runs in"):
            claim(tmp_path, resume=True)
        other.kill()
    assert (tmp_path / ".lock").exists()
    claim(tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked here")
def test_processes_that_outlive_a_killed_one_do_not_hold_its_folder(tmp_path) -> None:
    """As those that decode images do, for some seconds."""
    holder = HOLDER.replace(
        '    print("held", flush=True)',  # the forked one says it, once it has begun
        '    import os\n    if os.fork() == 0:\n        print("held", flush=True); sys.stdin.read()\n        os._exit(0)',
    )
    command = [sys.executable, "-c", holder, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="another process runs in"):
            claim(tmp_path, resume=True)
        other.send_signal(signal.SIGKILL)
        other.wait()
        claim(tmp_path, resume=True)


@pytest.mark.parametrize("made_anew", [False, True])
def test_a_folder_that_is_moved_away_or_replaced_is_noticed(tmp_path, made_anew) -> None:
    path = tmp_path / "run"
    with RunFolder(path).claimed(resume=False) as folder:
        folder.check_held()
        path.rename(tmp_path / "moved")
        if made_anew:
            path.mkdir()
            (path / ".lock").write_text("")
        with pytest.raises(InputError, match="was removed or moved while a run was writing to it"):
            folder.check_held()


def test_a_killed_start_does_not_make_the_folder_look_full(tmp_path) -> None:
    (tmp_path / ".lock").write_text("")
    claim(tmp_path)
    assert not list(tmp_path.iterdir())


def start(path: Path, error: BaseException, trained: bool = False) -> None:
    """Begin a run that ends with an error."""
    with RunFolder(path).claimed(resume=False) as folder:
        folder.write_config("epochs: 3\n")
        folder.write_plan({})
        if trained:
            folder.checkpoint.parent.mkdir()
            folder.checkpoint.write_text("weights")
        raise error


@pytest.mark.parametrize("trained", [False, True])
def test_what_fails_before_anything_was_trained_leaves_nothing(tmp_path, trained) -> None:
    path = tmp_path / "new" / "run"
    with pytest.raises(ZeroDivisionError):
        start(path, ZeroDivisionError(), trained)
    assert path.exists() == trained and (tmp_path / "new").exists() == trained


def test_an_interrupted_run_keeps_its_options(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, KeyboardInterrupt())
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "plan.json"}


def test_what_killed_writers_have_left_is_removed(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    folder.checkpoint.parent.mkdir()
    folder.write_config("epochs: 3\n")
    for file in (folder.checkpoint, folder.best, folder.student, folder.results):
        file.with_name(f".{file.name}.x7f_a2").write_text("half")
    (tmp_path / ".student.notes").write_text("mine")
    claim(tmp_path, resume=True)
    names = {path.name for path in tmp_path.rglob("*")}
    assert names == {"config.yaml", "checkpoints", ".student.notes"}
