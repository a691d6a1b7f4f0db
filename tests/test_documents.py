"""The documents hold: their snippets run as they stand, their figures are drawn, their site is built without a warning."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import angularkd
import angularkd.exporting.checks
from angularkd import cli
from angularkd.config import DistillConfig, Protocol

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SHORT = {"epochs": "1", "batch_size": "8"}
"""What training commands are given instead, so that they take a second."""
SIZE = 16
"""Of the photographs in pixels, which commands that name a size are given instead of theirs."""
RUN_AS_THEY_STAND = ("README.md", "cache.md", "deploy.md", "metrics.md")
"""Documents whose commands are run, in their order; those of all others are parsed (test_cli.py)."""
NOTEBOOK = ROOT / "examples" / "first_look.ipynb"
TYPED = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


def blocks(document: Path, *languages: str) -> list[str]:
    """Return the code blocks of a document in one of these languages."""
    return re.findall(rf"```(?:{'|'.join(languages)})\n(.*?)```", document.read_text(), re.S)


def commands(document: Path) -> list[list[str]]:
    """Return the angularkd commands of a document, each as its arguments, continuation lines joined."""
    lines = "\n".join(blocks(document, "bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in map(str.strip, lines) if line.startswith("angularkd ")]


@pytest.fixture(scope="session")
def workplace(tmp_path_factory) -> Path:
    """A folder as the documents speak of one: photographs of two classes, a teacher and a student of them."""
    folder = tmp_path_factory.mktemp("documents")
    generator = np.random.default_rng(0)
    for place, count in (("photos/train", 24), ("photos/val", 8), ("photos/test", 8), ("holiday", 1)):
        for i, low in enumerate((0, 120)):
            within = folder / place / ("" if place == "holiday" else ("dark", "bright")[i])
            within.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = generator.integers(low, low + 130, (SIZE, SIZE, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(within / f"{i}{number}.png")
    shutil.copy(folder / "holiday/00.png", folder / "photo.jpg")
    options: dict[str, Any] = {
        "data": str(folder / "photos"),
        "epochs": 2,
        "batch_size": 8,
        "device": "cpu",
        "lr": 0.05,
    }
    teacher, student = str(folder / "runs/teacher"), str(folder / "runs/student")
    angularkd.train(**options, model="cifar/wrn_16_2", image_size=SIZE, out=teacher)
    angularkd.distill(**options, teacher=teacher, student="cifar/wrn_16_1", insist=True, out=student)
    return folder


@pytest.fixture
def there(workplace, tmp_path, monkeypatch) -> Path:
    """A copy of it, as the folder in which a document's snippets run, with training commands made short."""
    folder = tmp_path / "work"
    shutil.copytree(workplace, folder)
    monkeypatch.chdir(folder)
    for name in ("train", "distill"):
        function = getattr(angularkd, name)

        def shortened(_function: Any = function, **options: Any) -> Any:
            if (folder / str(options.get("out"))).exists():
                shutil.rmtree(folder / options["out"])
            return _function(**{**options, "epochs": 1, "batch_size": 8, "device": "cpu"})

        monkeypatch.setattr(sys.modules[f"angularkd.commands.{name}"], name, shortened)
    return folder


def surroundings() -> dict[str, Any]:
    """Return what snippets take for given: networks, a batch, features."""
    torch.manual_seed(0)
    open_model = angularkd.models.open_classifier  # type: ignore[attr-defined]
    return {
        "teacher": open_model("cifar/wrn_16_2", 2).module,
        "student": open_model("cifar/wrn_16_1", 2).module,
        "images": torch.rand(4, 3, 16, 16),
        "labels": torch.tensor([0, 1, 0, 1]),
        "batch": torch.rand(4, 3, 16, 16),
        "logits": torch.randn(4, 2),
        "student_features": [torch.rand(2, 4, 8, 8, requires_grad=True)],
        "teacher_features": [torch.rand(2, 8, 8, 8)],
        "pil_image": Image.new("RGB", (16, 16)),
        "uint8_array": np.zeros((16, 16, 3), np.uint8),
    }


@pytest.mark.parametrize(
    "document",
    [path for path in (ROOT / "README.md", *sorted(DOCS.glob("*.md"))) if blocks(path, "python")],
    ids=lambda p: p.name,
)
def test_its_python_runs(document, there) -> None:
    shutil.copy("holiday/00.png", "a.jpg")
    shutil.copy("holiday/10.png", "b.jpg")
    names = surroundings()
    for block in blocks(document, "python"):
        exec(compile(block, str(document), "exec"), names)


