"""What the networks of a run do with some test images: their logits, embeddings and attention maps, and their latency."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from lightning_fabric import Fabric
from torch import Tensor

from angularkd.errors import InputError
from angularkd.features import FeatureExtractor, PowerMap, Stage, find_stages, pair_models
from angularkd.models import Classifier
from angularkd.system.modes import mode
from angularkd.system.timing import time_in_turn
from angularkd.types import Batch

LEAST_IMAGES, MOST_IMAGES = 200, 2_000
OPERATIONS = {"cpu": 2e11, "mps": 1e12, "cuda": 2e13}
"""Floating point operations that a report may take, by kind of device: a few seconds."""
UNKNOWN_OPERATIONS = 1e9
CALLS, LEAST_CALLS, LONGEST_SECONDS = 30, 5, 0.8
"""By which latency is measured, of all networks together."""


@dataclass(frozen=True)
class Networks:
    """The networks of a run, on their device, and its test images.

    Attributes:
        fabric: the device and the arithmetic.
        student, teacher: traced, and fitted to the images.
        classes: names by class index.
        images: how many test images there are.
        batches: from rows of the test split to its batches.
        pairs: which stages belong together, as the option `pairs` says it; None for those that are found.
    """

    fabric: Fabric
    student: Classifier
    teacher: Classifier | None
    classes: tuple[str, ...]
    images: int
    batches: Callable[[Int64[np.ndarray, " rows"]], Iterable[Batch]]
    pairs: str | None = None


@dataclass(frozen=True)
class Outputs:
    """What one network gave for the images.

    Attributes:
        logits: of the data's classes; None of a teacher that tells apart others.
        embedding: the input of its classification layer; None where it has none.
        maps: the power maps of its stages, shallow to deep.
    """

    logits: Float[Tensor, "images classes"] | None
    embedding: Float[Tensor, "images dim"] | None
    maps: list[Float[Tensor, "images height width"]]

    @property
    def predicted(self) -> Int64[np.ndarray, " images"]:
        """Return the class of the largest logit of each image."""
        assert self.logits is not None
        return self.logits.argmax(dim=1).numpy()


@dataclass(frozen=True)
class Observed:
    """What the networks gave for some test images.

    Attributes:
        classes: names by class index.
        rows: of the images in the test split, evenly spread over it.
        images: how many the split has.
        labels: the images' classes.
        student, teacher: what each gave; None without a teacher.
        stages: of each map the names of the teacher's and the student's module; the first is empty without a teacher.
        operations: multiplications with additions of a forward of one image, by role, where they are known.
        parameters: by role.
        milliseconds: of a forward of one image, the median of several, by role.
        device: where it was observed.
    """

    classes: tuple[str, ...]
    rows: Int64[np.ndarray, " images"]
    images: int
    labels: Int64[np.ndarray, " images"]
    student: Outputs
    teacher: Outputs | None
    stages: list[tuple[str, str]]
    operations: dict[str, float]
    parameters: dict[str, int]
    milliseconds: dict[str, float]
    device: str

    @property
    def which(self) -> str:
        """Return which images they are, as 200 of 10,000 test images."""
        some = f"{len(self.rows):,} of " if len(self.rows) < self.images else ""
        return f"{some}{self.images:,} test images"

    @property
    def both_classify(self) -> bool:
        """Return whether there is a teacher that tells apart the data's classes."""
        return self.teacher is not None and self.teacher.logits is not None


def observe(networks: Networks, most: int | None = None) -> Observed:
    """Run the networks on some test images, evenly spread over the split.

    Args:
        networks: of a run.
        most: of the images; None for as many as `image_count` says.
    """
    count = min(image_count(networks) if most is None else most, networks.images)
    rows = np.linspace(0, networks.images - 1, count, dtype=np.int64)
    teacher_stages, student_stages, names = _stages(networks)
    roles: dict[str, tuple[Classifier, Sequence[Stage]]] = {"student": (networks.student, student_stages)}
    if networks.teacher is not None:
        roles["teacher"] = (networks.teacher, teacher_stages)
    labels, outputs = _run(networks, roles, rows)
    traces = {role: classifier.trace for role, (classifier, _) in roles.items()}
    return Observed(
        networks.classes,
        rows,
        networks.images,
        labels,
        outputs["student"],
        outputs.get("teacher"),
        names,
        {role: trace.flops / 2 for role, trace in traces.items() if trace is not None and trace.flops},
        {role: classifier.parameters for role, (classifier, _) in roles.items()},
        _milliseconds(networks, {role: classifier for role, (classifier, _) in roles.items()}),
        networks.fabric.device.type,
    )


