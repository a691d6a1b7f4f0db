"""Who may import whom: data flows one way, and importing the package is light."""

from __future__ import annotations

import ast
import importlib
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import angularkd

PACKAGE = Path(angularkd.__file__).parent
LINES: tuple[tuple[str, ...], ...] = (
    ("defaults", "errors", "types"),
    ("system",),
    ("config",),
    ("runs",),
    ("data",),
    ("features",),
    ("models",),
    ("losses",),
    ("distillation",),
    ("metrics",),
    ("training",),
    ("explanation", "inference", "studies"),
    ("exporting",),
    ("reports",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
"""The house from the ground up: a room imports only from lines above its own, and rooms on one line never each other."""
BELOW_TRAINING = {room for line in LINES[:10] for room in line} - {"defaults"}
MAY_IMPORT = {
    "defaults": set(),
    "errors": set(),
    "types": set(),
    "system": {"errors"},
    "config": {"defaults", "errors", "system"},
    "runs": {"errors", "system"},
    "data": {"errors", "types", "system"},
    "features": {"errors", "types", "system"},
    "models": {"errors", "system", "runs", "features"},
    "losses": {"errors", "types", "system", "features"},
    "distillation": {"defaults", "errors", "types", "system", "features", "models", "losses"},
    "metrics": {"errors", "types", "system", "features"},
    "training": {*BELOW_TRAINING},
    "explanation": {"errors", "system", "features", "losses"},
    "inference": {"errors", "system", "runs", "data", "models"},
    "exporting": {"errors", "system", "models", "inference"},
    "studies": {"errors", "system", "config", "runs", "data", "models", "losses", "distillation", "training"},
    "reports": {"errors", "types", "system", "runs", "features", "models", "metrics", "studies"},
    "commands": {*BELOW_TRAINING, "training", "explanation", "inference", "exporting", "studies", "reports"},
    "cli": {"errors", "system", "config", "commands", "training", ""},
    "__main__": {"cli"},
    "": {"errors", "runs", "losses", "distillation", "inference", "commands"},
}  # fmt: skip
"""By room (a folder or a module of the package): the rooms it may import. The package itself has an empty name."""
OPEN_ROOMS = {"system", "commands"}
"""Rooms whose modules are imported as such; everything else of another room comes through its face."""

USES_CONFIG = {
    "studies/cells",
    "studies/places",
    "studies/planning",
    "studies/running",
    "studies/settings",
    "studies/study",
    "training/build",
    "training/build_data",
    "training/build_evaluation",
    "training/companions",
    "training/job",
    "training/joining",
    "training/logging",
    "training/modules",
    "training/opening",
    "training/plan",
    "training/precision",
    "training/recipes",
    "training/replay",
    "training/resuming",
    "training/run",
    "training/untrained",
    "commands/cache",
    "commands/demo",
    "commands/distill",
    "commands/evaluate",
    "commands/explain",
    "commands/export",
    "commands/plan",
    "commands/predict",
    "commands/progress",
    "commands/report",
    "commands/replay",
    "commands/structures",
    "commands/study",
    "commands/tables",
    "commands/train",
    "cli/endings",
    "cli/helping",
    "cli/parsing",
    "cli/running",
}
LONGEST_FILE = 350
MEDIAN_FILE = 130
ROOT_MODULES = 6


def imports(file: Path) -> set[str]:
    """The modules of ours that a file imports, dotted, without the package's name."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "angularkd" else {node.module}
            )
    ours = {name for name in found if name and (name == "angularkd" or name.startswith("angularkd."))}
    return {name.removeprefix("angularkd").removeprefix(".") for name in ours}


def part_of(module: str) -> str:
    part = module.split(".")[0]
    return part if (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").is_file() else ""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("__init__").rstrip("/")


def test_every_room_has_its_row() -> None:
    rooms = {part_of(name_of(file).split("/")[0]) for file in modules()}
    assert rooms == set(MAY_IMPORT)
    assert rooms - {""} == {room for line in LINES for room in line}


@pytest.mark.parametrize("file", modules(), ids=name_of)
def test_imports_keep_to_the_table(file) -> None:
    room = name_of(file).split("/")[0]
    imported = {part_of(module) for module in imports(file)} - {room}
    assert imported <= MAY_IMPORT[room], f"{name_of(file)} imports {imported - MAY_IMPORT[room]}"


def test_the_table_goes_one_way() -> None:
    line = {room: number for number, rooms in enumerate(LINES) for room in rooms}
    for room, others in MAY_IMPORT.items():
        for other in others - {""} if room else ():
            assert line[other] < line[room], f"{room} may not import {other}: it is not above it"


def test_nothing_is_allowed_that_nobody_does() -> None:
    done: dict[str, set[str]] = {room: set() for room in MAY_IMPORT}
    for file in modules():
        room = name_of(file).split("/")[0]
        done[room] |= {part_of(module) for module in imports(file)} - {room}
    assert done == MAY_IMPORT


@pytest.mark.parametrize("file", modules(), ids=name_of)
def test_other_rooms_are_entered_by_their_face(file) -> None:
    room = name_of(file).split("/")[0]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("angularkd."):
            _, other, *inside = node.module.split(".")
            if other in (room, *OPEN_ROOMS) or (PACKAGE / f"{other}.py").is_file():
                continue
            assert not inside, f"{name_of(file)} imports {node.module}: take it from the face of {other}"
            face = importlib.import_module(f"angularkd.{other}")
            assert {alias.name for alias in node.names} <= set(face.__all__), (
                f"{name_of(file)}: not in __all__ of {other}"
            )


def test_a_face_names_what_it_offers_and_nobody_inside_uses_it() -> None:
    for room in (path for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()):
        face = importlib.import_module(f"angularkd.{room.name}")
        assert face.__doc__, room
        offered = getattr(face, "__all__", [])
        assert all(name in vars(face) for name in offered)
        for file in room.glob("*.py"):
            if file.name != "__init__.py":
                assert room.name not in imports(file), f"{file} imports its own face"


def test_a_face_offers_what_somebody_outside_of_the_room_takes_or_reads_about() -> None:
    root = Path(__file__).resolve().parents[1]
    taken: dict[str, set[str]] = {}
    for room, name in re.findall(r"\b(\w+)\.(\w+)\b", (root / "docs/architecture.md").read_text()):
        taken.setdefault(room, set()).add(name)
    for file in (file for part in ("src", "tests", "benchmarks", "examples") for file in (root / part).rglob("*.py")):
        text = file.read_text()
        found = re.findall(r"\bangularkd\.(\w+)\.(\w+)\b", text)  # in a docstring
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("angularkd."):
                found += [(node.module.removeprefix("angularkd."), alias.name) for alias in node.names]
        for room, name in found:
            if not file.is_relative_to(PACKAGE / room):
                taken.setdefault(room, set()).add(name)
    for face in PACKAGE.glob("*/__init__.py"):
        offered = set(getattr(importlib.import_module(f"angularkd.{face.parent.name}"), "__all__", ()))
        assert offered <= taken.get(face.parent.name, set()), f"{face.parent.name}: take these out of its face"


def test_the_modules_form_no_cycle() -> None:
    graph = {name_of(file).replace("/", "."): file for file in modules()}
    order: list[str] = []

    def targets(name: str) -> set[str]:
        return {module for module in imports(graph[name]) if module in graph and module != name}

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in order:
            for other in targets(name):
                visit(other, (*path, name))
            order.append(name)

    for name in graph:
        if name:  # the package itself loads its names when they are used
            visit(name, ())


def test_only_the_build_the_run_and_the_commands_use_a_configuration() -> None:
    using = {name_of(file) for file in modules() if "config" in {module.split(".")[0] for module in imports(file)}}
    assert {name for name in using if not name.startswith("config")} == USES_CONFIG


def test_files_are_one_idea_each() -> None:
    lengths = sorted(len(file.read_text().splitlines()) for file in modules())
    assert lengths[-1] <= LONGEST_FILE, "split it, or say here why not"
    assert statistics.median(lengths) <= MEDIAN_FILE
    assert len(list(PACKAGE.glob("*.py"))) <= ROOT_MODULES


def test_no_loss_is_named_outside_of_the_losses_and_the_defaults() -> None:
    from angularkd.losses import LOSSES

    for file in (*PACKAGE.glob("training/*.py"), *PACKAGE.glob("data/**/*.py"), *PACKAGE.glob("distillation/*.py")):
        strings = {n.value for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Constant)}
        allowed = {
            "training/build": {"ce"},
            "distillation/teacher_cache": {"ab"},  # the mode of a file
            "distillation/cached_teacher": {"embedding"},  # the name of a field
            "training/diagnosis": {"embedding"},  # the end of a signal's name
        }.get(name_of(file), set())
        assert not (set(LOSSES) & strings) - allowed, file


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import angularkd", ["torch", "lightning_fabric", "timm", "torchvision", "sklearn"]),
        (
            "from angularkd import AMDLoss, Distiller",
            ["lightning_fabric", "timm", "torchvision", "sklearn"],
        ),
        ("import angularkd.training.run", ["timm", "sklearn", "transformers", "datasets", "matplotlib", "pandas"]),
        ("import angularkd.cli", ["torch"]),
    ],
)
def test_imports_are_light(statement, absent) -> None:
    hidden = "sys.modules['torchmetrics'] = None"  # which lightning_fabric imports where it is installed, with all that it imports
    code = f"import sys; {hidden}; {statement}; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_there_and_described() -> None:
    assert {"AMDLoss", "Distiller", "distill"} <= set(angularkd.__all__)
    for name in angularkd.__all__:
        assert getattr(angularkd, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        angularkd.nothing  # noqa: B018


def test_type_checkers_and_python_get_the_same_names() -> None:
    tree = ast.parse(Path(angularkd.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    checked = {
        alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert sorted(checked) == sorted(angularkd.__all__)
    for name, home in checked.items():
        assert vars(importlib.import_module(home))[name] is getattr(angularkd, name)


def test_no_module_hides_a_public_name() -> None:
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not parts & set(angularkd.__all__), "importing the module would replace the name"
