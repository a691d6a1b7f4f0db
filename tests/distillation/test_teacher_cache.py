"""The teacher's cache: its answers are the teacher's, kept whole or not at all, and runs with it go as runs without."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import angularkd
from angularkd import Distiller, InputError
from angularkd.cli import main
from angularkd.distillation import About, CachedTeacher, LiveTeacher, TeacherCache
from angularkd.distillation.cache_fields import Field
from angularkd.distillation.cached_teacher import from_top, to_top
from angularkd.models import cifar, fingerprint
from angularkd.training.cache_key import _teacher_fingerprint

ABOUT = About("teacher", "mean 0", "32-true", "data", {"ops": ["flip"]}, samples=10, views_count=2)
FIELDS = (Field("logits", (3,)), Field("layer1 PowerMap(power=2.0)", (1, 4, 4)))
RECIPE = {"data": "digits", "image_size": 8, "batch_size": 64, "lr": 0.05, "augment": ("flip",)}
LOSSES = {"ce": 1.0, "kd": 0.9, "amd": 10.0, "pkt": 10.0}


def values(count: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {field.name: torch.rand(count, *field.shape, generator=generator) for field in FIELDS}


def test_what_was_written_is_read_by_another_in_float16(tmp_path) -> None:
    cache = TeacherCache(tmp_path, ABOUT, FIELDS)
    indices = torch.tensor([7, 2, 9])
    written = values(3)
    assert cache.missing(1, indices).all() and cache.filled == 0 and not list(tmp_path.iterdir())
    cache.write(1, indices, written)
    other = TeacherCache(tmp_path, ABOUT, FIELDS)
    assert other.missing(1, torch.tensor([2, 3])).tolist() == [False, True]
    assert other.missing(0, indices).all() and not other.missing(3, indices).any()
    assert other.filled == pytest.approx(3 / 20)
    for name, value in other.read(1, indices.flip(0), torch.device("cpu")).items():
        assert torch.equal(value, written[name].half().float().flip(0))
    assert cache.size_bytes == 20 * (2 * 3 + 1 + 4 + 2 * 16 + 1 + 4)


def test_a_second_field_is_filled_beside_the_first(tmp_path) -> None:
    indices = torch.arange(10)
    TeacherCache(tmp_path, ABOUT, FIELDS[:1]).write(0, indices, values(10))
    both = TeacherCache(tmp_path, ABOUT, FIELDS)
    assert both.missing(0, indices).all()
    both.write(0, indices, values(10))
    assert not TeacherCache(tmp_path, ABOUT, FIELDS[1:]).missing(0, indices).any()


@pytest.mark.parametrize("what", ["teacher", "preprocessing", "precision", "data", "views"])
def test_other_answers_have_another_cache(tmp_path, what) -> None:
    TeacherCache(tmp_path, ABOUT, FIELDS).write(0, torch.arange(10), values(10))
    other = replace(ABOUT, **{what: {"ops": []} if what == "views" else "other"})
    assert TeacherCache(tmp_path, other, FIELDS).missing(0, torch.arange(10)).all()


@pytest.mark.parametrize("ending", ["f16", "done", "sum"])
def test_a_truncated_cache_is_refused(tmp_path, ending) -> None:
    cache = TeacherCache(tmp_path, ABOUT, FIELDS)
    cache.write(0, torch.arange(10), values(10))
    file = next(cache.folder.glob(f"*.{ending}"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"is damaged \(.*remove the folder"):
        TeacherCache(tmp_path, ABOUT, FIELDS)


def test_a_full_disk_is_named_before_anything_is_written(tmp_path) -> None:
    with pytest.raises(InputError, match=r"needs .* GiB .* fewer views with `cache_views`"):
        TeacherCache(tmp_path, replace(ABOUT, samples=10**9, views_count=10**4), FIELDS)
    assert not list(tmp_path.iterdir())


def test_rows_whose_mark_is_missing_do_not_count(tmp_path) -> None:
    """As after a kill between writing the values and marking them."""
    cache = TeacherCache(tmp_path, ABOUT, FIELDS)
    cache.write(0, torch.arange(10), values(10))
    done = next(cache.folder.glob("logits*.done"))
    marks = bytearray(done.read_bytes())
    marks[4] = 0
    done.write_bytes(bytes(marks))
    assert TeacherCache(tmp_path, ABOUT, FIELDS).missing(0, torch.arange(10)).nonzero().flatten().tolist() == [4]


def cached_distiller(folder: Path, losses: dict) -> tuple[Distiller, list[int]]:
    """A distiller with a cached teacher, and the numbers of images that the teacher's network runs for."""
    torch.manual_seed(0)
    teacher, student = cifar.create("resnet14", 10), cifar.create("resnet8", 10)
    cached = CachedTeacher(LiveTeacher(teacher), folder, replace(ABOUT, samples=40))
    distiller = Distiller(cached, student, losses, example=torch.zeros(1, 3, 16, 16))
    runs: list[int] = []
    teacher.register_forward_pre_hook(lambda _m, inputs: runs.append(len(inputs[0])))
    return distiller.train(), runs


