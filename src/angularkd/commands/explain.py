"""The explain command as a function: one image through teacher and student, a figure and a table of AMD's parts."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from angularkd.commands.layout import print_table
from angularkd.config import ExplainConfig
from angularkd.data import decode_image, fit, read_image_file
from angularkd.errors import InputError
from angularkd.explanation import PARTINGS, Explanation, check_figures, draw_explanation, explain_image
from angularkd.features import mechanism, pair_models
from angularkd.models import NORMALIZATIONS, Classifier, Preprocessing, check_trained, fit_to_images, open_classifier
from angularkd.system.files import check_file_writable, write_json
from angularkd.system.modes import seeded
from angularkd.training import CIFAR_SIZE, PHOTOGRAPH_SIZE, as_size

IMAGENET_CLASSES = 1000


def explain(**options: Any) -> Explanation:
    """Show what AMD compares in one image: draw a figure and return its numbers.

    Args:
        options: the fields of `angularkd.config.ExplainConfig`, which are the flags of `angularkd explain`.

    Raises:
        InputError: when something that was given cannot be used.
    """
    return run_explanation(ExplainConfig.from_options(**options))


def run_explanation(config: ExplainConfig, console: Console | None = None) -> Explanation:
    """Explain what a checked configuration names, and print the table on the console."""
    console = console or Console(quiet=True)
    figure = Path(config.out)
    check_figures(figure)
    for file, parameter in ((config.out, "out"), (config.json_file, "json_file")):
        if file is not None:
            check_file_writable(Path(file), parameter)
    if not os.path.exists(config.image):
        raise InputError(f"there is no image {config.image} to read: give a file")
    pixels = decode_image(read_image_file(config.image, config.image), config.image)
    with seeded(0):
        teacher, student, size = _open_models(config)
        pixels = fit(pixels, size)
        found = _explained(config, teacher, student, torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255)
    untrained = "" if student.pretrained else " (untrained)"
    caption = caption_of(config, found)
    draw_explanation(figure, found, pixels, config.teacher, config.student + untrained, caption, config.parts)
    if config.json_file is not None:
        write_json(Path(config.json_file), _numbers(config, found))
    _print(found, config.parts, console)
    console.print(f"figure: {figure}", soft_wrap=True, highlight=False)
    return found


def _open_models(config: ExplainConfig) -> tuple[Classifier, Classifier, tuple[int, int]]:
    """Return teacher and student in evaluation mode, fitted to images of the size returned with them."""
    teacher = open_classifier(
        config.teacher,
        IMAGENET_CLASSES,
        weights=config.teacher_weights,
        normalization=config.teacher_normalization,
        pretrained=True,
        trust=config.trusted,
    )
    check_trained(teacher)
    student = open_classifier(
        config.student,
        teacher.num_classes or IMAGENET_CLASSES,
        weights=config.student_weights,
        normalization=config.student_normalization,
        trust=config.trusted,
    )
    size = _size(config, teacher, student)
    teacher, student = (
        fit_to_images(_preprocessed(classifier), size, None, role)
        for classifier, role in ((teacher, "teacher"), (student, "student"))
    )
    for classifier in (teacher, student):
        classifier.module.eval()
    return teacher, student, size


def _explained(config: ExplainConfig, teacher: Classifier, student: Classifier, image: torch.Tensor) -> Explanation:
    if mechanism(config.attention).signals and teacher.num_classes != student.num_classes:
        raise InputError(
            f"attention {config.attention} uses one class in both models, and the teacher tells apart {teacher.num_classes}, "
            f"the student {student.num_classes}: use another `attention`"
        )
    assert teacher.trace is not None and student.trace is not None, "fit_to_images has traced both"
    assert teacher.preprocessing is not None and student.preprocessing is not None
    pairs = pair_models(teacher.module, student.module, teacher.trace, student.trace, config.pairs)
    return explain_image(
        teacher.module,
        student.module,
        teacher.preprocessing(image),
        student.preprocessing(image),
        pairs,
        config.margins,
        attention=config.attention,
    )


def _size(config: ExplainConfig, teacher: Classifier, student: Classifier) -> tuple[int, int]:
    small = all(classifier.spec.startswith("cifar/") for classifier in (teacher, student))
    return (
        as_size(config.image_size)
        or student.image_size
        or teacher.image_size
        or (CIFAR_SIZE if small else PHOTOGRAPH_SIZE)
    )


def _preprocessed(classifier: Classifier) -> Classifier:
    """Return the classifier with ImageNet's statistics where nothing is known, for there is no data whose own could be taken."""
    if classifier.preprocessing is not None:
        return classifier
    return replace(classifier, preprocessing=Preprocessing(*NORMALIZATIONS["imagenet"], source="ImageNet's, assumed"))


