"""What a teacher's cache does with extreme values, damage, full and read-only disks, and other processes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import angularkd
from angularkd import Distiller, InputError
from angularkd.cli import main
from angularkd.distillation import About, CachedTeacher, LiveTeacher, TeacherCache, check_folder
from angularkd.distillation.cache_fields import Field
from angularkd.models import cifar
from angularkd.system import files
from helpers import DIGITS

ABOUT = About("teacher", "mean 0", "32-true", "data", {"ops": ["flip"]}, samples=10, views_count=2)
FIELDS = (Field("logits", (3,)), Field("layer1 PowerMap(power=2.0)", (1, 4, 4)))
ALL = torch.arange(10)
HERE = torch.device("cpu")


def values(count: int = 10, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {field.name: torch.rand(count, *field.shape, generator=generator) for field in FIELDS}


def full(folder: Path) -> TeacherCache:
    cache = TeacherCache(folder, ABOUT, FIELDS)
    for view in (0, 1):
        cache.write(view, ALL, values())
    return cache


@pytest.mark.parametrize("largest", [1.0, 65504.0, 65530.0, 1e6, 3e38])
def test_values_beyond_float16_keep_its_precision(tmp_path, largest) -> None:
    written = values()
    written["logits"][4] = written["logits"][4] / written["logits"][4].max() * largest
    TeacherCache(tmp_path, ABOUT, FIELDS).write(0, ALL, written)
    read = TeacherCache(tmp_path, ABOUT, FIELDS).read(0, ALL, HERE)["logits"]
    torch.testing.assert_close(read, written["logits"], rtol=2**-10, atol=2**-24 * max(1.0, largest / 2**15))
    others = ALL != 4
    assert torch.equal(read[others], written["logits"][others].half().float()), "rounded as they always were"


@pytest.mark.parametrize("size", [2, 8, 32, 56])
def test_maps_in_8_bits_are_off_by_less_than_a_step(tmp_path, size) -> None:
    """By half a step of the square root's code at most, which is the finer the smaller a value is, and scales to the row's largest one."""
    maps = torch.rand(10, 1, size, size, generator=torch.Generator().manual_seed(0)) ** 4
    maps = maps / torch.linalg.vector_norm(maps, dim=(2, 3), keepdim=True)
    maps[3], maps[4], maps[5] = 0.0, 0.0, 1e-6
    maps[4, 0, 0, 1] = 1.0
    field = Field("maps", (1, size, size), "uint8")
    TeacherCache(tmp_path, ABOUT, [field]).write(0, ALL, {"maps": maps})
    read = TeacherCache(tmp_path, ABOUT, [field]).read(0, ALL, HERE)["maps"]
    largest = maps.amax(dim=(1, 2, 3), keepdim=True)
    assert ((read.sqrt() - maps.sqrt()).abs() <= 1.0906 * largest.sqrt() / 509 + (largest < 1e-4) * 3e-2).all()
    assert torch.equal(read[3], maps[3]) and torch.equal(read[4], maps[4]), "nothing, and all in one place"
    assert read.argmax() == maps.argmax()


@pytest.mark.parametrize("shape", [(1, 3, 3), (1, 2, 3), (1, 4, 4)], ids=["odd", "even", "of four"])
def test_a_changed_code_is_found(tmp_path, shape) -> None:
    field = Field("maps", shape, "uint8")
    cache = TeacherCache(tmp_path, ABOUT, [field])
    cache.write(0, ALL, {"maps": torch.rand(10, *shape)})
    codes = np.memmap(next(cache.folder.glob("*.u8")), np.uint8, "r+", shape=(20, *shape))
    codes[4, 0, 1, 1] ^= 1
    codes.flush()
    again = TeacherCache(tmp_path, ABOUT, [field])
    again.read(0, ALL[:4], HERE)
    for reading in (lambda: again.read(0, ALL, HERE), again.check):
        with pytest.raises(InputError, match=r"damaged .maps: values are not those that were written"):
            reading()


def test_maps_of_both_types_lie_in_one_cache(tmp_path) -> None:
    both = [Field("logits", (3,)), *(Field("maps", (1, 4, 4), kind) for kind in ("float16", "uint8"))]
    written = {"logits": torch.rand(10, 3), "maps": torch.rand(10, 1, 4, 4)}
    sizes = []
    for field in both[1:]:
        cache = TeacherCache(tmp_path, ABOUT, [both[0], field])
        assert cache.missing(0, ALL).all()
        cache.write(0, ALL, written)
        sizes.append(cache.size_bytes)
    assert len(list(tmp_path.iterdir())) == 1 and sizes[0] - sizes[1] == 20 * 16
    exact, coded = (TeacherCache(tmp_path, ABOUT, [field]).read(0, ALL, HERE)["maps"] for field in both[1:])
    assert torch.equal(exact, written["maps"].half().float()) and not torch.equal(coded, exact)
    torch.testing.assert_close(coded, exact, atol=5e-3, rtol=0)


def test_negative_maps_are_refused_in_8_bits(tmp_path) -> None:
    cache = TeacherCache(tmp_path, ABOUT, [Field("maps", (1, 2, 2), "uint8")])
    with pytest.raises(InputError, match=r"maps has negative values, which 8 bits do not hold: .*float16"):
        cache.write(0, ALL, {"maps": torch.rand(10, 1, 2, 2) - 0.5})
    assert cache.missing(0, ALL).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused_by_name(tmp_path, value) -> None:
    cache = TeacherCache(tmp_path, ABOUT, FIELDS)
    written = values()
    written["logits"][3, 1] = value
    with pytest.raises(InputError, match=r"no finite logits for training image 6.*check the teacher's weights"):
        cache.write(1, ALL.flip(0), written)
    assert cache.missing(1, ALL).all(), "nothing of the batch counts"


class Loud(nn.Module):
    """A network whose embedding and logits are far beyond float16."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(1e6 * self.conv(images).relu().mean((2, 3)))


