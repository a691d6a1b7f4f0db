"""Damaged files of weights: whatever the bytes are, the answer is a classifier or one line that says what is wrong.

ANGULARKD_SOAK=1 tries ten times as many.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from angularkd import InputError
from angularkd.models import open_classifier

SOAK = os.environ.get("ANGULARKD_SOAK") == "1"
FILES = 1_000 if SOAK else 100
"""Of each of which there are as many kinds as in MAKERS, together."""
LONGEST_SECONDS = 60.0
MODEL = """
from torch import nn
def net(num_classes):
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, num_classes))
"""
METADATA = {
    "model": "cifar/resnet8",
    "classes": list("abcd"),
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "image_size": [8, 8],
}
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e30,
    float("nan"),
    "abc",
    [],
    {},
    [1],
    [[]],
    {"a": 1},
    "é" * 50,
    [0, 1, 2],
    10**400,
)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 4))


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Bytes cut, changed, doubled, moved or exchanged."""
    kind = draw.randrange(6)
    place, length = draw.randrange(len(data) + 1), draw.choice((1, 4, 64, 1024))
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + draw.randbytes(length) + data[place + length :]
    if kind == 2:
        return data[:place] + data[place + length :]
    if kind == 3:
        return data[:place] + data[:length] + data[place:]
    if kind == 4:
        changed = bytearray(data)
        for _ in range(draw.choice((1, 3, 30))):
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        return bytes(changed)
    return draw.randbytes(length)


def odd_state(draw: random.Random) -> dict[str, Any]:
    """A state dict with something strange in it."""
    state: dict[str, Any] = dict(network().state_dict())
    if draw.random() < 0.3:
        return state
    name = draw.choice(list(state))
    value = state[name]
    changes: list[Callable[[], Any]] = [
        lambda: draw.choice(ODD[:-1]),
        lambda: value.to(draw.choice((torch.int8, torch.bool, torch.complex64, torch.float16, torch.float64))),
        lambda: value.to("meta"),
        lambda: value.reshape(-1),
        lambda: value[None],
        lambda: torch.empty(0),
        lambda: torch.full_like(value, float("nan")) if value.is_floating_point() else value,
        lambda: value.float().to_sparse() if value.ndim else value,
        lambda: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8),
        lambda: state,
    ]
    state[name] = draw.choice(changes)()
    if draw.random() < 0.3:
        state[draw.choice(("", ".", "module.", "a" * 300, "n_averaged", "0..weight"))] = draw.choice(
            (torch.ones(2), 3, {})
        )
    return state


def wrapped(state: dict[Any, Any], draw: random.Random) -> Any:
    """A checkpoint around a state dict, some of it mad."""
    content: Any = state
    for _ in range(draw.randrange(4)):
        key = draw.choice(("state_dict", "model", "ema", "net", "a", "b", "optimizer", 3, ""))
        content = {key: content, "epoch": 3, "args": argparse.Namespace(lr=0.1)}
        if draw.random() < 0.2:
            content["self"] = content
        if draw.random() < 0.2:
            content["ema"] = draw.choice(({}, [], None, {"decay": torch.ones(())}, [content]))
    return draw.choice((*[content] * 8, [content], (content, 1)))


def checkpoint(file: Path, draw: random.Random) -> None:
    torch.save(wrapped(odd_state(draw), draw), file, _use_new_zipfile_serialization=draw.random() < 0.7)


def cut_checkpoint(file: Path, draw: random.Random) -> None:
    torch.save(network().state_dict(), file, _use_new_zipfile_serialization=draw.random() < 0.7)
    file.write_bytes(damaged(file.read_bytes(), draw))


def cut_safetensors(file: Path, draw: random.Random) -> None:
    save_file(network().state_dict(), file, {"angularkd": json.dumps(METADATA)})
    file.write_bytes(damaged(file.read_bytes(), draw))


def odd_metadata(file: Path, draw: random.Random) -> None:
    save_file(network().state_dict(), file, {"angularkd": odd_json(draw)})


def odd_beside(file: Path, draw: random.Random) -> None:
    save_file(network().state_dict(), file)
    file.with_suffix(".json").write_bytes(odd_json(draw).encode())
    if draw.random() < 0.5:
        file.with_suffix(".json").write_bytes(damaged(json.dumps(METADATA).encode(), draw))


def odd_json(draw: random.Random) -> str:
    described: dict[str, Any] = {**METADATA, "input_size": [3, 32, 32]}
    described[draw.choice((*described, "input", "pretrained_cfg", "channels"))] = draw.choice(ODD[:-1])
    text = json.dumps(
        draw.choice((described, described, {"input": described}, {"pretrained_cfg": described}, [described]))
    )
    if draw.random() < 0.1:
        text = text.replace("0.5", "1" * draw.choice((20, 400, 5_000)))
    return damaged(text.encode(), draw).decode(errors="replace") if draw.random() < 0.3 else text


MAKERS: dict[str, tuple[str, Callable[[Path, random.Random], None]]] = {
    "checkpoint": ("pth", checkpoint),
    "cut checkpoint": ("pt", cut_checkpoint),
    "cut safetensors": ("safetensors", cut_safetensors),
    "odd metadata": ("safetensors", odd_metadata),
    "odd JSON beside": ("safetensors", odd_beside),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", MAKERS)
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path, kind) -> None:
    suffix, make = MAKERS[kind]
    (tmp_path / "mine.py").write_text(MODEL)
    read = 0
    for seed in range(FILES // len(MAKERS)):
        draw = random.Random(f"{kind} {seed}")
        torch.manual_seed(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        file = folder / f"student.{suffix}"
        make(file, draw)
        as_a_run = suffix == "safetensors" and draw.random() < 0.3
        started = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                classifier = (
                    open_classifier(str(folder), 4)
                    if as_a_run
                    else open_classifier(f"{tmp_path}/mine.py:net", 4, weights=str(file), new_head=draw.random() < 0.2)
                )
            read += 1
            wrong = not all(torch.isfinite(value).all() for value in classifier.module.parameters())
        except InputError as error:
            wrong = "\n" in str(error)
        except Exception as error:
            raise AssertionError(f"{kind} {seed}: {type(error).__name__}: {error}") from error
        assert not wrong, f"{kind} {seed}: weights that are not finite, or more than one line"
        assert time.perf_counter() - started < LONGEST_SECONDS, f"{kind} {seed}"
    assert read, "some of these files can be read: the test tests something else"