def _numbers(config: ExplainConfig, found: Explanation) -> dict[str, Any]:
    return {
        "image": config.image,
        "teacher": config.teacher,
        "student": config.student,
        "attention": config.attention,
        "pairs": [{"teacher": pair.teacher.name, "student": pair.student.name} for pair in found.pairs],
        "alike": list(found.alike),
        "distance": {f"{margin:g}": list(values) for margin, values in found.distance.items()},
        "cosines_between": [list(names) for names in PARTINGS],
        "cosines": {
            f"{margin:g}": [[None if math.isnan(value) else value for value in row] for row in rows]
            for margin, rows in found.cosines.items()
        },
    }


def caption_of(config: ExplainConfig, found: Explanation) -> str:
    """Return what a reader who does not know AMD needs to read the figure."""
    least = min(range(len(found.alike)), key=lambda number: found.alike[number])
    last = (
        f" They differ most at stage {least + 1} (alike: {found.alike[least]:.2f}; 1 is the same map, 0 no position in common)."
        if len(found.alike) > 1
        else " (alike: 1 is the same map, 0 no position in common)"
    )
    return (
        f"Where the networks look in {Path(config.image).name}, from the first compared stage (left) to the last (right): bright positions "
        f"are where a stage's features are strong (attention: {config.attention}). Distillation with AMD draws the "
        f"student's maps to the teacher's; the bottom row is what it has yet to learn.{last}"
    )


def _print(found: Explanation, parts: bool, console: Console) -> None:
    """Print how alike the maps are and AMD's value, and, of the parts, the cosines between their gradients."""
    margins = list(found.distance)
    rows = [
        (
            f"{number}",
            pair.teacher.name,
            pair.student.name,
            f"{pair.teacher.height}x{pair.teacher.width}",
            f"{alike:.3f}",
            *(f"{found.distance[margin][number - 1]:.2g}" for margin in margins),
        )
        for number, (pair, alike) in enumerate(zip(found.pairs, found.alike, strict=True), start=1)
    ]
    names = [f"AMD, m = {margin:g}" for margin in margins] if len(margins) > 1 else ["AMD"]
    columns = ("stage", "teacher's", "student's", "size", "alike", *names)
    print_table(console, columns, rows, title="attention of teacher and student", words=("teacher's", "student's"))
    console.print(
        "alike: the cosine of both attention maps, 1 where they are the same; AMD: the loss, 0 where they are",
        highlight=False,
    )
    if not parts:
        return
    columns = ("margin", "student stage", *(f"cos {a}, {b}" for a, b in PARTINGS))
    pulls = []
    for margin, of_margin in found.cosines.items():
        stages = [pair.student.name for pair in found.pairs] + ["all, by parameters"]
        for name, row in zip(stages, of_margin, strict=True):
            pulls.append((f"{margin:g}", name, *(f"{cosine:.4f}" for cosine in row)))
    print_table(console, columns, pulls, title="how the gradients of AMD's parts pull", words=("student stage",))