@pytest.mark.parametrize("top", [None, 3])
def test_a_loud_teacher_teaches_from_its_cache_as_it_does_live(tmp_path, top) -> None:
    torch.manual_seed(0)
    teacher, student = Loud(), cifar.create("resnet8", 10)
    cached = CachedTeacher(LiveTeacher(teacher), tmp_path, ABOUT, top)
    losses = {"kd": 1.0} if top else {"pkt": 1.0, "kd": 1.0}
    distiller = Distiller(cached, student, losses, example=torch.zeros(1, 3, 16, 16))
    images, labels = torch.rand(10, 3, 16, 16), torch.arange(10)
    assert teacher(images).abs().max() > 65504
    live = distiller(images, labels, ALL)
    for _ in ("cold", "warm"):
        stored = distiller(images, labels, ALL, 1)
        for name, term in live.terms.items():
            torch.testing.assert_close(stored.terms[name], term, rtol=5e-3, atol=1e-4)


def flags(teacher: Path, folder: Path) -> list[str]:
    common = [
        "digits",
        "--teacher",
        str(teacher),
        "--student",
        "cifar/resnet8",
        "--image-size",
        "8",
        "--augment",
        "flip",
    ]
    return [*common, "--loss", "kd=1", "--loss", "amd=10", "--cache", str(folder / "cache")]


@pytest.mark.parametrize("ending", ["logits*.f16", "layer3*.f16"])
@pytest.mark.parametrize("damage", ["no number", "random bytes"])
def test_damage_is_found_by_verify_and_by_runs(digits_teacher, tmp_path, capsys, ending, damage) -> None:
    main(["cache", "fill", *flags(digits_teacher, tmp_path)])
    file = next((tmp_path / "cache").glob(f"*/{ending}"))
    numbers = np.fromfile(file, np.float16)
    if damage == "no number":
        numbers[:] = np.nan
        numbers.tofile(file)
    else:
        file.write_bytes(np.random.default_rng(0).bytes(file.stat().st_size))
    given = flags(digits_teacher, tmp_path)
    run = ["distill", *given, "--epochs", "1", "--device", "cpu", "--out", str(tmp_path / "run")]
    for command in (["cache", "verify", *given], run):
        with pytest.raises(SystemExit):
            main(command)
        complaint = capsys.readouterr().err
        assert complaint.count("\n") == 1 and "remove the folder, and it is filled anew" in complaint
        assert "--lr" not in complaint


def test_a_difference_that_is_no_number_is_one(tmp_path) -> None:
    """The live teacher gives NaN for what was stored when it was sound."""
    from angularkd.distillation import verify
    from angularkd.types import Batch

    torch.manual_seed(0)
    teacher, student = cifar.create("resnet8", 10), cifar.create("resnet8", 10)
    cached = CachedTeacher(LiveTeacher(teacher), tmp_path, ABOUT)
    Distiller(cached, student, {"kd": 1.0}, example=torch.zeros(1, 3, 16, 16))
    batch = Batch(torch.rand(10, 3, 16, 16), torch.zeros(10, dtype=torch.long), ALL, 0)
    cached(batch.images, ALL, 0)
    assert verify(cached, [batch]).off_by["logits"] < 2e-3
    for bias, off_by in ((float("nan"), "nan"), (3.0, r"\d\.\de[-+]0\d")):
        with torch.no_grad():
            teacher.linear.bias.fill_(bias)
        with pytest.raises(InputError, match=f"does not hold what the teacher says: logits is off by {off_by} of"):
            verify(cached, [batch])