@pytest.mark.parametrize(
    "losses",
    [
        {"kd": 1.0, "amd": 100.0},
        {"amd": {"weight": 100.0, "power": [1, 2, 4]}, "at": 10.0, "ft": {"weight": 1.0, "rate": None}},
        {"pkt": 10.0, "rkd": 1.0, "amd": {"weight": 10.0, "attention": "max"}},
        {"ce": 1.0, "dkd": 1.0},
    ],
    ids=lambda losses: " ".join(losses),
)
def test_cached_terms_are_the_live_ones_within_float16(tmp_path, losses) -> None:
    distiller, runs = cached_distiller(tmp_path, losses)
    images, labels = torch.rand(8, 3, 16, 16), torch.arange(8) % 10
    indices = torch.arange(8) * 3
    state = {name: value.clone() for name, value in distiller.state_dict().items()}
    live = distiller(images, labels, indices)
    live.total.backward()
    gradient = distiller.student.conv1.weight.grad.clone()
    assert runs == [8]
    for warm in (False, True):
        distiller.load_state_dict(state)
        distiller.zero_grad()
        cached = distiller(images, labels, indices, 1)
        cached.total.backward()
        for name, term in live.terms.items():
            torch.testing.assert_close(cached.terms[name], term, rtol=5e-3, atol=1e-5)
        off = (distiller.student.conv1.weight.grad - gradient).norm() / gradient.norm()
        assert off < 2e-2, (warm, off)
    assert runs == [8, 8]


def test_the_teacher_runs_only_for_batches_that_are_not_all_there(tmp_path) -> None:
    distiller, runs = cached_distiller(tmp_path, {"kd": 1.0, "amd": 1.0})
    images = torch.rand(12, 3, 16, 16)
    distiller(images[:4], None, torch.arange(4), 0)
    distiller(images, None, torch.arange(12), 0)
    distiller(images, None, torch.arange(12), 2)
    distiller(images, None, torch.arange(12), 1)
    assert runs == [4, 12, 12]
    mixed = distiller(images, None, torch.arange(12), None)
    assert runs == [4, 12, 12, 12] and mixed.total.isfinite()


@pytest.mark.parametrize("losses", [{"sp": 1.0}, {"amd": {"weight": 1.0, "attention": "gradcam"}}])
def test_losses_that_use_more_force_a_live_teacher(tmp_path, losses) -> None:
    with pytest.raises(InputError, match=rf"^{next(iter(losses))} must use the live teacher.*leave out `cache`"):
        cached_distiller(tmp_path, losses)


def test_top_logits_keep_the_largest_and_what_the_others_weigh() -> None:
    logits = 3 * torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    classes = logits.topk(6, dim=1).indices
    values = to_top(logits, classes)
    back = from_top(values, classes, 40)
    largest = logits.topk(6, dim=1)
    assert torch.equal(back.gather(1, largest.indices), largest.values)
    torch.testing.assert_close(back.logsumexp(1), logits.logsumexp(1))
    torch.testing.assert_close(back.softmax(1).gather(1, largest.indices), logits.softmax(1).gather(1, largest.indices))
    rest = back.scatter(1, largest.indices, 0.0)
    assert ((rest != 0).sum(1) == 34).all() and all(len(row.unique()) == 2 for row in rest)


