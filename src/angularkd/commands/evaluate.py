"""The evaluate command: the metrics of a model, alone or beside its teacher."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from angularkd.config import EvaluateConfig
from angularkd.features import FeatureExtractor, ModelOutput, pair_models
from angularkd.metrics import METRICS, Extract, check_metrics
from angularkd.metrics import evaluate as measure
from angularkd.system.files import check_file_writable, write_json
from angularkd.system.modes import seeded
from angularkd.training import Evaluation, build_evaluation, open_dataset, predictor


def evaluate(**options: Any) -> dict[str, Any]:
    """Measure a model, alone or beside its teacher.

    Args:
        options: the fields of `angularkd.config.EvaluateConfig`, which are the flags of `angularkd evaluate`.

    Returns:
        What was measured on which images; `metrics` holds for each model its metrics by name.

    Raises:
        InputError: when something that was given cannot be used.
    """
    return run_evaluation(EvaluateConfig.from_options(**options))


def run_evaluation(config: EvaluateConfig) -> dict[str, Any]:
    """Measure what a checked configuration names, and write it to `json_file` where one is given."""
    if config.metrics:
        check_metrics(config.metrics)
    if config.json_file is not None:
        check_file_writable(Path(config.json_file), "json_file")
    dataset = open_dataset(config)
    with seeded(0):  # a model's first weights are drawn before its own are read
        built = build_evaluation(config, dataset)
    model, teacher, classes = built.model, built.teacher, len(built.data.dataset.classes)
    started = time.perf_counter()
    with _extractors(built, config.metrics) as extractors:
        figures = measure(
            model.module,
            predictor(built.fabric, model),
            built.batches.epoch(0),
            classes,
            teacher=predictor(built.fabric, teacher) if teacher is not None else None,
            extractors=extractors,
            metrics=config.metrics or None,
        )
    seconds = time.perf_counter() - started
    found = {config.model: figures}
    if teacher is not None:
        found[f"{config.teacher} (teacher)"] = measure(
            teacher.module, predictor(built.fabric, teacher), built.batches.epoch(0), classes
        )
    images = len(built.data.dataset.splits[config.split])
    results = {
        "data": config.data,
        "split": config.split,
        "images": images,
        "parameters": model.parameters,
        "preprocessing": str(model.preprocessing),
        "images_per_second": images / seconds,
        "metrics": found,
    }
    if config.json_file is not None:
        write_json(Path(config.json_file), results)
    return results


@contextmanager
def _extractors(built: Evaluation, metrics: Sequence[str]) -> Iterator[tuple[Extract, Extract] | None]:
    """Yield what gives the features of the paired stages of model and teacher, where a metric needs them and there is a teacher."""
    model, teacher = built.model, built.teacher
    if teacher is None or not any("student_features" in METRICS[name].needs for name in metrics):
        yield None
        return
    assert model.trace is not None and teacher.trace is not None, "build_evaluation has traced both"
    pairs = pair_models(teacher.module, model.module, teacher.trace, model.trace)
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