@pytest.mark.parametrize("ending", ["f16", "done", "sum"])
def test_one_changed_value_of_any_row_is_found_wherever_it_is_read(tmp_path, ending) -> None:
    file = next(full(tmp_path).folder.glob(f"layer1*.{ending}"))
    contents = bytearray(file.read_bytes())
    place = len(contents) * 13 // 20  # of row 13, which is sample 3 in view 1
    contents[place] ^= 2
    file.write_bytes(contents)
    cache = TeacherCache(tmp_path, ABOUT, FIELDS)
    message = r"is damaged \(layer1 .*: values are not those that were written\): remove the folder"
    assert cache.read(0, ALL, HERE) and cache.read(1, ALL[4:], HERE)
    for read in (cache.check, lambda: cache.read(1, ALL, HERE)):
        with pytest.raises(InputError, match=message):
            read()


def test_rows_that_are_there_stay_as_they_are(tmp_path) -> None:
    cache = full(tmp_path)
    marks = np.memmap(next(cache.folder.glob("logits*.done")), np.uint8, "r+")
    marks[4] = 0
    again = TeacherCache(tmp_path, ABOUT, FIELDS)
    again.write(0, ALL, values(seed=1))
    assert again.check() == 20
    old, new, read = values(), values(seed=1), again.read(0, ALL, HERE)
    assert torch.equal(read["logits"][4], new["logits"][4].half().float())
    assert torch.equal(read["logits"][5], old["logits"][5].half().float())
    assert torch.equal(read[FIELDS[1].name], old[FIELDS[1].name].half().float())


def test_verify_says_how_many_rows_it_compared(digits_teacher, tmp_path, capsys) -> None:
    given = flags(digits_teacher, tmp_path)
    main(["cache", "fill", *given])
    for more, compared in ((["1"], 128), (["all"], 2_590)):
        capsys.readouterr()
        main(["cache", "verify", *given, "--verify-batches", *more])
        out = capsys.readouterr().out
        assert f"2,590 stored rows are as they were written, {compared:,} were compared with the live teacher" in out
        assert ("--verify-batches all" in out) is (compared < 2_590)
    file = next((tmp_path / "cache").glob("*/logits*.f16"))
    numbers = np.memmap(file, np.float16, "r+", shape=(2_590, 10))
    numbers[2_589, 3] += 1
    with pytest.raises(SystemExit):
        main(["cache", "verify", *given, "--verify-batches", "1"])
    assert "logits: values are not those that were written" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["cache", "verify", *given, "--verify-batches", "0"])
    assert "--verify-batches" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [-1, 10, 2**31 - 1])
def test_a_run_names_classes_that_there_are_not(tmp_path, wrong) -> None:
    torch.manual_seed(0)
    teacher, student = cifar.create("resnet8", 10), cifar.create("resnet8", 10)

    def distiller() -> Distiller:
        cached = CachedTeacher(LiveTeacher(teacher), tmp_path, ABOUT, 3)
        return Distiller(cached, student, {"kd": 1.0}, example=torch.zeros(1, 3, 16, 16))

    images = torch.rand(10, 3, 16, 16)
    first = distiller()
    first(images, None, ALL, 0)
    first.close()
    file = next(tmp_path.glob("*/top-classes*.i32"))
    classes = np.fromfile(file, np.int32)
    classes[7] = wrong
    classes.tofile(file)
    with pytest.raises(InputError, match=r"is damaged \(top classes: it names classes that the teacher has not\)"):
        distiller()(images, None, ALL, 0)


def test_marks_that_cannot_be_are_none(tmp_path) -> None:
    folder = full(tmp_path).folder
    file = next(folder.glob("logits*.done"))
    marks = np.fromfile(file, np.uint8)
    assert set(marks) == {1}
    marks[:3] = 200
    marks.tofile(file)
    assert TeacherCache(tmp_path, ABOUT, FIELDS).missing_rows == 3


