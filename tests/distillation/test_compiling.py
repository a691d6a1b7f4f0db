"""Compiled code computes what it does as it is written, once for one shape, and runs are compiled where that pays."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import compiled_checks
from angularkd import Distiller
from angularkd.losses.amd import cosine_with_margin
from angularkd.losses.polynomials import cosine_series, log_sigmoid
from angularkd.training import build, compilation
from helpers import distillation_job


@pytest.mark.parametrize(
    "check",
    [
        compiled_checks.every_loss_is_compiled_whole,
        compiled_checks.inductor_computes_the_same,
        compiled_checks.compiled_amd_is_the_eager_one,
        compiled_checks.half_precision_is_compiled,
        compiled_checks.what_cannot_be_compiled_is_named,
        compiled_checks.a_distiller_inside_of_somebody_s_torch_compile_computes_the_same,
    ],
    ids=lambda check: check.__name__,
)
def test_compiled(check) -> None:
    checked(check)


def test_a_compiled_run_with_a_cache_goes_on_where_it_stopped(teacher) -> None:
    checked(compiled_checks.a_compiled_run_with_a_cache_goes_on_where_it_stopped, teacher)


def checked(check: Callable[..., None], *arguments: str) -> None:
    command = [sys.executable, compiled_checks.__file__, check.__name__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "checked\n", done.stderr


@pytest.mark.parametrize("margin", [0.5, 1.0, 1.35, 2.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_the_polynomial_is_the_cosine_with_its_slope(monkeypatch, margin, dtype, tolerance) -> None:
    cosine = torch.linspace(0, 1, 1001, dtype=dtype)
    series = cosine_series(margin)
    found = []
    for compiled in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiled=compiled: compiled)
        leaf = cosine.clone().requires_grad_()
        value = cosine_with_margin(leaf, margin, 0.0, series)
        value.sum().backward()
        found.append((value.detach(), leaf.grad))
    assert (found[0][0] - found[1][0]).abs().max() < tolerance
    inner = slice(0, 990)  # nearer to 1 the trigonometric slope is a difference of rounded numbers
    assert (found[0][1] - found[1][1])[inner].abs().max() < 100 * tolerance
    assert found[1][1][-1].item() == pytest.approx(margin**2, rel=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_log_sigmoid_in_compiled_code_is_the_usual_one(dtype, tolerance) -> None:
    x = torch.linspace(-200, 200, 4001, dtype=dtype, requires_grad=True)
    usual, ours = torch.nn.functional.logsigmoid(x), log_sigmoid(x)
    torch.testing.assert_close(ours, usual, rtol=tolerance, atol=tolerance)
    slopes = [torch.autograd.grad(y.sum(), x)[0] for y in (ours, usual)]
    torch.testing.assert_close(*slopes, rtol=tolerance, atol=tolerance)
    inner = torch.linspace(-50, 50, 101, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log_sigmoid, inner) and torch.autograd.gradgradcheck(log_sigmoid, inner)


@pytest.mark.parametrize(("margin", "additive"), [(1.0, 0.5), (2.5, 0.0)])
def test_no_polynomial_where_it_would_not_converge(margin, additive) -> None:
    assert cosine_series(margin, additive) is None


@pytest.fixture(scope="module")
def teacher(digits_teacher) -> str:
    return str(digits_teacher)


def job(teacher: str, **options):
    return distillation_job(
        data="digits", image_size=8, device="cpu", teacher=teacher, student="cifar/resnet8", **options
    )


def test_long_runs_are_compiled_and_short_ones_are_not(teacher, monkeypatch) -> None:
    huge: list[str] = []
    called_from_cpp: list[bool] = []
    monkeypatch.setattr(Distiller, "compile", lambda self, **given: called_from_cpp.append(given["cpp_wrapper"]))
    monkeypatch.setattr(compilation, "use_huge_pages", lambda: huge.append(choice))
    short, long = job(teacher, epochs=2), job(teacher, epochs=100_000)
    assert compilation.training_seconds(long) == pytest.approx(50_000 * compilation.training_seconds(short))
    for choice, built, expected in (
        ("auto", short, False),
        ("auto", long, True),
        ("always", short, True),
        ("never", long, False),
    ):
        run, logged = built.config.model_copy(update={"compile": choice}), []
        built = replace(built, config=run)
        assert compilation.compile_step(built, logged.append) == expected, choice
        assert bool(logged) == expected
    assert huge == ["auto", "always"] and called_from_cpp == [True, True], (
        "on the processor, where these two are compiled"
    )


def test_what_is_left_out_of_a_second_compilation_runs_as_it_is_written(teacher) -> None:
    distiller = job(teacher, epochs=1).distiller
    distiller.compile(backend="eager")
    assert distiller.teacher._compiled is not None
    distiller.compile(backend="eager", teacher=False)
    assert distiller.teacher._compiled is None


@pytest.mark.parametrize(
    ("precision", "cached", "compiled"),
    [
        ("32-true", "32-true", True),
        ("bf16-mixed", None, True),
        ("bf16-mixed", "32-true", True),
        ("bf16-mixed", "bf16-mixed", False),
    ],
)
def test_a_cache_holds_answers_of_one_rounding(teacher, tmp_path, monkeypatch, precision, cached, compiled) -> None:
    """In half precision a compiled teacher rounds otherwise than the one that another run has as it is written."""
    asked: list[bool] = []
    monkeypatch.setattr(Distiller, "compile", lambda self, teacher, **_: asked.append(teacher))
    folder = {"cache": str(tmp_path)} if cached else {}
    monkeypatch.setattr(build, "answers_in", lambda config: cached)
    built = job(teacher, epochs=1, compile="always", precision=precision, **folder)
    assert compilation.compile_step(built, lambda _: None) and asked == [compiled]
    if cached:
        logged: list[str] = []
        assert compilation.compile_teacher(built, logged.append) == compiled and len(logged) == (2 if compiled else 1)


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_model_whose_operations_cannot_be_counted_runs_as_it_is(teacher, role) -> None:
    built, logged = job(teacher, epochs=100_000), []
    model = getattr(built, role)
    built = replace(built, **{role: replace(model, trace=replace(model.trace, flops=None))})
    assert not compilation.compile_step(built, logged.append)
    assert len(logged) == 1 and "whether compiling pays is not known" in logged[0]
    assert "the operations of a network cannot be counted" in logged[0]


def test_the_student_s_arithmetic_is_counted_three_times_and_a_cached_teacher_s_not(teacher, tmp_path) -> None:
    live, cached = job(teacher, epochs=1), job(teacher, epochs=1, cache=str(tmp_path))
    assert compilation.training_seconds(live) == pytest.approx(4 / 3 * compilation.training_seconds(cached))
    assert compilation.filling_seconds(cached) == pytest.approx(
        cached.cached.cache.rows
        * cached.teacher.trace.flops
        / (compilation.EAGER_FLOPS["cpu"] * torch.get_num_threads())
    )


def test_without_a_compiler_one_line_is_printed_and_the_run_goes_on(teacher, tmp_path) -> None:
    command = [
        Path(sys.executable).with_name("angularkd"),
        "distill",
        "digits",
        "--image-size",
        "8",
        "--teacher",
        teacher,
    ]
    options = ["--student", "cifar/resnet8", "--epochs", "1", "--compile", "always", "--out", str(tmp_path / "run")]
    context = {**os.environ, "CXX": "/nowhere/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "kernels")}
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=context)
    assert done.returncode == 0, done.stderr
    notes = [line for line in done.stdout.splitlines() if "cannot compile" in line]
    assert len(notes) == 1 and "compiler" in notes[0] and (tmp_path / "run" / "student.safetensors").exists()
    assert '"compiled": false' in (tmp_path / "run" / "results.json").read_text()
