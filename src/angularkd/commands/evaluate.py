"""The evaluate command: the metrics of a model, alone or beside its teacher."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from angularkd.config import EvaluateConfig
from angularkd.errors import InputError
from angularkd.features import FeatureExtractor, ModelOutput, pair_models
from angularkd.metrics import METRICS, Extract, check_metrics
from angularkd.metrics import evaluate as measure
from angularkd.models import Classifier
from angularkd.system.files import check_file_writable, write_json
from angularkd.system.modes import seeded
from angularkd.training import Evaluation, Modules, build_evaluation, open_dataset, predictor, taken_out


def evaluate(**options: Any) -> dict[str, Any]:
    """Measure a model, alone or beside its teacher.

    Args:
        options: the fields of `angularkd.config.EvaluateConfig`, which are the flags of `angularkd evaluate`. `model`
            and `teacher` may be `torch.nn.Module`s too; `weights` are then loaded into it.

    Returns:
        What was measured on which images; `metrics` holds for each model its metrics by name.

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
    dataset = open_dataset(config)
    with seeded(0):  # a model's first weights are drawn before its own are read
        built = build_evaluation(config, dataset, modules)
    model, teacher, classes = built.model, built.teacher, len(built.data.dataset.classes)
    watched = _Watched("model", model, built.fabric)
    watched_teacher = _Watched("teacher", teacher, built.fabric) if teacher is not None else None
    started = time.perf_counter()
    with _extractors(built, config.metrics) as extractors:
        figures = measure(
            model.module,
            watched.predict,
            built.batches.epoch(0),
            classes,
            teacher=watched_teacher.predict if watched_teacher is not None else None,
            extractors=_both_watched(watched, watched_teacher, extractors),
            metrics=config.metrics or None,
        )
    seconds = time.perf_counter() - started
    watched.check()
    found = {config.model: figures}
    if teacher is not None and watched_teacher is not None:
        seconds -= watched_teacher.seconds
        found[f"{config.teacher} (teacher)"] = measure(
            teacher.module, watched_teacher.predict, built.batches.epoch(0), classes
        )
        watched_teacher.check()
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


class _Watched:
    """A network whose time is taken, and whose weights and outputs are checked.

    Args:
        role: what a message calls it.
        classifier: on the device.
        fabric: the device and the arithmetic.

    Raises:
        InputError: for weights that are not finite.
    """

    def __init__(self, role: str, classifier: Classifier, fabric: Fabric) -> None:
        self.seconds = 0.0
        self._who = f"the {role} {classifier.spec}"
        self._predict = predictor(fabric, classifier)
        self._device = fabric.device
        self._broken = torch.zeros((), dtype=torch.long, device=fabric.device)
        state = classifier.module.state_dict().items()
        broken = [name for name, value in state if value.is_floating_point() and not bool(value.isfinite().all())]
        if broken:
            more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
            raise InputError(
                f"the weights of {self._who} are not finite, in {broken[0]}{more}: they are of a training that diverged, or damaged; "
                "give others"
            )

    def predict(self, images: Tensor) -> Tensor:
        """Return the logits for images in 0..1."""
        with self._timed():
            logits = self._predict(images)
        return self._checked(logits)

    def extracting(self, extract: Extract) -> Extract:
        """Return a function that extracts as this one does, watched."""

        def watched(images: Tensor) -> ModelOutput:
            with self._timed():
                output = extract(images)
            if output.logits is not None:
                self._checked(output.logits)
            return output

        return watched

    def check(self) -> None:
        """Raise InputError where the outputs for some images were not finite."""
        if broken := int(self._broken):
            raise InputError(
                f"the outputs of {self._who} are not finite for {broken:,} of the images, so that nothing can be said of it: check its "
                "normalization and its `input_size`, or evaluate with `precision=32-true`"
            )

    def _checked(self, logits: Tensor) -> Tensor:
        self._broken += (~logits.isfinite()).flatten(1).any(dim=1).sum()
        return logits

    @contextmanager
    def _timed(self) -> Iterator[None]:
        self._wait()
        started = time.perf_counter()
        yield
        self._wait()
        self.seconds += time.perf_counter() - started

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _both_watched(
    model: _Watched, teacher: _Watched | None, extractors: tuple[Extract, Extract] | None
) -> tuple[Extract, Extract] | None:
    if extractors is None or teacher is None:
        return None
    return model.extracting(extractors[0]), teacher.extracting(extractors[1])


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