def test_its_room_is_reserved_before_anything_is_stored(tmp_path) -> None:
    about = replace(ABOUT, samples=10_000)
    cache = TeacherCache(tmp_path, about, FIELDS)
    cache.reserve()
    if hasattr(os, "posix_fallocate"):
        on_disk = sum(file.stat().st_blocks * 512 for file in cache.folder.iterdir())
        assert on_disk >= cache.size_bytes
    assert cache.missing_rows == cache.rows


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_that_fills_is_one_line_and_leaves_nothing(digits_teacher, tmp_path, capsys, monkeypatch, code) -> None:
    calls = []

    def filled(file: int, start: int, size: int) -> None:
        calls.append(size)
        if len(calls) > 2:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", filled, raising=False)
    with pytest.raises(SystemExit):
        main(["distill", *flags(digits_teacher, tmp_path), "--epochs", "1", "--out", str(tmp_path / "run")])
    complaint = capsys.readouterr().err
    assert (
        complaint.count("\n") == 1 and f"({os.strerror(code)}): it needs" in complaint and "--cache-views" in complaint
    )
    assert len(calls) == 3 and not list(tmp_path.iterdir())


def test_a_file_system_that_reserves_nothing_is_used_all_the_same(tmp_path, monkeypatch) -> None:
    def never(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", never, raising=False)
    assert full(tmp_path).missing_rows == 0


def test_a_full_cache_on_a_read_only_disk_is_used(digits_teacher, tmp_path, monkeypatch) -> None:
    main(["cache", "fill", *flags(digits_teacher, tmp_path)])
    opened = np.memmap

    def reading(file: Path, dtype: object, mode: str, **more: object) -> np.memmap:
        assert mode == "r"
        return opened(file, dtype, mode, **more)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(np, "memmap", reading)
    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    check_folder(tmp_path / "cache")
    main(["cache", "info", str(tmp_path / "cache")])
    for action in ("verify", "fill"):
        main(["cache", action, *flags(digits_teacher, tmp_path)])
    monkeypatch.undo()
    (tmp_path / "cache").chmod(0o555)
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*"))
    losses, cache = {"kd": 1.0, "amd": 10.0}, str(tmp_path / "cache")
    angularkd.distill(
        **{**DIGITS, "batch_size": 128}, teacher=str(digits_teacher), student="cifar/resnet8", loss=losses, cache=cache,
        augment=("flip",), epochs=1, out=str(tmp_path / "run"),
    )  # fmt: skip
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")) == before
    (tmp_path / "cache").chmod(0o755)


HOLDER = """
import sys
from pathlib import Path
from angularkd.system.locks import Lock
lock = Lock(Path(sys.argv[1]))
assert lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["killed", "finished"])
def test_one_process_fills_until_it_ends(tmp_path, end) -> None:
    first = TeacherCache(tmp_path, ABOUT, FIELDS)
    first.write(0, ALL, values())
    first.close()
    cache = TeacherCache(tmp_path, ABOUT, FIELDS)
    command = [sys.executable, "-c", HOLDER, str(cache.folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        read = cache.read(0, ALL, HERE)["logits"]
        assert torch.equal(read, values()["logits"].half().float()), "who reads is not kept out"
        with pytest.raises(InputError, match=r"another process fills the teacher cache .*: wait until.*`cache`"):
            cache.write(1, ALL, values())
        if end == "killed":
            other.kill()
    cache.write(1, ALL, values())
    assert cache.missing_rows == 0 and not (cache.folder / ".lock").exists()


def test_a_full_cache_keeps_nobody_out(tmp_path) -> None:
    cache = full(tmp_path)
    other = TeacherCache(tmp_path, ABOUT, FIELDS[:1])
    other.reserve()
    assert not (cache.folder / ".lock").exists()
    third = TeacherCache(tmp_path, ABOUT, (*FIELDS, Field("embedding", (8,))))
    third.reserve()
    assert (cache.folder / ".lock").exists()
    third.close()
    assert not (cache.folder / ".lock").exists()


def test_the_second_of_two_runs_that_fill_gets_one_line_before_it_trains(digits_teacher, tmp_path, capsys) -> None:
    from angularkd.training import run as module
    from helpers import distillation_job

    options = {**DIGITS, "teacher": str(digits_teacher), "student": "cifar/resnet8", "loss": {"kd": 1.0, "amd": 10.0}}
    job = distillation_job(**options, augment=("flip",), cache=str(tmp_path / "cache"))
    job.cached.cache.reserve()
    with pytest.raises(InputError, match="another process fills the teacher cache"):
        module.run_distillation(job.config.model_copy(update={"out": str(tmp_path / "run"), "epochs": 1}))
    assert not (tmp_path / "run").exists()
    job.cached.cache.close()
    run = angularkd.distill(**options, augment=("flip",), cache=str(tmp_path / "cache"), epochs=1, out=tmp_path / "run")
    assert run.results["epochs"] == 1
    assert not list((tmp_path / "cache").glob("*/.lock")), "the run has given it back"
