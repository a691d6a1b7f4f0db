"""What storing the teacher's maps in few bits does to the gradient of AMD, by the code of the bits.

    python benchmarks/map_codes.py DATA --teacher cifar/resnet56 --teacher-weights FILE [--student cifar/wrn_16_1]
        [--student-weights FILE] [--images 256] [--json-file FILE]

The teacher's maps of the first training images are rounded by each code, and the gradient of AMD in three forms is compared with
that for maps in float16: with respect to the student's features, the worst stage, and with respect to its parameters, each as the norm
of the difference over the norm. Codes: the root of a value's share of the map's scale, its logarithm over some octaves (below
which it is nothing), and the share itself; the scale is that of the cache (`cache_fields`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from angularkd import AMDLoss
from angularkd.data import open_data
from angularkd.distillation.cache_fields import STEPS_AN_OCTAVE
from angularkd.features import FeatureExtractor, find_stages, trace
from angularkd.models import open_classifier
from measuring import environment, report, write

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Of CIFAR-10's colours."""
FORMS: dict[str, dict[str, Any]] = {
    "paper's": {},
    "centred": {"centered": True},
    "centred, grid 2": {"centered": True, "grid": 2},
}
Code = Callable[[Tensor], Tensor]


def main() -> None:
    options = parse()
    torch.manual_seed(0)
    split = open_data(options.data).train
    pixels = torch.from_numpy(np.stack([split[i][0] for i in range(options.images)])).permute(0, 3, 1, 2) / 255
    images = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    teacher = open_classifier(options.teacher, 10, weights=options.teacher_weights).module.eval()
    student = open_classifier(options.student, 10, weights=options.student_weights).module.train()
    with torch.no_grad():
        powers = [one.square().sum(dim=1) for one in features_of(teacher, images)]
    maps = [power / torch.linalg.vector_norm(power, dim=(1, 2), keepdim=True) for power in powers]
    features = features_of(student, images)
    rows, result = [], {}
    for form, chosen in FORMS.items():
        exact = gradients(AMDLoss(**chosen), features, student, [one.half().float() for one in maps])
        for name, code in CODES.items():
            found = gradients(AMDLoss(**chosen), features, student, [code(one) for one in maps])
            *stages, parameters = (float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True))
            result[f"{form}, {name}"] = {"features": max(stages), "parameters": parameters}
            rows.append((form, name, f"{max(stages):.2%}", f"{parameters:.2%}"))
    report(f"{options.teacher} -> {options.student}", ("AMD", "code", "features", "parameters"), rows)
    write(
        options.json_file,
        {"off_by": result, "options": {k: str(v) for k, v in vars(options).items()}, "made_on": environment()},
    )


def features_of(network: nn.Module, images: Tensor) -> list[Tensor]:
    stages = find_stages(network, trace(network, images[:1]))[-3:]
    return list(FeatureExtractor(network, stages)(images).features[None])


def gradients(loss: AMDLoss, features: list[Tensor], student: nn.Module, maps: list[Tensor]) -> list[Tensor]:
    """Of each stage's features, and of all parameters."""
    value = loss(features, [one.sqrt().unsqueeze(1) for one in maps])
    of_features = torch.autograd.grad(value, features, retain_graph=True)
    parameters = torch.autograd.grad(value, list(student.parameters()), retain_graph=True, allow_unused=True)
    return [*of_features, torch.cat([one.flatten() for one in parameters if one is not None])]


def scale_of(maps: Tensor) -> Tensor:
    steps = torch.floor(-STEPS_AN_OCTAVE * torch.log2(maps.amax(dim=(1, 2), keepdim=True)))
    return torch.exp2(-steps / STEPS_AN_OCTAVE)


def power_code(bits: int, exponent: float) -> Code:
    last = 2**bits - 1

    def code(maps: Tensor) -> Tensor:
        scale = scale_of(maps)
        return ((maps / scale).pow(exponent).mul(last).round() / last).pow(1 / exponent) * scale

    return code


def logarithm_code(bits: int, octaves: int) -> Code:
    last = 2**bits - 2  # one code more is for nothing

    def code(maps: Tensor) -> Tensor:
        scale = scale_of(maps)
        number = (last * (1 + torch.log2(maps / scale) / octaves)).round()
        return torch.where(number < 0, 0.0, torch.exp2((number / last - 1) * octaves) * scale)

    return code


CODES: dict[str, Code] = {
    "8 bits, root": power_code(8, 0.5),
    "8 bits, share": power_code(8, 1.0),
    **{f"8 bits, logarithm, {octaves} octaves": logarithm_code(8, octaves) for octaves in (6, 8, 12)},
    "4 bits, root": power_code(4, 0.5),
    "4 bits, share": power_code(4, 1.0),
    "4 bits, logarithm, 4 octaves": logarithm_code(4, 4),
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--teacher", default="cifar/resnet56")
    parser.add_argument("--teacher-weights", type=Path, required=True)
    parser.add_argument("--student", default="cifar/wrn_16_1")
    parser.add_argument("--student-weights", type=Path)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--json-file", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
