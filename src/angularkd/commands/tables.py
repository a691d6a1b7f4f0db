"""What commands print: plans, caches and metrics as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from angularkd.commands.layout import print_table
from angularkd.config import with_flags
from angularkd.distillation import StoredCache
from angularkd.metrics import format_metric
from angularkd.training import Plan, duration


def print_plan(plan: Plan, console: Console) -> None:
    """Print a plan: models, data, pairs, losses, what it will take, and what was decided."""
    models = [
        (role, model["spec"], f"{model['parameters']:,}", str(model["classes"]), model["preprocessing"])
        for role, model in (("teacher", plan.teacher), ("student", plan.student))
    ]
    columns = ("", "model", "parameters", "classes", "preprocessing")
    print_table(console, columns, models, title="Plan", words=("model", "preprocessing"))
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
        pairs = []
        for pair in plan.pairs:
            compared = "x".join(map(str, pair["compared_at"])) + (" (pooled)" if pair["resized"] else "")
            both = [(_stage(pair, role), _shape(pair[f"{role}_shape"])) for role in ("teacher", "student")]
            pairs.append((*both[0], *both[1], compared))
        columns = ("teacher stage", "its shape", "student stage", "its shape", "compared at")
        print_table(console, columns, pairs, words=("teacher stage", "student stage"))
    losses = [(name, f"{plan.weights[name]:g}", f"{share:.1%}") for name, share in plan.gradient_share.items()]
    print_table(console, ("loss", "weight", "share of the first gradient"), losses)
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
    rows = [(name, _shape(list(shape))) for name, shape in fields]
    print_table(console, ("stored of each image", "shape"), rows, title="teacher cache")
    console.print(_fill_level(cache), soft_wrap=True, highlight=False)


def print_stored_cache(cache: StoredCache, console: Console) -> None:
    """Print what a cache on disk is of, what it stores of each image, and how much of that is there."""
    console.print(f"{cache.folder}", soft_wrap=True, highlight=False)
    if cache.about is not None:
        about = cache.about
        size, ops = _shape(about.views.get("image_size", [])), " and ".join(about.views.get("ops", [])) or "nothing"
        console.print(
            f"{about.views_count:,} views of {about.samples:,} images of {size}, augmented by {ops} (seed {about.views.get('seed')}); "
            f"the teacher of fingerprint {about.teacher[:8]}, in {about.precision}",
            highlight=False,
        )
    if cache.problem is not None:
        console.print(with_flags(f"note: {cache.problem}"), soft_wrap=True, highlight=False)
    rows = [
        (field.name, _shape(list(field.shape)), field.dtype, f"{field.size_bytes / 2**20:,.2f}", f"{field.filled:.1%}")
        for field in cache.fields
    ]
    if rows:
        print_table(console, ("stored of each image", "shape", "as", "MiB when full", "filled"), rows)


def _fill_level(cache: dict[str, Any]) -> str:
    return f"{cache['folder']}, {cache['filled']:.1%} of {cache['size_bytes'] / 2**20:,.1f} MiB is there"


def print_metrics(results: dict[str, Any], console: Console) -> None:
    """Print the notes on what was opened, and the metrics of one or several models, a column each."""
    for note in results["notes"]:
        console.print(with_flags(f"note: {note}"), highlight=False, soft_wrap=True)
    numbers = {
        model: {name: format_metric(name, value) for name, value in metrics.items() if isinstance(value, int | float)}
        for model, metrics in results["metrics"].items()
    }
    names = dict.fromkeys(name for metrics in numbers.values() for name in metrics)
    rows = [(name, *(metrics.get(name, "") for metrics in numbers.values())) for name in names]
    title = f"{results['split']} split of {results['data']}, {results['images']:,} images"
    if rows:
        print_table(console, ("metric", *numbers), rows, title=title)
    else:
        console.print(title, highlight=False)


def _shape(shape: list[int]) -> str:
    return "x".join(map(str, shape))


def _stage(pair: dict[str, Any], role: str) -> str:
    losses = pair[f"{role}_before_activation"]
    form = f" ({' and '.join(losses)}: before its activation)" if losses else ""
    return f"{pair[role]}{form}"
