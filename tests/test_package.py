"""What is published: the package's files, its metadata, and the hosted checks agree with the code."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

import angularkd

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def workflow() -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())


def test_every_file_of_the_package_is_in_the_wheel() -> None:
    package, globs = ROOT / "src/angularkd", PROJECT["tool"]["setuptools"]["package-data"]["angularkd"]
    files = [file for file in package.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")]
    assert package / "py.typed" in files
    for file in files:
        name = file.relative_to(package).as_posix()
        assert any(fnmatch.fnmatch(name, pattern) for pattern in globs), f"{name}: name it in package-data"


def test_every_room_is_a_package() -> None:
    for folder in {file.parent for file in (ROOT / "src/angularkd").rglob("*.py")}:
        assert (folder / "__init__.py").is_file(), f"{folder}: setuptools finds packages by their __init__.py"


def test_the_version_is_that_of_the_installation() -> None:
    assert angularkd.__version__ == version("angularkd")
    assert "version" in PROJECT["project"]["dynamic"]


def test_the_citation_is_that_of_the_readme() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    paper = citation["preferred-citation"]
    readme = (ROOT / "README.md").read_text()
    assert citation["license"] == PROJECT["project"]["license"] and citation["title"] == PROJECT["project"]["name"]
    assert paper["title"] in readme and str(paper["volume"]) in readme
    for author in paper["authors"]:
        assert f"{author['family-names']}, {author['given-names']}" in readme


def test_hosted_checks_cover_what_the_package_promises() -> None:
    jobs = workflow()["jobs"]
    tested = jobs["test"]["strategy"]["matrix"]
    assert {name.split("-")[0] for name in tested["os"]} == {"ubuntu", "macos", "windows"}
    promised = [c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert tested["python"] == promised == jobs["package"]["strategy"]["matrix"]["python"]
    assert PROJECT["project"]["requires-python"] == f">={promised[0]}"
    oldest = {
        name: re.search(rf'"{name}>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
        for name in ("torch", "torchvision")
    }
    steps = str(jobs["test"]["steps"])
    for name, found in oldest.items():
        assert found is not None and f"'{name}=={found[1]}.*'" in steps.replace("\\'", "'").replace('"', "'"), name


@pytest.mark.parametrize("name", ["bug", "idea"])
def test_issue_templates_are_forms(name) -> None:
    form = yaml.safe_load((ROOT / f".github/ISSUE_TEMPLATE/{name}.yml").read_text())
    assert {"name", "description", "body"} <= set(form)
    assert all(part["type"] == "textarea" and part["attributes"]["label"] for part in form["body"])


def test_what_contributors_are_told_of_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", text, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for path in re.findall(r"`((?:src|tests)/[\w/.]+)`", text) + re.findall(r"\]\(([\w/.]+)\)", text):
        assert (ROOT / path).exists(), path
    source = "\n".join(file.read_text() for file in (ROOT / "src").rglob("*.py"))
    for table in ("LOSSES", "METRICS", "SOURCES", "FORMATS", "GROUPS"):
        assert f"`{table}`" in text and re.search(rf"^{table}\b", source, re.M), table
