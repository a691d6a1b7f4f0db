"""What a run says of itself, as tables: all its metrics, its plan, and how to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from angularkd.metrics import METRICS, format_metric
from angularkd.reports.page import Code, Section, Table
from angularkd.reports.record import Record

COLUMNS = {
    "last epoch": "last epoch",
    "selected epoch": "selected epoch",
    "from scratch": "without the teacher",
    "teacher": "teacher",
}
"""What results call a model, and what a report does."""


def numbers(record: Record) -> Section:
    """Return the metrics as a table, a column for each model."""
    found = record.results["metrics"]
    models = [name for name in COLUMNS if name in found]
    names = [name for name in METRICS if any(isinstance(found[model].get(name), int | float) for model in models)]
    rows = [
        [
            name.replace("_", " "),
            *(
                format_metric(name, found[model][name]) if isinstance(found[model].get(name), int | float) else ""
                for model in models
            ),
        ]
        for name in names
    ]
    text = (
        f"On {record.results['images']:,} test images. The selected epoch, {record.results.get('selected_epoch', '?')}, is the best on the "
        "validation images."
    )
    return Section("numbers", "All numbers", text, tables=[Table(["", *(COLUMNS[name] for name in models)], rows)])


def plan_of(record: Record) -> Section:
    """Return the plan as tables: networks, paired stages, the objective; nothing for a run that had none."""
    plan = record.plan
    if not plan:
        return Section("plan", "Plan")
    data = plan.get("data", {})
    models = [
        [
            role,
            str(plan[role].get("spec")),
            f"{plan[role].get('parameters', 0):,}",
            str(plan[role].get("preprocessing", "")),
        ]
        for role in ("teacher", "student")
        if role in plan
    ]
    pairs = [
        [
            str(pair["teacher"]),
            _shape(pair["teacher_shape"]),
            str(pair["student"]),
            _shape(pair["student_shape"]),
            _shape(pair["compared_at"]),
        ]
        for pair in plan.get("pairs", ())
    ]
    losses = [
        [name, f"{weight:.4g}", f"{100 * plan.get('gradient_share', {}).get(name, 0):.1f} %"]
        for name, weight in plan.get("weights", {}).items()
    ]
    height, width = data.get("image_size", ("?", "?"))
    text = (
        f"{data.get('classes', '?')} classes; {data.get('train', 0):,} training, {data.get('val', 0):,} validation and "
        f"{data.get('test', 0):,} test images of {height}×{width}, augmented by {' and '.join(data.get('augment', ())) or 'nothing'}."
    )
    stages = ["teacher's stage", "shape", "student's stage", "shape", "compared at"]
    tables = [
        Table(["", "model", "parameters", "preprocessing"], models, "Networks", frozenset({1, 3})),
        Table(stages, pairs, "Paired stages", frozenset({2})),
        Table(["loss", "weight", "share of the first gradient"], losses, "Objective"),
    ]
    return Section(
        "plan", "Plan", text, tables=[table for table in tables if table.rows], notes=list(plan.get("notes", ()))
    )


def repetition(record: Record, config_text: str, environment: Mapping[str, str]) -> Section:
    """Return how to repeat a run: its command, its configuration, and what it was made with."""
    command = "distill" if record.distilled else "train"
    line = f"angularkd {command} {shlex.quote(str(record.config.get('data', 'DATA')))} --config config.yaml --out runs/again"
    rows = [[name, value] for name, value in environment.items() if value]
    rows += [["seconds", f"{record.results['seconds']:,.0f}"]] if "seconds" in record.results else []
    if record.results.get("teacher_fingerprint"):
        rows.append(["fingerprint of the teacher's weights", str(record.results["teacher_fingerprint"])[:16]])
    return Section(
        "repeat",
        "How to repeat it",
        "Save the configuration as `config.yaml`. On the same machine with the same versions and threads, the run ends with equal weights.",
        tables=[Table(["made with", ""], rows, words=frozenset({1}))],
        codes=[Code("Command", line), Code("config.yaml", config_text, folded=True)],
    )


def _shape(shape: Sequence[Any]) -> str:
    return "×".join(map(str, shape))