def image_count(networks: Networks) -> int:
    """Return how many images a report may run the networks on: the same on every machine with such a device."""
    traces = [network.trace for network in (networks.student, networks.teacher) if network is not None]
    each = sum((trace.flops if trace is not None else None) or UNKNOWN_OPERATIONS for trace in traces)
    allowed = OPERATIONS.get(networks.fabric.device.type, OPERATIONS["cpu"]) / each
    return int(min(max(allowed, LEAST_IMAGES), MOST_IMAGES))


def _stages(networks: Networks) -> tuple[list[Stage], list[Stage], list[tuple[str, str]]]:
    """Return the stages of teacher and student that are compared, and their names; none where nothing can be paired."""
    student, teacher = networks.student, networks.teacher
    assert student.trace is not None, "it is fitted to the images"
    if teacher is None:
        stages = find_stages(student.module, student.trace)
        return [], stages, [("", stage.name) for stage in stages]
    assert teacher.trace is not None, "it is fitted to the images"
    try:
        pairs = pair_models(teacher.module, student.module, teacher.trace, student.trace, networks.pairs)
    except InputError:  # such networks may be distilled by their logits alone
        return [], [], []
    names = [(pair.teacher.name, pair.student.name) for pair in pairs]
    return [pair.teacher for pair in pairs], [pair.student for pair in pairs], names


def _run(
    networks: Networks, roles: dict[str, tuple[Classifier, Sequence[Stage]]], rows: Int64[np.ndarray, " images"]
) -> tuple[Int64[np.ndarray, " images"], dict[str, Outputs]]:
    """Return the labels of the images, and what each network gave."""
    reduction = PowerMap()
    labels: list[Tensor] = []
    parts: dict[str, list[tuple[Tensor, Tensor | None, list[Tensor]]]] = {role: [] for role in roles}
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        extractors = {}
        for role, (classifier, stages) in roles.items():
            stack.enter_context(mode(classifier.module, training=False))
            head = classifier.trace.head if classifier.trace is not None else None
            extractors[role] = stack.enter_context(
                FeatureExtractor(classifier.module, stages, (reduction,), head, forward=classifier.predict)
            )
        for batch in networks.batches(rows):
            labels.append(batch.labels.cpu())
            for role, extractor in extractors.items():
                with networks.fabric.autocast():
                    output = extractor(batch.images)
                embedding = output.embedding.float().cpu() if output.embedding is not None else None
                assert output.logits is not None, "a network that has run gives logits"
                maps = [one.float().cpu() for one in output.features.get(reduction, ())]
                parts[role].append((output.logits.float().cpu(), embedding, maps))
    return torch.cat(labels).numpy(), {
        role: _joined(part, len(networks.classes), roles[role][0]) for role, part in parts.items()
    }


def _joined(parts: list[tuple[Tensor, Tensor | None, list[Tensor]]], classes: int, classifier: Classifier) -> Outputs:
    logits, embeddings, maps = zip(*parts, strict=True)
    same_classes = classifier.has_head and logits[0].shape[1] == classes
    embedding = torch.cat(embeddings) if embeddings[0] is not None else None
    return Outputs(
        torch.cat(logits) if same_classes else None,
        embedding.flatten(1) if embedding is not None else None,
        [torch.cat(stage) for stage in zip(*maps, strict=True)],
    )


def _milliseconds(networks: Networks, classifiers: dict[str, Classifier]) -> dict[str, float]:
    """Return the median time of a forward of one image, by role."""
    device = networks.fabric.device
    image = next(iter(networks.batches(np.zeros(1, dtype=np.int64)))).images

    def forward(classifier: Classifier) -> None:
        with torch.inference_mode(), mode(classifier.module, training=False), networks.fabric.autocast():
            classifier.predict(image)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    calls = {role: functools.partial(forward, classifier) for role, classifier in classifiers.items()}
    found = time_in_turn(calls, repeats=CALLS, least_repeats=LEAST_CALLS, longest_seconds=LONGEST_SECONDS)
    return {role: timing["median_ms"] for role, timing in found.items()}
