"""Who may import whom: data flows one way, and importing the package is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import angularkd

PACKAGE = Path(angularkd.__file__).parent
MAY_IMPORT = {
    "errors": set(),
    "modes": set(),
    "files": {"errors"},
    "types": set(),
    "loss_texts": {"errors"},
    "memory": set(),
    "config": {"loss_texts", "errors"},
    "data": {"memory", "types", "errors"},
    "compiling": set(),
    "class_mapping": {"compiling", "errors"},
    "models": {"class_mapping", "compiling", "errors", "files"},
    "attention": {"types", "errors"},
    "tracing": {"modes"},
    "stages": {"tracing", "errors"},
    "token_attention": {"attention"},
    "features": {"attention", "token_attention", "stages", "types", "errors"},
    "pairing": {"stages", "errors"},
    "losses": {"attention", "types", "errors"},
    "teacher_cache": {"files", "errors"},
    "cached_teacher": {"features", "teacher_cache", "types", "errors"},
    "distiller": {
        "cached_teacher",
        "class_mapping",
        "compiling",
        "features",
        "losses",
        "pairing",
        "stages",
        "teacher_cache",
        "types",
        "errors",
    },
    "training": {
        "compiling",
        "teacher_cache",
        "memory",
        "class_mapping",
        "config",
        "data",
        "models",
        "stages",
        "pairing",
        "losses",
        "distiller",
        "types",
        "errors",
        "files",
        "modes",
    },
    "show": {"training"},
    "listing": {"attention", "data", "losses", "models", "errors"},
    "commands": {"config", "models", "show", "training", "errors", "files"},
    "filling": {"config", "data", "files", "show", "teacher_cache", "training", "types", "errors"},
    "explanation": {"attention", "features", "losses", "pairing"},
    "figures": {"explanation", "files", "errors"},
    "explaining": {
        "attention",
        "config",
        "data",
        "explanation",
        "figures",
        "models",
        "pairing",
        "training",
        "files",
        "errors",
    },
    "demo": {"commands", "config", "show", "training", "errors", "files"},
    "__main__": {"cli"},
    "cli": {"config", "commands", "demo", "explaining", "filling", "listing", "errors", ""},
    "": {"commands", "explaining", "distiller", "losses", "errors"},
}
"""By part (a module or a folder of the package): the parts it may import. The package itself has an empty name."""

SEES_CONFIG = {"config", "training/build", "training/build_data", "commands", "explaining", "filling", "demo", "cli"}


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


def test_every_part_has_its_row() -> None:
    assert {part_of(name_of(file).split("/")[0]) for file in modules()} == set(MAY_IMPORT)


@pytest.mark.parametrize("file", modules(), ids=name_of)
def test_imports_keep_to_the_table(file) -> None:
    part = name_of(file).split("/")[0]
    imported = {part_of(module) for module in imports(file)} - {part}
    assert imported <= MAY_IMPORT[part], f"{name_of(file)} imports {imported - MAY_IMPORT[part]}"


def test_the_table_has_no_cycle() -> None:
    order: list[str] = []

    def visit(part: str, path: tuple[str, ...]) -> None:
        assert part not in path, " -> ".join((*path, part))
        if part not in order:
            for other in MAY_IMPORT[part]:
                visit(other, (*path, part))
            order.append(part)

    for part in MAY_IMPORT:
        visit(part, ())


def test_only_the_build_and_the_commands_see_a_configuration() -> None:
    seeing = {name_of(file) for file in modules() if "config" in {module.split(".")[0] for module in imports(file)}}
    assert seeing | {"config"} == SEES_CONFIG


def test_no_loss_is_named_outside_of_the_losses_and_the_defaults() -> None:
    from angularkd.losses.objective import LOSSES

    for file in (*PACKAGE.glob("training/*.py"), *PACKAGE.glob("data/*.py"), PACKAGE / "distiller.py"):
        strings = {n.value for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Constant)}
        allowed = {"ce"} if name_of(file) == "training/build" else set()
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
    code = f"import sys; {statement}; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_those_promised() -> None:
    assert set(angularkd.__all__) == {
        "AMDLoss",
        "Distiller",
        "InputError",
        "Run",
        "distill",
        "evaluate",
        "explain",
        "plan",
        "train",
    }
    for name in angularkd.__all__:
        assert getattr(angularkd, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        angularkd.nothing  # noqa: B018


def test_no_module_hides_a_public_name() -> None:
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not parts & set(angularkd.__all__), "importing the module would replace the name"
