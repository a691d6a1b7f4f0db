"""Makes the golden values beside it, without a line of angularkd.

    python tests/golden/make.py FOLDER

FOLDER holds `signed_square.safetensors`, values that were made by running the authors' implementations in float64. A part of it,
small enough to be committed, becomes `square.safetensors`. `odd.json` is computed here, sample by sample and position by position,
in Python's complex numbers: the imaginary part of f(x + ih) / h is the derivative of f at x, exact to the last digits.
"""

from __future__ import annotations

import cmath
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
STEP = 1e-30
WITH_GRADIENT = ("amd_global.s64.m1.35", "amd_global_local4.s64.m1.35")
LOSS_ALONE = ("amd_global.s64.m1.0", "amd_global.s64.m2.0", "amd_global.s8.m1.35")

Map = list[list[complex]]
Stage = list[list[Map]]
"""[sample][channel][row][column]."""

CASES: dict[str, dict] = {
    "7x5": {"size": [7, 5], "options": {}},
    "5x7, all three margins": {
        "size": [5, 7],
        "options": {"margin": 1.1, "additive_margin": 0.2, "cosine_margin": 0.1, "scale": 16.0},
    },
    "9x3, 3x3 patches": {"size": [9, 3], "options": {"grid": 3, "local_weight": 0.2}},
    "7x7": {"size": [7, 7], "options": {"scale": 64.0}},
    "7x7, 2x2 patches": {"size": [7, 7], "options": {"grid": 2, "local_weight": 0.2}},
    "5x3, 2x2 patches": {"size": [5, 3], "options": {"grid": 2, "local_weight": 1.0}},
}
"""Maps of odd sides. Where the grid does not divide a side, cells are cut at its floor, as the authors do: 7 is 3 + 4."""


def stage(channels: int, height: int, width: int, seed: int) -> Stage:
    """Two samples of features of both signs, in quarters, from a formula that anybody can repeat."""
    return [
        [
            [
                [
                    ((seed + 7 * b + 5 * c * c + 3 * y * y * (b + 1) + 11 * x * (y + 2 * c + 1)) % 23 - 11) / 4
                    for x in range(width)
                ]
                for y in range(height)
            ]
            for c in range(channels)
        ]
        for b in range(2)
    ]


def angular_maps(sample: list[Map], options: dict) -> list[Map]:
    """G, psi and n of one sample, from the formulas of the paper."""
    margin, scale = options.get("margin", 1.35), options.get("scale", 64.0)
    additive, cosine = options.get("additive_margin", 0.0), options.get("cosine_margin", 0.0)
    power = [
        [sum(value * value for value in values) for values in zip(*rows, strict=True)]
        for rows in zip(*sample, strict=True)
    ]
    norm = cmath.sqrt(sum(value * value for row in power for value in row)) + 1e-6
    attention = [[value / norm for value in row] for row in power]
    positive = [[scale * (cmath.cos(margin * cmath.acos(q) + additive) - cosine) for q in row] for row in attention]
    negative = [[scale * (1 - q) for q in row] for row in attention]
    angular = [
        [p - cmath.log(cmath.exp(p) + cmath.exp(n)) for p, n in zip(*rows, strict=True)]
        for rows in zip(positive, negative, strict=True)
    ]
    return [angular, positive, negative]


def region(student: list[Map], teacher: list[Map], rows: range, columns: range) -> complex:
    """A third of the mean squared difference of the three maps of one sample, of unit length within the region."""
    total = 0j
    places = [(y, x) for y in rows for x in columns]
    for ours, theirs in zip(student, teacher, strict=True):
        ours_norm = cmath.sqrt(sum(ours[y][x] ** 2 for y, x in places))
        theirs_norm = cmath.sqrt(sum(theirs[y][x] ** 2 for y, x in places))
        total += sum((ours[y][x] / ours_norm - theirs[y][x] / theirs_norm) ** 2 for y, x in places)
    return total / (3 * len(places))


def amd_of_sample(student: list[Map], teacher: list[Map], options: dict) -> complex:
    """The loss of one sample of one stage, without the mean over the batch."""
    ours, theirs = angular_maps(student, options), angular_maps(teacher, options)
    height, width = len(ours[0]), len(ours[0][0])
    whole = region(ours, theirs, range(height), range(width))
    grid, weight = options.get("grid"), options.get("local_weight", 0.2)
    if grid is None:
        return whole
    cells = [
        (range(i * height // grid, (i + 1) * height // grid), range(j * width // grid, (j + 1) * width // grid))
        for i in range(grid)
        for j in range(grid)
    ]
    return (1 - weight) * whole + weight * sum(region(ours, theirs, *cell) for cell in cells) / len(cells)


def gradient(sample: list[Map], teacher: list[Map], options: dict) -> list[list[list[float]]]:
    """The derivative of a sample's loss with respect to each of the student's features."""
    out = [[[0.0 for _ in row] for row in channel] for channel in sample]
    for c, channel in enumerate(sample):
        for y, row in enumerate(channel):
            for x, value in enumerate(row):
                row[x] = value + STEP * 1j
                out[c][y][x] = amd_of_sample(sample, teacher, options).imag / STEP
                row[x] = value
    return out


def odd() -> dict[str, dict]:
    """Every case with its inputs, the loss and its gradient."""
    cases = {}
    for name, case in CASES.items():
        student, teacher = stage(2, *case["size"], seed=3), stage(3, *case["size"], seed=8)
        both = list(zip(student, teacher, strict=True))
        cases[name] = {
            "options": case["options"],
            "student": student,
            "teacher": teacher,
            "loss": sum(amd_of_sample(s, t, case["options"]).real for s, t in both) / len(both),
            "gradient": [
                [[[v / len(both) for v in row] for row in ch] for ch in gradient(s, t, case["options"])]
                for s, t in both
            ],
        }
    return cases


def square(folder: Path) -> dict:
    """Of the large file: stages 0 and 1 as power maps, stage 2 as features with its gradients, the logits, KD and DKD."""
    from safetensors.torch import load_file

    whole = load_file(folder / "signed_square.safetensors")
    small = {key: whole[f"in.{key}"] for key in ("student_logits", "teacher_logits", "labels")}
    for side in ("student", "teacher"):
        for index in (0, 1):
            small[f"{side}.{index}"] = whole[f"in.{side}.{index}"].square().sum(dim=1)
        small[f"{side}.2"] = whole[f"in.{side}.2"]
    for name in (*WITH_GRADIENT, *LOSS_ALONE, "kd.T4", "dkd.a1.b8.T4"):
        small[f"{name}.loss"] = whole[f"out.{name}.loss"]
    for name in WITH_GRADIENT:
        small[f"{name}.grad"] = whole[f"out.{name}.grad.2"]
    for name in ("kd.T4", "dkd.a1.b8.T4"):
        small[f"{name}.grad"] = whole[f"out.{name}.grad.0"]
    return {key: value.contiguous() for key, value in small.items()}


if __name__ == "__main__":
    from safetensors.torch import save_file

    save_file(square(Path(sys.argv[1])), HERE / "square.safetensors")
    (HERE / "odd.json").write_text(json.dumps(odd(), separators=(",", ":")) + "\n")