@pytest.mark.parametrize(("top", "names"), [(3, ["top logits", "top classes"]), (10, ["logits"]), (99, ["logits"])])
def test_a_cache_of_top_logits_teaches_nearly_as_all_do(tmp_path, top, names) -> None:
    torch.manual_seed(0)
    teacher, student = cifar.create("resnet14", 10), cifar.create("resnet8", 10)
    cached = CachedTeacher(LiveTeacher(teacher), tmp_path, replace(ABOUT, samples=40), top)
    Distiller(cached, student, {"kd": 1.0}, example=torch.zeros(1, 3, 16, 16))
    assert [field.name for field in cached.cache.fields] == names
    images, indices = torch.rand(8, 3, 16, 16), torch.arange(8)
    live, stored = teacher(images), cached(images, indices, 0).logits
    assert stored.shape == live.shape and torch.equal(stored.argmax(1), live.argmax(1))
    torch.testing.assert_close(stored.topk(3).values, live.topk(3).values, rtol=2e-3, atol=2e-3)
    again = cached(images, indices, 0).logits
    assert torch.equal(again, stored) and cached.cache.missing_rows == 80 - 8


@pytest.fixture(scope="module")
def teacher(digits_teacher) -> str:
    return str(digits_teacher)


def test_runs_fill_the_cache_and_a_warm_one_changes_nothing(teacher, tmp_path, monkeypatch) -> None:
    options = {"teacher": teacher, "student": "cifar/resnet8", "loss": LOSSES, "epochs": 3, **RECIPE}
    cold = angularkd.distill(**options, cache=str(tmp_path / "cache"), out=str(tmp_path / "cold"))
    warm = angularkd.distill(**options, cache=str(tmp_path / "cache"), out=str(tmp_path / "warm"))
    live = angularkd.distill(**options, out=str(tmp_path / "live"))
    files = [(run.folder / "student.safetensors").read_bytes() for run in (cold, warm)]
    assert files[0] == files[1]
    plans = [json.loads((run.folder / "plan.json").read_text())["cache"] for run in (cold, warm)]
    assert plans[0]["filled"] == 0 and plans[1]["filled"] > 0.95
    first = [json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[0]) for run in (warm, live)]
    for name in LOSSES:
        assert first[0][name] == pytest.approx(first[1][name], rel=0.1)
    accuracies = [run.results["metrics"]["last epoch"]["accuracy"] for run in (warm, live)]
    assert abs(accuracies[0] - accuracies[1]) < 0.08


def test_the_cache_command_fills_verifies_and_describes(teacher, tmp_path, capsys) -> None:
    flags = ["digits", "--teacher", teacher, "--student", "cifar/resnet8", "--image-size", "8", "--augment", "flip"]
    flags += ["--loss", "kd=1", "--loss", "amd=10", "--cache", str(tmp_path / "cache")]
    main(["cache", "fill", *flags])
    printed = capsys.readouterr().out
    assert "the teacher ran for 2,590 images" in printed and "100.0% of" in printed
    main(["cache", "fill", *flags])
    assert "the teacher ran for 0 images" in capsys.readouterr().out
    main(["cache", "verify", *flags])
    assert "logits: off by" in capsys.readouterr().out
    values = next((tmp_path / "cache").glob("*/logits*.f16"))
    content = bytearray(values.read_bytes())
    content[: len(content) // 2] = bytes(len(content) // 2)
    values.write_bytes(bytes(content))
    with pytest.raises(SystemExit):
        main(["cache", "verify", *flags])
    assert "is damaged (logits: values are not those that were written)" in capsys.readouterr().err


def test_maps_in_8_bits_are_filled_verified_and_taught_from(teacher, tmp_path, capsys) -> None:
    folder = tmp_path / "cache"
    flags = ["digits", "--teacher", teacher, "--student", "cifar/resnet8", "--image-size", "8", "--batch-size", "256"]
    flags += ["--loss", "ce=1", "--loss", "amd=10", "--device", "cpu", "--augment", "flip"]
    flags += ["--cache", str(folder), "--cache-maps", "uint8"]
    for action in ("fill", "verify"):
        main(["cache", action, *flags])
    said = capsys.readouterr().out
    assert float(re.findall(r"layer3 PowerMap.*off by (\S+) of", said)[-1]) > 1e-3, "not float16"
    main(["cache", "info", str(folder)])
    assert len(re.findall("uint8", capsys.readouterr().out)) == 3
    codes = next(folder.glob("*/layer1*.u8"))
    assert codes.stat().st_size == 2 * 1295 * 64
    for field in ("layer1", "layer2", "layer3"):
        assert next(folder.glob(f"*/{field}*.done")).stat().st_size == 2 * 1295
    options = {
        **RECIPE,
        "teacher": teacher,
        "student": "cifar/resnet8",
        "loss": {"ce": 1.0, "amd": 10.0},
        "device": "cpu",
        "epochs": 1,
    }
    runs = [
        angularkd.distill(**options, out=str(tmp_path / name), cache=str(folder), cache_maps=name)
        for name in ("uint8", "float16")
    ]
    amd = [json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[0])["amd"] for run in runs]
    assert amd[0] == pytest.approx(amd[1], rel=0.02) and amd[0] != amd[1]


