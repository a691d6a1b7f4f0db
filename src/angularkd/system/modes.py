"""Modes of modules and states of random generators: what is changed for a while is put back afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Set training or evaluation mode inside; afterwards give every module the mode that it had before."""
    before = [(part, part.training) for part in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for part, was_training in before:
            part.training = was_training


@contextmanager
def one_thread() -> Iterator[None]:
    """Have PyTorch compute on one thread inside, so that times do not depend on what else the machine does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Set evaluation mode without gradients inside; afterwards modes and the random state are what they were."""
    with mode(module, training=False), torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]):
        yield


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """Set training mode inside; afterwards parameters, statistics, gradients, modes and the random state are what they were."""
    saved = {name: value.clone() for name, value in module.state_dict().items()}
    try:
        with mode(module, training=True), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        module.load_state_dict(saved)
        module.zero_grad(set_to_none=True)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators of Python, NumPy and PyTorch inside; afterwards they go on from where the caller had left them."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)
