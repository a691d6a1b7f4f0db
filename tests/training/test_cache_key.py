"""The key of a teacher's cache: whatever changes the answers changes it, and nothing else does."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from angularkd.data import listing, open_data
from angularkd.data.sources.folders import FileStore
from angularkd.data.splits import whole
from angularkd.models import cifar
from angularkd.system.sources import code_of
from angularkd.training.cache_key import _data_fingerprint, _teacher_fingerprint
from helpers import distillation_job

ROOT = """
from torch import nn
from own_blocks import Block


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, images):
        return self.block(images)
"""
BLOCK = """
import torch
from torch import nn
from own_helpers import activation


class Block(nn.Module):
    def forward(self, images):
        return activation(images)
"""
HELPERS = """
import torch

def activation(values):
    return torch.relu(values)
"""


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """A folder of three own files, each of which imports the next."""
    for name, text in (("own_net", ROOT), ("own_blocks", BLOCK), ("own_helpers", HELPERS)):
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("own_net", "own_blocks", "own_helpers"):
        sys.modules.pop(name, None)


def key_of_own() -> str:
    for name in ("own_net", "own_blocks", "own_helpers"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    return _teacher_fingerprint(importlib.import_module("own_net").Net())


@pytest.mark.parametrize("file", ["own_net", "own_blocks", "own_helpers"])
def test_a_change_of_any_file_that_the_network_is_written_in_changes_it(own, file) -> None:
    before = key_of_own()
    assert key_of_own() == before
    path = own / f"{file}.py"
    path.write_text(path.read_text() + "\n# changed\n")
    assert key_of_own() != before


def test_a_base_class_in_another_file_counts(own) -> None:
    (own / "own_net.py").write_text("from own_blocks import Block\n\n\nclass Net(Block):\n    pass\n")
    before = key_of_own()
    (own / "own_blocks.py").write_text(BLOCK + "\n# changed\n")
    assert key_of_own() != before


def test_another_version_of_the_library_changes_it(monkeypatch) -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=3)
    before = _teacher_fingerprint(network)
    assert code_of([type(network)]).keys() == {"timm", "torch"}
    monkeypatch.setattr(timm, "__version__", "99.0")
    assert _teacher_fingerprint(network) != before


def test_another_version_of_torch_changes_it(monkeypatch) -> None:
    network = nn.Linear(2, 2)
    before = _teacher_fingerprint(network)
    monkeypatch.setattr(torch, "__version__", "99.0")
    assert _teacher_fingerprint(network) != before


def test_the_file_of_a_spec_counts_though_no_class_is_written_in_it(tmp_path) -> None:
    file = tmp_path / "model.py"
    file.write_text("# first\n")
    network = nn.Linear(2, 2)
    before = _teacher_fingerprint(network, f"{file}:build")
    file.write_text("# second\n")
    assert _teacher_fingerprint(network, f"{file}:build") != before


def images(root: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(root / name / f"{i}.bmp")
    return root


def fingerprint_of(folder: str) -> str:
    return _data_fingerprint(open_data(folder).train, None)


def test_the_same_images_by_another_path_are_the_same(tmp_path, monkeypatch) -> None:
    images(tmp_path / "data")
    absolute = fingerprint_of(str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    assert fingerprint_of("data") == absolute == fingerprint_of("data/../data/")
    os.rename(tmp_path / "data", tmp_path / "moved")
    assert fingerprint_of("moved") == absolute


def test_an_image_replaced_under_its_name_is_another(tmp_path) -> None:
    """Also where its file is as large as it was, and it is none of those whose pixels are hashed."""
    data = images(tmp_path / "data")
    paths = sorted(data.rglob("*.bmp"))
    split = whole(FileStore(paths * 20), [0] * len(paths) * 20)
    before, listed = _data_fingerprint(split, None), listing(split)
    size = paths[3].stat().st_size
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(paths[3])
    os.utime(paths[3], (1, 1))
    assert paths[3].stat().st_size == size
    assert _data_fingerprint(split, None) != before
    assert listing(split) == listed, "which hashes no times unless it is asked to"
    paths[3].write_bytes(paths[2].read_bytes() + b" ")
    assert listing(split) != listed


def test_a_file_that_is_gone_is_listed(tmp_path) -> None:
    data = images(tmp_path / "data")
    split = open_data(str(data)).train
    before = listing(split)
    Path(split.store.files[0]).unlink()
    assert listing(split) != before


def test_images_in_memory_are_listed_by_their_pixels() -> None:
    train = open_data("digits", image_size=(8, 8)).train
    before = listing(train)
    assert listing(open_data("digits", image_size=(8, 8)).train) == before
    assert listing(open_data("digits", image_size=(8, 8), split_seed=1).train) != before
    train.store.pixels[train.rows[5]] += 1
    assert listing(train) != before


def test_a_run_finds_the_cache_by_another_path_to_the_data(tmp_path, digits_teacher, monkeypatch) -> None:
    data = tmp_path / "data"
    for name in map(str, range(10)):
        (data / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.full((8, 8, 3), 20 * int(name) + i, dtype=np.uint8)).save(data / name / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    options = {"teacher": str(digits_teacher), "student": "cifar/resnet8", "cache": "cache", "augment": ("flip",)}
    options |= {"device": "cpu", "loader": "workers", "workers": 0, "loss": {"kd": 1.0}}
    keys = {distillation_job(**options, data=path).cached.about.key for path in ("data", str(data))}
    assert len(keys) == 1
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(data / "3" / "0.png")
    os.utime(data / "3" / "0.png", (1, 1))
    assert distillation_job(**options, data="data").cached.about.key not in keys


def test_networks_of_this_package_count_by_their_source() -> None:
    found = code_of([type(cifar.create("resnet8", 10))])
    assert any(Path(name).name == "resnet.py" for name in found) or "angularkd" in found
