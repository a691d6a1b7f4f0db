"""Files that lead elsewhere: pipes and devices are written through, links stay, and nothing of the machine is replaced."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from angularkd import InputError
from angularkd.system.files import check_file_writable, write_json, write_text


def test_a_pipe_is_written_through(tmp_path) -> None:
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    check_file_writable(pipe, "json_file")
    write_json(pipe, {"a": list(range(50_000))})
    reader.join(timeout=60)
    assert json.loads(read[0]) == {"a": list(range(50_000))}
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_device_stays_one() -> None:
    check_file_writable(Path("/dev/null"), "json_file")
    write_text(Path("/dev/null"), "a")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to none yet"])
def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path, there) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target.json", tmp_path / "link.json"
    if there:
        target.write_text("before")
    link.symlink_to(target)
    (tmp_path / "second.json").symlink_to(link)
    check_file_writable(tmp_path / "second.json", "json_file")
    write_text(tmp_path / "second.json", "after")
    assert link.is_symlink() and (tmp_path / "second.json").is_symlink()
    assert target.read_text() == "after"
    assert list((tmp_path / "folder").iterdir()) == [target]


def test_a_link_into_a_folder_that_cannot_be_written_to_is_refused(tmp_path) -> None:
    (tmp_path / "link.json").symlink_to("/proc/nothing/a.json")
    with pytest.raises(InputError, match=r"cannot be written to: give another with `json_file`"):
        check_file_writable(tmp_path / "link.json", "json_file")


def test_names_as_long_as_can_be_are_written(tmp_path) -> None:
    path = tmp_path / ("x" * 255)
    write_text(path, "a")
    assert path.read_text() == "a"


CODE = """
import sys
from pathlib import Path
from angularkd.system.files import write_text
print("before")
write_text(Path(sys.argv[1]), "written\\n")
print("after")
"""


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("to", ["pipe", "file"])
def test_standard_output_gets_everything_in_order(tmp_path, name, to) -> None:
    if not Path(name).exists():
        pytest.skip(f"there is no {name}")
    command = [sys.executable, "-c", CODE, name]
    if to == "pipe":
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    else:
        with (tmp_path / "out").open("wb") as out:
            subprocess.run(command, stdout=out, check=True)
        printed = (tmp_path / "out").read_text()
    assert printed == "before\nwritten\nafter\n"