def test_verify_finds_maps_that_are_off_by_more_than_their_code(teacher, tmp_path, capsys) -> None:
    folder = tmp_path / "cache"
    flags = ["digits", "--teacher", teacher, "--student", "cifar/resnet8", "--image-size", "8", "--batch-size", "256"]
    flags += [
        "--loss",
        "amd=10",
        "--device",
        "cpu",
        "--augment",
        "flip",
        "--cache",
        str(folder),
        "--cache-maps",
        "uint8",
    ]
    main(["cache", "fill", *flags])
    file = next(folder.glob("*/layer3*.u8"))
    codes = np.memmap(file, np.uint8, "r+", shape=(2 * 1295, 1, 2, 2))
    marks = np.fromfile(file.with_suffix(".done"), np.uint8)
    codes[:, 0, 0, 0] ^= 16
    np.memmap(file.with_suffix(".sum"), np.uint32, "r+")[:] = Field("any", (1, 2, 2), "uint8").checksums(
        np.asarray(codes), marks
    )
    with pytest.raises(SystemExit):
        main(["cache", "verify", *flags])
    assert "does not hold what the teacher says: layer3" in capsys.readouterr().err


def test_8_bits_are_of_a_cache(teacher) -> None:
    with pytest.raises(InputError, match="`cache_maps` says what a cache stores: name its folder with `cache`"):
        angularkd.distill(**RECIPE, teacher=teacher, student="cifar/resnet8", cache_maps="uint8")


@pytest.mark.parametrize(
    "form", [{}, {"centered": True}, {"centered": True, "grid": 2}], ids=["paper's", "centred", "grid"]
)
def test_8_bits_change_amds_gradient_by_less_than_a_hundredth(tmp_path, form) -> None:
    """Of the student's parameters, against maps in float16."""
    torch.manual_seed(0)
    teacher, student = cifar.create("resnet20", 10), cifar.create("resnet8", 10)
    images = torch.rand(32, 3, 32, 32)
    gradients = []
    for kind in ("float16", "uint8"):
        about = replace(ABOUT, samples=len(images))
        cached = CachedTeacher(LiveTeacher(teacher), tmp_path, about, maps=kind)
        distiller = Distiller(cached, student, {"amd": {"weight": 1.0, **form}}, example=images[:1]).train()
        distiller(images, torch.zeros(32, dtype=torch.long), torch.arange(32), 0).total.backward()
        gradients.append(torch.cat([one.grad.flatten() for one in student.parameters() if one.grad is not None]))
        student.zero_grad()
        distiller.close()
        cached.close()
    off = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    assert 1e-6 < off < 0.01


