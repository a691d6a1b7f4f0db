"""Small runs of every kind on the embedded digits, in processes of their own, so that they can be killed: what tests and soak share."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import angularkd
from angularkd.system.stopping import Stopped
from helpers import same, saved_weights

NET = """
import random
import torch
from torch import nn

def block(inside, outside, stride):
    return nn.Sequential(nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU())

class Net(nn.Module):
    def __init__(self, width, noise=0.0):
        super().__init__()
        self.layer1, self.layer2 = block(3, width, 1), block(width, 2 * width, 2)
        self.head = nn.Linear(2 * width, 10)
        self.noise = noise

    def forward(self, images):
        scale = 1 + self.noise * (random.random() + float(torch.rand(()))) if self.training else 1.0
        return self.head(scale * self.layer2(self.layer1(images)).mean((2, 3)))

def small():
    return Net(4)

def large():
    return Net(8)

def noisy():
    return Net(4, noise=0.1)
"""
OPTIONS: dict[str, Any] = {
    "data": "digits",
    "image_size": 8,
    "batch_size": 128,
    "schedule": "onecycle",
    "device": "cpu",
    "workers": 0,
    "epochs": 2,
    "checkpoint_every": "3steps",
}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "adamw": {"optimizer": "adamw", "clip_norm": 1.0, "augment": ("crop", "flip")},
    "average": {"ema": 0.9},
    "draws": {"model": "noisy"},
    "accumulate": {"batch_size": 64, "accumulate": 3},
    "mixing": {"mixup": 0.2, "cutmix": 1.0},
    "workers": {"loader": "workers", "workers": 1},
    "shards": {"data": "shards", "loader": "workers"},
    "live": {"loss": {"ce": 1.0, "kd": {"weight": 1.0, "warmup_epochs": 1}, "amd": 10.0}},
    "auto": {"loss": {"ce": 1.0, "kd": 1.0, "amd": "auto"}},
    "cache": {"loss": {"ce": 1.0, "kd": 1.0, "at": 1.0}, "cache": "cache", "augment": ("flip",)},
    "learned": {"loss": {"ce": 1.0, "vid": 0.1, "crd": {"weight": 0.1, "num_negatives": 8}}},
    "fitting": {"loss": {"ce": 1.0, "kd": 1.0}, "teacher_train": 1, "teacher_train_what": "all", "teacher": "large"},
}
"""By kind of run, its options beside OPTIONS; with a `loss` it is a distillation."""

PRELOADED = [
    *("angularkd.cli", "angularkd.commands.train", "angularkd.training.run", "sklearn.datasets", "sklearn.manifold"),
    *("matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "matplotlib.pyplot", "jinja2"),
]
"""What a run imports, at the latest when it writes its report."""


def prepare(folder: Path) -> None:
    """Write what the runs need into a folder: the networks, and, by training it for a moment, a teacher."""
    (folder / "net.py").write_text(NET)
    options = {**OPTIONS, "epochs": 6, "lr": 0.3, "out": folder / "teacher", "model": f"{folder / 'net.py'}:large"}
    assert in_process(partial(angularkd.train, **options)).wait() == 0


def write_shards(folder: Path) -> str:
    """Write the digits as two tar shards, and return their pattern."""
    import io
    import tarfile

    from sklearn.datasets import load_digits

    digits = load_digits()
    for shard in range(0 if (folder / "digits-1.tar").exists() else 2):
        with tarfile.open(folder / f"digits-{shard}.tar", "w") as tar:
            for row in range(shard, 400, 2):
                pixels = Image.fromarray((digits.images[row] * 15).astype(np.uint8)).convert("RGB")
                picture = io.BytesIO()
                pixels.save(picture, "PNG")
                for ending, content in (("png", picture.getvalue()), ("cls", str(digits.target[row]).encode())):
                    entry = tarfile.TarInfo(f"{row:06d}.{ending}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    return f"shards:{folder}/digits-{{0..1}}.tar"


def start(kind: str, folder: Path, out: Path, **more: Any) -> Callable[[], object]:
    """Return what runs a kind of run in the folder `out`."""
    options = {**OPTIONS, **KINDS[kind], "out": out, "report": False, **more}
    if options["data"] == "shards":
        options["data"] = write_shards(folder)
    if "cache" in options:
        options["cache"] = out.with_name(f"{out.name}-cache")
    net = folder / "net.py"
    if "loss" not in options:
        return partial(angularkd.train, **{**options, "model": f"{net}:{options.get('model', 'small')}"})
    teacher = f"{net}:{options['teacher']}" if "teacher" in options else str(folder / "teacher")
    named = {"teacher": teacher, "student": f"{net}:small", "trust": (str(net),)}
    return partial(angularkd.distill, **{**options, **named})


class InProcess:
    """A call in a process of its own."""

    def __init__(self, process: BaseProcess, errors: Path) -> None:
        self._process = process
        self.errors = errors

    @property
    def running(self) -> bool:
        """Return whether it has not ended."""
        return self._process.is_alive()

    def wait(self) -> int:
        """Return the exit code, or the signal that killed it, as a negative number."""
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal, if it has not ended."""
        if self.running:
            assert self._process.pid is not None
            with suppress(ProcessLookupError):  # it ended just now
                os.kill(self._process.pid, number)

    @property
    def said(self) -> str:
        """Return what it wrote on standard error."""
        return self.errors.read_text()


def in_process(call: Callable[[], object], errors: Path = Path(os.devnull)) -> InProcess:
    """Call something that can be pickled in a process of its own, which has its libraries imported already.

    It is forked from a process that does nothing else: one that is forked from here would have the locks of this process's threads, and not
    the threads.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_call, args=(call, errors))
    process.start()
    return InProcess(process, errors)


def _call(call: Callable[[], object], errors: Path) -> None:
    code = 1
    try:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        call()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except Stopped as stopped:
        code = 128 + stopped.number
    except angularkd.InputError as error:
        print(error, file=sys.stderr, flush=True)
        code = 2
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def check_equal(found: Path, expected: Path) -> None:
    """Check that two runs ended with the same weights, rows and figures."""
    for file in ("student.safetensors", "checkpoints/best.safetensors"):
        assert same(saved_weights(found, file), saved_weights(expected, file)), file
    rows, expected_rows = (
        [{**json.loads(line), "images_per_second": 0} for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (found, expected)
    )
    assert rows == expected_rows
    results, expected_results = (json.loads((run / "results.json").read_text()) for run in (found, expected))
    for name in ("metrics", "selected_epoch", "selected_validation_accuracy", "epochs"):
        assert results[name] == expected_results[name], name
