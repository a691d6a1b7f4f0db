"""Every recipe is loaded, planned, and run for a few steps on images that the test makes."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import angularkd
from angularkd.config import Protocol
from angularkd.data import SOURCES
from angularkd.losses.amd import TERMS
from angularkd.studies.planning import Planner

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
CLASSES, IMAGES = 4, {"train": 4, "val": 2, "test": 1}
STEPS = {
    "epochs": 1,
    "batch_size": 8,
    "image_size": 32,
    "device": "cpu",
    "insist": True,
    "warmup_epochs": 0,
    "compile": "never",
}


def read(recipe: Path) -> dict[str, Any]:
    return yaml.safe_load(recipe.read_text())


def kind_of(objective: dict[str, Any]) -> str:
    """What an objective has run that another of its kind need not run again: its losses with their options, whatever numbers these have."""
    loss = objective["loss"] if isinstance(objective["loss"], dict) else {"default": {}}
    options = {name: one if isinstance(one, dict) else {} for name, one in loss.items()}
    words = {
        name: {key: value if isinstance(value, str) else "" for key, value in one.items()}
        for name, one in options.items()
    }
    return str((sorted(words.items()), objective.get("control")))


def first_uses() -> dict[str, set[str]]:
    """By recipe, the objectives of a kind that no recipe before it has: each is run once."""
    seen: set[str] = set()
    found: dict[str, set[str]] = {}
    for recipe in RECIPES:
        for name, objective in read(recipe)["objectives"].items():
            if kind_of(objective) not in seen:
                seen.add(kind_of(objective))
                found.setdefault(recipe.name, set()).add(name)
        found.setdefault(recipe.name, {next(iter(read(recipe)["objectives"]))})
    return found


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder of class folders with train, val and test."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in IMAGES.items():
        for label in range(CLASSES):
            place = folder / split / f"class {label}"
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


def test_there_are_recipes_for_the_data_sets_and_short_ones() -> None:
    names = {recipe.stem for recipe in RECIPES}
    assert {"digits", "cifar10", "cinic10", "tiny-imagenet", "imagenet", "cifar100", "cifar100-cross"} <= names
    assert {"cifar10-attention-transfer", "cifar10-tgd", "cifar10-short", "cifar100-short", "ablation-margin"} <= names


def test_there_is_an_ablation_of_each_claim() -> None:
    claims = ["attention", "combined", "local", "margin", "mixing", "power", "teachers", "terms"]
    assert {f"ablation-{claim}" for claim in claims} == {one.stem for one in RECIPES if one.stem.startswith("ablation")}
    terms = read(next(one for one in RECIPES if one.stem == "ablation-terms"))["objectives"]
    asked = {frozenset(one["loss"]["amd"].get("terms", TERMS)) for one in terms.values()}
    assert asked == {frozenset(some) for count in (1, 2, 3) for some in itertools.combinations(TERMS, count)}


def test_the_documentation_lists_every_recipe() -> None:
    text = (RECIPES[0].parents[1] / "docs" / "studies.md").read_text()
    missing = [recipe.name for recipe in RECIPES if f"(../recipes/{recipe.name})" not in text]
    assert not missing


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_header_says_what_is_planned(recipe) -> None:
    header = "".join(line for line in recipe.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert f"angularkd study recipes/{recipe.name}" in header
    assert re.search(r"[Pp]ublished", header), "with its source, or that there is none"
    assert re.search(r"Expected time: (about )?[\w,]+ (hours|minutes)\b.* of an AMD EPYC", header), "on named hardware"
    options = read(recipe)
    assert options["data"].partition(":")[0] in SOURCES
    plan = Planner(Protocol.read(options, recipe.name)).plan({})
    varied = int(np.prod([len(values) for values in options.get("vary", {}).values()]))
    groups = len(options["pairs"]) * varied
    counts = {
        kind: sum(cell.kind == kind for cell in plan.cells) / groups for kind in ("result", "selection", "teacher")
    }
    counts["result"] += plan.undecided / groups
    for word, kind in (("students", "result"), ("trials", "selection"), ("teachers?", "teacher")):
        said = re.search(rf"(\d+|\ba) {word}", header)
        planned = counts[kind] if kind != "teacher" else np.ceil(counts[kind])  # pairs may share one
        assert said is None or planned == (1 if said[1] == "a" else int(said[1])), (word, counts)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_runs(recipe, images, tmp_path) -> None:
    options = read(recipe)
    pair = options["pairs"][0]
    pair.pop("teacher_weights", None)  # it is trained here
    teacher = pair["teacher"] if isinstance(pair["teacher"], dict) else {"model": pair["teacher"]}
    objectives = {
        name: {key: value for key, value in objective.items() if key != "grid"}
        for name, objective in options["objectives"].items()
        if name in first_uses()[recipe.name]
    }
    for objective in objectives.values():
        for loss in objective["loss"].values() if isinstance(objective["loss"], dict) else ():
            if isinstance(loss, dict):
                loss.pop("warmup_epochs", None)  # longer than these runs
    recipes_own = {name: value for name, value in options["recipe"].items() if name not in ("device",)}
    study = angularkd.study(
        {
            **options,
            "data": str(images),
            "pairs": [{**pair, "teacher": {**teacher, "epochs": 1}}],
            "objectives": objectives,
            "seeds": [0],
            "baselines": False,
            "vary": {name: values[-1:] for name, values in options.get("vary", {}).items()},
            "recipe": {**recipes_own, **STEPS},
        },
        out=tmp_path / "s",
    )
    assert not study.failed, [line["error"] for line in study.failed]
    assert study.left == 0 and {line["objective"] for line in study.cells if line["kind"] == "result"} == set(
        objectives
    )
