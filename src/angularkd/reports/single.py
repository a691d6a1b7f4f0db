"""The page of one run: its outcome, its curves, what its networks do, its plan, and how to repeat it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from angularkd.reports.angles import angle_plots
from angularkd.reports.calibration import reliability_plots
from angularkd.reports.classes import class_plots, confusions
from angularkd.reports.costs import Point, cost_plots
from angularkd.reports.curves import curves
from angularkd.reports.drawing import BASELINE, STUDENT, TEACHER, Drawn, Plot
from angularkd.reports.embeddings import embedding_plots
from angularkd.reports.facts import numbers, plan_of, repetition
from angularkd.reports.names import last_part, short
from angularkd.reports.observing import Networks, Observed, observe
from angularkd.reports.outcome import outcome_of
from angularkd.reports.page import Page, Section, Table
from angularkd.reports.record import Record
from angularkd.reports.wall import build_wall

Draw = Callable[[Sequence[Plot]], list[Drawn]]
MARGIN = {"margin": 1.35, "additive_margin": 0.0, "cosine_margin": 0.0, "scale": 64.0}
"""AMD's own, where the run has none."""


def run_page(
    record: Record,
    networks: Networks | None,
    draw: Draw,
    config_text: str,
    environment: Mapping[str, str],
    missing: str = "",
) -> Page:
    """Return the page of a run.

    Args:
        record: what it left.
        networks: its networks and images, where they can be opened.
        draw: turns plots into figures.
        config_text: its configuration as YAML, which repeats it.
        environment: what it ran on and with, by name.
        missing: what of the networks is missing, and why.
    """
    observed = observe(networks) if networks is not None else None
    title = f"{last_part(record.student)} on {_data_name(record)}"
    if record.distilled:
        title = f"{last_part(record.student)}, taught by {last_part(record.teacher)}, on {_data_name(record)}"
    sections = [
        Section("training", "Training", figures=draw(curves(record))),
        *(_of_networks(record, networks, observed, draw) if networks is not None and observed is not None else ()),
        _classes_and_cost(record, observed, draw),
        numbers(record),
        plan_of(record),
        repetition(record, config_text, environment),
    ]
    if missing:
        left_out = (
            "" if networks is not None else "Test images, attention, calibration and classes are not in this report: "
        )
        text = f"{left_out}{missing}."
        sections.insert(1, Section("missing", "What is missing", notes=[text]))
    lead = f"Run folder `{record.path}`, {record.results.get('epochs', len(record.history))} epochs, objective: {_objective(record)}."
    return Page(title, lead, outcome_of(record), sections, f"Made by angularkd {environment.get('angularkd', '')}.")


def _of_networks(record: Record, networks: Networks, observed: Observed, draw: Draw) -> list[Section]:
    wall = build_wall(networks, observed)
    temperature = record.results.get("temperature", {}).get("last epoch")
    text = ""
    if wall is not None and observed.teacher is not None:
        text = (
            f"Of {observed.which}, the two say the same of {wall.agreeing:,} and differ on {wall.disagreeing:,}. "
            "Below are some of each, evenly spread over the test images, those that differ first. The slider moves AMD's margin m: the "
            "positive and the angular maps, and AMD's distance of teacher and student, are computed anew in this page. On one scale, "
            "colours of an image compare its two networks and all margins."
        )
    elif wall is not None:
        text = (
            f"Of {observed.which}, {wall.agreeing:,} are recognised. Below are some that are not, and some that are, evenly spread "
            "over the test images, with the network's attention."
        )
    return [
        Section(
            "attention",
            "What the networks attend to",
            text,
            draw([*angle_plots(observed), *embedding_plots(observed)]),
            wall=wall,
            margin=_margin(record),
        ),
        Section("calibration", "Calibration", figures=draw(reliability_plots(observed, temperature))),
    ]


def _classes_and_cost(record: Record, observed: Observed | None, draw: Draw) -> Section:
    costs = cost_plots(_points(record, observed), _device(observed))
    if observed is None:
        return Section("cost", "Cost", figures=draw(costs))
    mistakes = [[each.truth, each.said, f"{each.count} of {each.images}"] for each in confusions(observed)]
    table = Table(["class", "taken for", "images"], mistakes, "Most frequent mistakes", frozenset({1}))
    figures = draw([*class_plots(observed), *costs])
    return Section("classes", "Classes and cost", figures=figures, tables=[table] if mistakes else [])


def _margin(record: Record) -> dict[str, float]:
    amd = record.objective.get("amd")
    options = amd if isinstance(amd, dict) else {}
    return {
        name: float(options[name]) if isinstance(options.get(name), int | float) else usual
        for name, usual in MARGIN.items()
    }


def _points(record: Record, observed: Observed | None) -> list[Point]:
    images = record.results["images"]
    found = []
    named = (
        ("student", record.metrics, record.results.get("parameters"), STUDENT),
        ("teacher", record.teacher_metrics, record.teacher_parameters, TEACHER),
        ("without the teacher", record.baseline_metrics, record.results.get("parameters"), BASELINE),
    )
    for role, metrics, parameters, colour in named:
        costs = {"parameters, millions": parameters / 1e6} if parameters else {}
        network = "student" if role == "without the teacher" else role
        if observed is not None and network in observed.milliseconds:
            costs["latency of one image alone, ms"] = observed.milliseconds[network]
        if "accuracy" in metrics:
            found.append(Point(role, metrics["accuracy"], images, costs, colour))
    return found


def _device(observed: Observed | None) -> str:
    return (
        {"cpu": "processor", "cuda": "GPU", "mps": "GPU"}.get(observed.device, observed.device)
        if observed is not None
        else ""
    )


def _objective(record: Record) -> str:
    terms = []
    for name, value in record.objective.items():
        weight = value.get("weight") if isinstance(value, dict) else value
        terms.append(f"{name} {weight:.3g}" if isinstance(weight, int | float) else f"{name} {weight}")
    return short(" + ".join(terms), 120)


def _data_name(record: Record) -> str:
    data = record.plan.get("data", {}).get("name") or record.config.get("data", "?")
    return last_part(str(data))
