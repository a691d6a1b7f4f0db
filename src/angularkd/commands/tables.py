"""What commands print: plans, caches and metrics as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from angularkd.config import with_flags
from angularkd.metrics import format_metric
from angularkd.training import Plan, duration


def print_plan(plan: Plan, console: Console) -> None:
    """Print a plan: models, data, pairs, losses, what it will take, and what was decided."""
    models = Table("", "model", "parameters", "classes", "preprocessing", title="Plan", title_justify="left")
    for role, model in (("teacher", plan.teacher), ("student", plan.student)):
        models.add_row(role, model["spec"], f"{model['parameters']:,}", str(model["classes"]), model["preprocessing"])
    console.print(models)
    if plan.teacher_validation:
        figures = ", ".join(f"{name} {format_metric(name, value)}" for name, value in plan.teacher_validation.items())
        which = f"{plan.teacher_images:,} of the" if plan.teacher_images < plan.data["val"] else "the"
        console.print(f"teacher on {which} validation images: {figures}", highlight=False)
    data = plan.data
    height, width = data["image_size"]
    views = f"{data['views']:,} views" if data["views"] is not None else "endless views"
    mixing = " and ".join(f"{name} (alpha {alpha:g})" for name, alpha in data["mixing"].items())
    mixed = f", mixed by {mixing}" if mixing else ""
    console.print(
        f"data {data['name']}: {data['classes']} classes, {data['train']:,} train, {data['val']:,} val, {data['test']:,} test images of "
        f"{height}x{width}, augmented by {' and '.join(data['augment']) or 'nothing'} ({views}){mixed}",
        highlight=False,
    )
    if plan.pairs:
        pairs = Table("teacher stage", "its shape", "student stage", "its shape", "compared at")
        for pair in plan.pairs:
            compared = "x".join(map(str, pair["compared_at"])) + (" (pooled)" if pair["resized"] else "")
            pairs.add_row(
                _stage(pair, "teacher"),
                _shape(pair["teacher_shape"]),
                _stage(pair, "student"),
                _shape(pair["student_shape"]),
                compared,
            )
        console.print(pairs)
    losses = Table("loss", "weight", "share of the first gradient")
    for name, share in plan.gradient_share.items():
        losses.add_row(name, f"{plan.weights[name]:g}", f"{share:.1%}")
    console.print(losses)
    console.print(
        f"expected: {plan.images_per_second:,.0f} images/s in training with the live teacher, "
        f"{duration(plan.seconds_expected)} in all, uncompiled and without validation",
        highlight=False,
    )
    if plan.cache is not None:
        fill = plan.cache["seconds_to_fill"]
        rest = f"the rest takes the teacher {duration(fill)}" if fill else "the teacher does not run"
        console.print(f"teacher cache: {_fill_level(plan.cache)}; {rest}", soft_wrap=True, highlight=False)
    for note in plan.notes:
        console.print(with_flags(f"note: {note}"), highlight=False)


def print_cache(cache: dict[str, Any], fields: Sequence[tuple[str, tuple[int, ...]]], console: Console) -> None:
    """Print what a teacher's cache stores of each image, and how much of it is there."""
    table = Table("stored of each image", "shape", title="teacher cache", title_justify="left")
    for name, shape in fields:
        table.add_row(name, _shape(list(shape)))
    console.print(table)
    console.print(_fill_level(cache), soft_wrap=True, highlight=False)


def _fill_level(cache: dict[str, Any]) -> str:
    return f"{cache['folder']}, {cache['filled']:.1%} of {cache['size_bytes'] / 2**20:,.1f} MiB is there"


def print_metrics(results: dict[str, Any], console: Console) -> None:
    """Print the metrics of one or several models, a row each."""
    names = list(dict.fromkeys(name for metrics in results["metrics"].values() for name in metrics))
    table = Table(
        "",
        *names,
        title=f"{results['split']} split of {results['data']}, {results['images']:,} images",
        title_justify="left",
    )
    for model, metrics in results["metrics"].items():
        table.add_row(model, *(format_metric(name, metrics[name]) if name in metrics else "" for name in names))
    console.print(table)


def _shape(shape: list[int]) -> str:
    return "x".join(map(str, shape))


def _stage(pair: dict[str, Any], role: str) -> str:
    losses = pair[f"{role}_before_activation"]
    form = f" ({' and '.join(losses)}: before its activation)" if losses else ""
    return f"{pair[role]}{form}"
