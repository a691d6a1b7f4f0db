"""How a contender is run: it gets ready, says so, and then runs one epoch for every line that it reads.

On stdout stand its answers alone, each a line of JSON: {"ready": true, ...} with versions, once it has run an epoch that
does not count, and then {"images_per_second": ...} for each line on stdin. Between them it waits for the next line, and
so do the processes it may have started. At the end of stdin it exits.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import version

import torch

Epoch = Callable[[], float]
"""Trains for an epoch; images a second."""


def serve(prepare: Callable[[], Epoch], *packages: str) -> None:
    """Answer as above; `packages`: whose versions to name beside PyTorch's."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    epoch = prepare()
    epoch()
    versions = {name: version(name) for name in ("torch", *packages)}
    print(json.dumps({"ready": True, "threads": torch.get_num_threads(), **versions}), file=answers)
    for _ in sys.stdin:
        print(json.dumps({"images_per_second": epoch()}), file=answers)
