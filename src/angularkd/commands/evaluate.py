"""The evaluate command: the metrics of a model, alone or beside its teacher."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from angularkd.commands.watched import Watched
from angularkd.config import EvaluateConfig
from angularkd.features import FeatureExtractor, ModelOutput, Pair, pair_models
from angularkd.metrics import COSTS, METRICS, Extract, Subject, check_metrics, measure_costs, temperature_on
from angularkd.metrics import evaluate as measure
from angularkd.models import Classifier
from angularkd.system.files import check_file_writable, write_json
from angularkd.system.modes import seeded
from angularkd.training import Evaluation, Modules, build_evaluation, open_dataset, predictor, taken_out

OF_TWO = {"teacher_logits", "student_features", "teacher_features"}
"""Signals that take two networks."""
FLATTERED = "metrics after temperature scaling flatter the model: the temperature was fitted on these very images"


def evaluate(**options: Any) -> dict[str, Any]:
    """Measure a model, alone or beside its teacher.

    Args:
        options: the fields of `angularkd.config.EvaluateConfig`, which are the flags of `angularkd evaluate`. `model`
            and `teacher` may be `torch.nn.Module`s too; `weights` are then loaded into it.

    Returns:
        What was measured on which images; `metrics` holds for each model its metrics by name, those of several numbers in the order of
        `classes`; `temperature` for each model that by which its logits were divided, and `pairs` the stages that were compared.

    Raises:
        InputError: when something that was given cannot be used.
    """
    texts, modules = taken_out(options)
    return run_evaluation(EvaluateConfig.from_options(**texts), modules)


def run_evaluation(config: EvaluateConfig, modules: Modules = MappingProxyType({})) -> dict[str, Any]:
    """Measure what a checked configuration names, and write it to `json_file` where one is given."""
    if config.metrics:
        check_metrics(config.metrics)
    if config.json_file is not None:
        check_file_writable(Path(config.json_file), "json_file")
    on_images = [name for name in config.metrics if name in METRICS] if config.metrics else None
    costs = [name for name in config.metrics if name in COSTS]
    fits = any("temperature" in METRICS[name].needs for name in on_images or ())
    dataset = open_dataset(config)
    with seeded(0):  # a model's first weights are drawn before its own are read
        built = build_evaluation(config, dataset, modules, also=("val",) if fits else ())
    model = _Measured("model", built.model, built, config.split, fits)
    teacher = _Measured("teacher", built.teacher, built, config.split, fits) if built.teacher is not None else None
    pairs = _pairs(built, on_images or ())
    found, speed = {config.model: model.costs(costs)}, {}
    if on_images != []:
        started = time.perf_counter()
        with _extractors(built, pairs) as extractors:
            found[config.model] |= model.figures(on_images, teacher, extractors)
        seconds = time.perf_counter() - started - (teacher.watched.seconds if teacher is not None else 0.0)
        speed = {"images_per_second": model.watched.images / seconds}
    temperatures = {config.model: model.temperature}
    if teacher is not None:
        who, alone = f"{config.teacher} (teacher)", _without_teacher(on_images)
        found[who], temperatures[who] = teacher.costs(costs), teacher.temperature
        if alone != []:
            found[who] |= teacher.figures(alone)
    fitted = {who: temperature for who, temperature in temperatures.items() if temperature is not None}
    results = {
        "data": config.data,
        "split": config.split,
        "images": len(built.data.dataset.splits[config.split]),
        "classes": list(built.data.dataset.classes),
        "parameters": built.model.parameters,
        "preprocessing": str(built.model.preprocessing),
        **speed,
        "metrics": {who: _in_order(figures, config.metrics) for who, figures in found.items()},
        "temperature": fitted,
        "pairs": [{"teacher": pair.teacher.name, "student": pair.student.name} for pair in pairs],
        "notes": [*built.notes, *_flattered(config.split, found[config.model])],
    }
    if config.json_file is not None:
        write_json(Path(config.json_file), results)
    return results


class _Measured:
    """A network that is measured.

    Args:
        role: "model" or "teacher".
        classifier: the network.
        built: the evaluation.
        split: whose images it is measured on.
        fits: whether a temperature is fitted on the validation images, where the network's file says none.
    """

    def __init__(self, role: str, classifier: Classifier, built: Evaluation, split: str, fits: bool) -> None:
        self.classifier, self.built, self.split = classifier, built, split
        self.temperature = classifier.temperature
        if fits and self.temperature is None:
            watched, data = Watched(role, classifier, built.fabric), built.data
            batches = data.batches("val", built.batches.batch_size).epoch(0)
            images = len(data.dataset.splits["val"])
            self.temperature = temperature_on(classifier.module, watched.predict, batches, images)
            watched.check()
        self.watched = Watched(role, classifier, built.fabric)

    def costs(self, names: Sequence[str]) -> dict[str, Any]:
        """Return what it costs, by name."""
        trace, size = self.classifier.trace, self.built.data.size_of(self.split)
        flops = trace.flops if trace is not None else None
        predict = predictor(self.built.fabric, self.classifier)
        subject = Subject(self.classifier.module, predict, size, self.built.fabric.device, flops)
        return measure_costs(subject, names)

    def figures(
        self,
        names: Sequence[str] | None,
        teacher: _Measured | None = None,
        extractors: tuple[Extract, Extract] | None = None,
    ) -> dict[str, Any]:
        """Return its metrics on the images, alone or beside its teacher."""
        both = None
        if teacher is not None and extractors is not None:
            both = self.watched.extracting(extractors[0]), teacher.watched.extracting(extractors[1])
        found = measure(
            self.classifier.module,
            self.watched.predict,
            self.built.batches.epoch(0),
            len(self.built.data.dataset.classes),
            teacher=teacher.watched.predict if teacher is not None else None,
            extractors=both,
            metrics=names,
            temperature=self.temperature,
        )
        self.watched.check()
        return found


def _without_teacher(names: Sequence[str] | None) -> list[str] | None:
    """Return the metrics of those that are of one network alone; None, the usual ones, for None."""
    return [name for name in names if not OF_TWO & set(METRICS[name].needs)] if names is not None else None


def _flattered(split: str, figures: dict[str, Any]) -> list[str]:
    of_temperature = any("temperature" in METRICS[name].needs for name in figures if name in METRICS)
    return [FLATTERED] if split == "val" and of_temperature else []


def _in_order(figures: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: figures[name] for name in names if name in figures} if names else figures


def _pairs(built: Evaluation, names: Sequence[str]) -> list[Pair]:
    """Return the paired stages of model and teacher, where a metric needs them and there is a teacher."""
    model, teacher = built.model, built.teacher
    if teacher is None or not any("student_features" in METRICS[name].needs for name in names):
        return []
    assert model.trace is not None and teacher.trace is not None, "build_evaluation has traced both"
    return pair_models(teacher.module, model.module, teacher.trace, model.trace)


@contextmanager
def _extractors(built: Evaluation, pairs: Sequence[Pair]) -> Iterator[tuple[Extract, Extract] | None]:
    """Yield what gives the features of the paired stages of model and teacher, where there are any."""
    model, teacher = built.model, built.teacher
    if teacher is None or not pairs:
        yield None
        return
    with (
        FeatureExtractor(model.module, [pair.student for pair in pairs], forward=model.predict) as of_student,
        FeatureExtractor(teacher.module, [pair.teacher for pair in pairs], forward=teacher.predict) as of_teacher,
    ):
        yield _in_precision(built, of_student), _in_precision(built, of_teacher)


def _in_precision(built: Evaluation, extractor: FeatureExtractor) -> Extract:
    def extract(images: Tensor) -> ModelOutput:
        with built.fabric.autocast():
            return extractor(images)

    return extract
