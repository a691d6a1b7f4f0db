"""How fast a teacher's cache fills, beside the teacher's own forward, and what the cache of a whole data set takes.

    python benchmarks/fill.py --data DATA [--teacher cifar/wrn_16_3] [--student cifar/wrn_16_1] [--compile] [--rounds 13]

DATA is opened as angularkd does; its first --images are flipped and shown to the teacher, whose weights are random. Filling
is what `angularkd cache fill` does, loading and writing included, but for its one wait at the end until all is on the disk;
the forward is the bare network on one batch, compiled alike. Ratios are taken round by round, of BATCHES batches each.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from pathlib import Path

import torch

from angularkd.config import DistillConfig
from angularkd.data import in_order, open_data
from angularkd.models import open_classifier, save_weights
from angularkd.system.compiling import CompiledForOneShape
from angularkd.training import Job, build_distillation, open_dataset
from contenders.setting import parser_of
from measuring import WARM_UP, environment, in_rounds, ratio, report, shown, write
from subset import write_first

BATCHES = 4
"""Of a round."""


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--images", type=int, default=12_800)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=13)
    parser.add_argument("--json-file", type=Path)
    options = parser.parse_args()
    dataset = open_data(options.data)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        write_first(dataset, options.images, folder / "data")
        torch.manual_seed(0)
        save_weights(folder / "teacher.safetensors", open_classifier(options.teacher, len(dataset.classes)).module, {})
        config = DistillConfig.from_options(
            data=f"parquet:{folder / 'data'}",
            teacher=options.teacher,
            teacher_weights=folder / "teacher.safetensors",
            student=options.student,
            augment=("flip",),
            batch_size=options.batch_size,
            device=options.device,
            cache=folder / "cache",
        )
        result = measure(build_distillation(config, open_dataset(config)), options.rounds, options.compile)
    whole = result["bytes_an_image"] * len(dataset.train) / 1e6
    rows = [(name, f"{speed:,.0f}") for name, speed in result["images_per_second"].items()]
    lines = [
        f"fill's speed / forward's: {shown(result['fill_over_forward'])}",
        f"{dataset.name}, {len(dataset.train):,} images in both views: {whole:,.0f} MB",
    ]
    report(f"Filling the cache of {options.teacher}", ("", "images/s"), rows, lines)
    chosen = {key: str(value) for key, value in vars(options).items()}
    write(options.json_file, {**result, "whole_megabytes": whole, "options": chosen, "made_on": environment()})


def measure(job: Job, rounds: int, compile_: bool) -> dict:  # type: ignore[type-arg]
    """Speeds of both, their ratio, and the bytes that the cache takes for an image in all its views."""
    assert job.teacher is not None and job.cached is not None
    cache = job.cached.cache
    batches, predict = in_order(job.batches), job.teacher.predict
    example = next(batches.epoch(0)).images
    if compile_:
        job.distiller.compile()
        predict = CompiledForOneShape(predict, frozen=True)  # type: ignore[assignment]
    needed = (rounds + WARM_UP) * BATCHES
    if needed > cache.about.views_count * (cache.about.samples // len(example)):
        raise SystemExit(f"{needed} full batches are needed: give more --images, or fewer --rounds")
    every = itertools.chain.from_iterable(batches.epoch(view) for view in range(cache.about.views_count))
    waiting = (batch for batch in every if len(batch.labels) == len(example))

    @torch.no_grad()
    def forward() -> None:
        for _ in range(BATCHES):
            predict(example)

    def fill() -> None:
        for batch in itertools.islice(waiting, BATCHES):
            job.cached.fill(batch.images, batch.indices, batch.view)

    times = in_rounds({"forward": forward, "fill": fill}, rounds)
    images = BATCHES * len(example)
    return {
        "images_per_second": {name: images / statistics.median(values) for name, values in times.items()},
        "fill_over_forward": ratio(times["forward"], times["fill"]),
        "bytes_an_image": cache.size_bytes / cache.about.samples,
    }


if __name__ == "__main__":
    main()
