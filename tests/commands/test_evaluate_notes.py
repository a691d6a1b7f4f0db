"""What evaluate says of what it opened: names of weights that were changed, folders that were passed over, converted channels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import angularkd
from angularkd.cli import main
from angularkd.models import cifar, open_classifier


def photos(folder: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 2, 8, 8, 8, 3), dtype=np.uint8)
    for split, of_split in zip(("train", "test", "extra"), pixels, strict=True):
        for name, of_class in zip(("cat", "dog"), of_split, strict=True):
            (folder / split / name).mkdir(parents=True)
            for number, image in enumerate(of_class):
                Image.fromarray(image).save(folder / split / name / f"{number}.png")
    return folder


def test_evaluate_prints_and_writes_what_was_decided_in_opening(tmp_path, capsys) -> None:
    data, weights, file = photos(tmp_path / "photos"), tmp_path / "weights.pt", tmp_path / "figures.json"
    state = cifar.create("resnet8", 2).state_dict()
    torch.save({f"module.{name}": value for name, value in state.items()}, weights)
    teacher = tmp_path / "teacher.pt"
    torch.save({f"net.{name}": value for name, value in state.items()}, teacher)
    flags = [
        "--weights",
        str(weights),
        "--teacher",
        "cifar/resnet8",
        "--teacher-weights",
        str(teacher),
        "--device",
        "cpu",
    ]
    main(["evaluate", str(data), "--model", "cifar/resnet8", *flags, "--json-file", str(file)])
    printed = " ".join(capsys.readouterr().out.split())
    notes = json.loads(file.read_text())["notes"]
    for said in (
        "passed over, since the name gives no split: extra/",
        f"{weights}: 'module.' is taken out of their names",
        f"{teacher}: 'net.' is taken out of their names",
    ):
        assert [note for note in notes if said in note] and f"note: {said}" in printed
    assert len(notes) == len(set(notes))


def test_evaluate_from_python_returns_the_notes_of_a_model_of_one_channel(digits_teacher) -> None:
    class Grey(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = torch.nn.Conv2d(1, 4, 3), torch.nn.Linear(4, 10)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head(self.conv(images).mean((2, 3)))

    found = angularkd.evaluate(data="digits", image_size=8, model=Grey(), device="cpu")
    assert [note for note in found["notes"] if "takes images of one channel: it gets their luma" in note]
    assert open_classifier(str(digits_teacher), 10).notes == ()