@pytest.mark.parametrize("top", [1, 3])
def test_top_logits_are_verified_with_their_classes(teacher, tmp_path, capsys, top) -> None:
    flags = ["digits", "--teacher", teacher, "--student", "cifar/resnet8", "--image-size", "8", "--augment", "flip"]
    flags += ["--loss", "kd=1", "--cache", str(tmp_path / "cache"), "--cache-logits", str(top)]
    main(["distill", *flags, "--epochs", "1", "--out", str(tmp_path / "run")])
    main(["cache", "fill", *flags])
    capsys.readouterr()
    main(["cache", "verify", *flags])
    printed = capsys.readouterr().out
    assert "top logits: off by" in printed and "top classes" in printed and "100.0% of" in printed
    file = next((tmp_path / "cache").glob("*/top-classes*.i32"))
    classes = np.fromfile(file, np.int32).reshape(-1, top)
    for wrong, complaint in (
        ((classes[:, -1:] + 1) % 10, "is damaged (top classes: values are not those that were written)"),
        (classes[:, -1:] + 100, "is damaged (top classes: it names classes that the teacher has not)"),
    ):
        np.concatenate([classes[:, :-1], wrong], axis=1).astype(np.int32).tofile(file)
        with pytest.raises(SystemExit):
            main(["cache", "verify", *flags])
        assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--augment", "resized_crop"], "endless views.*--cache-views"),
        (["--mixup", "0.2"], "leave out --cache"),
        (["--loss", "ce=1", "--loss", "sp=1"], "leave out --cache"),
    ],
)
def test_what_cannot_be_stored_is_named_and_leaves_nothing(teacher, tmp_path, capsys, flags, message) -> None:
    common = ["digits", "--teacher", teacher, "--student", "cifar/resnet8", "--image-size", "8"]
    with pytest.raises(SystemExit) as stop:
        main(["distill", *common, *flags, "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "run")])
    complaint = capsys.readouterr().err
    assert stop.value.code == 2 and complaint.count("\n") == 1 and re.search(message, complaint)
    assert not list(tmp_path.iterdir())


def test_endless_views_come_round_again_where_they_are_limited(teacher, tmp_path, capsys) -> None:
    flags = [
        "digits",
        "--teacher",
        teacher,
        "--student",
        "cifar/resnet8",
        "--image-size",
        "8",
        "--augment",
        "resized_crop",
    ]
    main(["cache", "fill", *flags, "--cache-views", "3", "--cache", str(tmp_path / "cache")])
    assert "the teacher ran for 3,885 images" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["cache"], ["cache", "empty"], ["cache", "fill", "digits", "--teacher", "x"]])
def test_the_cache_command_says_what_it_needs(arguments, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_another_forward_with_equal_weights_has_another_cache(tmp_path) -> None:
    keys = set()
    for activation in (nn.ReLU, nn.Tanh):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 4, 3), activation())
        keys.add(_teacher_fingerprint(module))
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("action", "flags", "message"),
    [
        ("verify", [], "fill it first"),
        ("fill", ["--loss", "ce=1"], "no loss of this objective uses the teacher"),
        ("fill", ["--teacher-train", "1"], "is to be fitted first"),
        ("fill", ["--cache", __file__], "--cache"),
    ],
)
def test_a_cache_that_cannot_be_used_is_named(teacher, tmp_path, capsys, action, flags, message) -> None:
    common = ["digits", "--teacher", teacher, "--student", "cifar/resnet8", "--image-size", "8", "--augment", "flip"]
    cache = [] if "--cache" in flags else ["--cache", str(tmp_path / "cache")]
    with pytest.raises(SystemExit) as stop:
        main(["cache", action, *common, *cache, *flags])
    complaint = capsys.readouterr().err
    assert stop.value.code == 2 and complaint.count("\n") == 1 and message in complaint


def test_cached_steps_leave_the_teacher_as_it_was(tmp_path) -> None:
    distiller, runs = cached_distiller(tmp_path, {"ce": 1.0, "kd": 1.0, "amd": 10.0})
    module = distiller.teacher.module
    weights, hooks = fingerprint(module), hooks_of(module)
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1)
    images, labels, indices = torch.rand(8, 3, 16, 16), torch.arange(8), torch.arange(8)
    for view in (0, 1, 0, None):  # two that are stored, one that is there already, one live
        distiller(images, labels, indices, view).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert runs == [8, 8, 8]
    assert fingerprint(module) == weights
    assert hooks_of(module) == hooks and sum(map(len, hooks.values())) > 0
    assert not any(part.training for part in module.modules())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(name.startswith("teacher") for name in distiller.state_dict())
    distiller.close()
    assert sum(map(len, hooks_of(module).values())) == 1, "the one that counts here"


def hooks_of(module: nn.Module) -> dict[str, list[object]]:
    """The hooks in front of and behind each part of a module."""
    return {
        name: [*part._forward_pre_hooks.values(), *part._forward_hooks.values()]
        for name, part in module.named_modules()
    }
