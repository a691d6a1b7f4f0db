"""Images a second of angularkd over whole training epochs: the engine that `angularkd distill` runs, put together by it.

Everything comes from `build_distillation`, and an epoch is one of `fit`, the loop's own figure: from the request of the first
batch to the means of the epoch's losses, meters and all. Validation and checkpoints are left out. The teacher's weights
are random, since what it knows costs nothing. The step is compiled, as in long runs; --no-compile leaves that out. With
--teacher-mode cached, `angularkd cache fill` has run before.

Spoken to as in serving.py.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from angularkd.commands.cache import fill_cache
from angularkd.config import DistillConfig
from angularkd.data import open_data
from angularkd.models import open_classifier, save_weights
from angularkd.system.memory import keep_freed_memory
from angularkd.system.modes import seeded
from angularkd.training import (
    Training,
    TrainingMeter,
    TrainingState,
    build_distillation,
    compile_step,
    fit,
    open_dataset,
)
from serving import Epoch, serve
from setting import OBJECTIVE, SGD, parser_of


def main() -> None:
    options = parse()
    serve(lambda: prepare(options), "angularkd")


def prepare(options: argparse.Namespace) -> Epoch:
    config = configuration(options)
    if options.teacher_mode == "cached":
        fill_cache(config.model_copy(update={"compile": "never"}), Console(quiet=True))
    keep_freed_memory()  # as the command line does on the CPU
    with seeded(config.seed):
        job = build_distillation(config, open_dataset(config))
    if job.cached is not None and job.cached.cache.filled < 1:
        raise RuntimeError("the teacher's cache is not full")
    said: list[str] = []
    if compile_step(job, said.append) is not options.compile:
        raise RuntimeError(said[-1])
    distiller, optimizer = job.fabric.setup(job.distiller, job.optimizer, move_to_device=False)
    state = TrainingState()
    training = Training(
        job.fabric, distiller, optimizer, job.scheduler, job.batches, epochs=1, clip_norm=config.clip_norm
    )

    def epoch() -> float:
        fit(replace(training, epochs=state.epoch + 1), state, Nobody())
        return state.history[-1]["images_per_second"]

    return epoch


class Nobody:
    """An observer of the loop that neither validates nor saves."""

    def step(self, epoch: int, step: int, meter: TrainingMeter) -> None:
        """Ignore the step."""

    def validate(self) -> dict[str, float]:
        """Return metrics as if something had been validated."""
        return {"nll": 0.0, "accuracy": 0.0}

    def best(self) -> None:
        """Save nothing."""

    def epoch(self, row: dict[str, Any], state: TrainingState) -> None:
        """Save nothing."""


def configuration(options: argparse.Namespace) -> DistillConfig:
    """The recipe of all contenders, with a teacher of random weights."""
    torch.manual_seed(0)
    weights = options.folder / "teacher.safetensors"
    save_weights(weights, open_classifier(options.teacher, len(open_data(options.data).classes)).module, {})
    return DistillConfig.from_options(
        data=options.data,
        teacher=options.teacher,
        student=options.student,
        teacher_weights=weights,
        loss=OBJECTIVE,
        cache=options.folder / "cache" if options.teacher_mode == "cached" else None,
        augment=("flip",),
        batch_size=options.batch_size,
        loader="resident",
        device=options.device,
        precision={"float32": "32-true", "bf16": "bf16-mixed"}[options.precision],
        schedule="constant",
        compile="always" if options.compile else "never",
        epochs=1,
        **SGD,
    )


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="for the teacher's weights and its cache")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--teacher-mode", choices=("cached", "live"), default="cached")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="everything as it is written")
    return parser.parse_args()


if __name__ == "__main__":
    main()
