"""Images a second of angularkd over whole training epochs: the engine that `angularkd distill` runs, put together by it.

Everything comes from `build_distillation`, and an epoch is one of `fit`, the loop's own figure: from the request of the first
batch to the means of the epoch's losses, meters and all. Validation and checkpoints are left out. The teacher's weights
are random, since what it knows costs nothing. The step is compiled, as in long runs; --no-compile leaves that out. With
--teacher-mode cached, `angularkd cache fill` has run before.

Spoken to as in serving.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console

from angularkd.commands.cache import run_cache
from angularkd.config.commands import DistillConfig
from angularkd.data.opening import open_data
from angularkd.models.opening import open_classifier
from angularkd.models.weights import save_weights
from angularkd.training.build import build_distillation
from angularkd.training.checkpoint import TrainingState
from angularkd.training.compilation import compile_step
from angularkd.training.loop import fit
from angularkd.training.progress import Progressor
from serving import Epoch, serve
from setting import OBJECTIVE, SGD, parser_of


def main() -> None:
    options = parse()
    serve(lambda: prepare(options), "angularkd")


def prepare(options: argparse.Namespace) -> Epoch:
    config = configuration(options)
    if options.teacher_mode == "cached":
        run_cache("fill", config.model_copy(update={"compile": "never"}))
    job = build_distillation(config)
    if job.cache is not None and job.cache.filled < 1:
        raise RuntimeError("the teacher's cache is not full")
    said: list[str] = []
    if compile_step(job, said.append) is not options.compile:
        raise RuntimeError(said[-1])
    distiller, optimizer = job.fabric.setup(job.distiller, job.optimizer, move_to_device=False)
    state = TrainingState()
    progressor = Progressor(Console(quiet=True), config.epochs, len(job.batches))

    def epoch() -> float:
        fit(
            job.fabric,
            distiller,
            optimizer,
            job.scheduler,
            job.batches,
            epochs=state.epoch + 1,
            clip_norm=config.clip_norm,
            state=state,
            validate=lambda: {"nll": 0.0, "accuracy": 0.0},
            save_best=lambda: None,
            save=lambda _: None,
            reporter=progressor,
        )
        return state.history[-1]["images_per_second"]

    return epoch


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
        precision="32-true",  # as the rivals
        schedule="constant",
        compile="always" if options.compile else "never",
        epochs=1,
        **SGD,
    )


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="for the teacher's weights and its cache")
    parser.add_argument("--teacher-mode", choices=("cached", "live"), default="cached")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="everything as it is written")
    return parser.parse_args()


if __name__ == "__main__":
    main()