@pytest.mark.parametrize("name", RUN_AS_THEY_STAND)
def test_its_commands_run(name, there, capsys, monkeypatch) -> None:
    monkeypatch.setattr(angularkd.exporting.checks, "REPEATS", 2)  # type: ignore[attr-defined]
    if name == "deploy.md":
        pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    for arguments in commands(ROOT / name if name == "README.md" else DOCS / name):
        if arguments[0] == "study":  # takes minutes: tests of studies run every recipe
            continue
        if "--out" in arguments and (place := there / arguments[arguments.index("--out") + 1]).is_dir():
            shutil.rmtree(place)
        assert _exit_code(_shortened(arguments)) == 0, (arguments, capsys.readouterr().err)


def _exit_code(arguments: list[str]) -> int:
    """Run a command, and return the code with which it ends."""
    try:
        cli.main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def _shortened(arguments: list[str]) -> list[str]:
    """Return the arguments with the options of SHORT, where the command trains."""
    if arguments[0] not in ("train", "distill", "plan", "cache") or arguments[1] == "info":
        return arguments
    if "--image-size" in arguments:
        arguments[arguments.index("--image-size") + 1] = str(SIZE)
    for name, value in SHORT.items():
        flag = f"--{name.replace('_', '-')}"
        if flag in arguments:
            arguments[arguments.index(flag) + 1] = value
        else:
            arguments += [flag, value]
    insist = [] if arguments[0] == "train" else ["--insist"]  # on a teacher of one epoch
    return [*arguments, *insist, "--device", "cpu"]


@pytest.mark.parametrize("document", ["losses.md", "studies.md"])
def test_its_yaml_is_read(document, tmp_path) -> None:
    kind = Protocol if document == "studies.md" else DistillConfig
    for number, block in enumerate(blocks(DOCS / document, "yaml")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block)
        assert kind.load(file)
    assert list(tmp_path.iterdir())


@pytest.mark.parametrize("document", TYPED, ids=lambda p: p.name)
def test_what_else_is_to_be_typed_is_there(document) -> None:
    text = document.read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"^(?:\s{4})?make ([a-z]+)|`make ([a-z]+)`", text, re.M)) <= {
        pair for target in targets for pair in ((target, ""), ("", target))
    }
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"'(?:\.|angularkd)\[([a-z,]+)\]'", text)
    assert {extra for names in named for extra in names.split(",")} <= set(extras)
    for script, options in re.findall(r"python ((?:benchmarks|docs)/\w+\.py)([^`\n]*)", text):
        code = (ROOT / script).read_text() + (ROOT / "benchmarks/contenders/setting.py").read_text()
        for flag in re.findall(r"--[a-z][a-z0-9-]*", options):
            assert f'"{flag}"' in code, f"{document.name}: {script} has no {flag}"


def test_the_notebook_runs(tmp_path, monkeypatch, capsys) -> None:
    """Every code cell, in one namespace as a notebook's kernel runs them, with fewer epochs."""
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    shown: list[bool] = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(bool(plt.get_fignums())))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names: dict[str, Any] = {}
    for cell in notebook_cells():
        source = "".join(cell["source"])
        exec(compile(re.sub(r"epochs=\d+", "epochs=2", source), str(NOTEBOOK), "exec"), names)
    plt.close("all")
    printed = capsys.readouterr().out
    assert shown == [True] and "the teacher's gain" in printed and "it is a " in printed
    assert (names["runs"] / "attention.png").stat().st_size > 5000


def notebook_cells() -> list[dict[str, Any]]:
    """Return the code cells of the notebook."""
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_was_run_from_top_to_bottom() -> None:
    cells = notebook_cells()
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [output["output_type"] for cell in cells for output in cell["outputs"]]
    assert "error" not in kinds and kinds.count("display_data") == 1


def test_the_architecture_names_every_module() -> None:
    """But for the networks of the literature, which are a file a family."""
    words = set(re.findall(r"\w+", (DOCS / "architecture.md").read_text()))
    modules = [path for path in (ROOT / "src/angularkd").rglob("*.py") if path.parent.name != "cifar"]
    assert len(modules) > 200
    assert not [str(path) for path in modules if path.stem != "__init__" and path.stem not in words]


def test_its_figures_are_drawn_by_their_script(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    subprocess.run([sys.executable, DOCS / "figures.py", tmp_path], check=True)
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in (DOCS / "figures").iterdir()}
    assert drawn <= set(re.findall(r"\(figures/([^)]*)\)", (DOCS / "amd.md").read_text()))


def test_the_site_is_built_without_a_warning(tmp_path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "commands/index.html").read_text()
    assert all(f'id="{command}"' in reference for command in cli.COMMANDS)
    assert "Two commands" in (tmp_path / "index.html").read_text()
    assert "figures/first-look-1.png" in (tmp_path / "first-look/index.html").read_text()
    python = (tmp_path / "api/index.html").read_text()
    assert all(name in python for name in angularkd.__all__)
