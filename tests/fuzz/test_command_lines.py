"""Command lines and YAML files made by a grammar of all commands and flags, odd values among them: each ends as documented.

All of them run in one process. What would train for long stops at `--out`, a folder that holds something; `plan`, `cache verify`,
`list` and `evaluate` run to their ends. ANGULARKD_SOAK=1 runs a thousand instead of a hundred and twenty.
"""

from __future__ import annotations

import os
import random
import re
import shlex
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image

from angularkd import cli
from angularkd.cli import running
from angularkd.config import Config, DemoConfig, DistillConfig, EvaluateConfig, ExplainConfig, TrainConfig, VerifyConfig
from angularkd.losses import LOSSES
from angularkd.metrics import METRICS

COUNT = 1000 if os.environ.get("ANGULARKD_SOAK") else 120
PARTS = 4
DOCUMENTED = {0, 2, 74}
PARAMETER = re.compile(r"`[a-z_]+(=[^`]*)?`")
LONGEST_SECONDS = 120
"""For a command of a second or less, on a machine that does much else."""
KINDS: dict[str, type[Config]] = {
    "train": TrainConfig,
    "distill": DistillConfig,
    "plan": DistillConfig,
    "cache verify": VerifyConfig,
    "evaluate": EvaluateConfig,
    "explain": ExplainConfig,
    "demo": DemoConfig,
}
SHARES = {
    "plan": 14,
    "train": 4,
    "distill": 4,
    "cache verify": 2,
    "evaluate": 3,
    "explain": 2,
    "demo": 1,
    "list": 2,
    "odd": 2,
}
HUGE = "9" * 400
ODD = [
    *(
        "",
        " ",
        "None",
        "null",
        "nan",
        "inf",
        "-inf",
        "-1",
        "0",
        "1e300",
        "1e-308",
        "1e-320",
        "9" * 30,
        HUGE,
        "9" * 5000,
    ),
    *(
        "1:30",
        "true",
        "2020-01-01",
        "0x10",
        "010",
        "1_000",
        "1.5",
        "٣",
        "x" * 300,
        "x" * 5000,
        "é" * 200,
        "a\0b",
        "\x1b[31m",
    ),
    *(
        "\udcff",
        "..",
        "/",
        ".",
        "/dev/null",
        "[",
        "[" * 3000,
        "{",
        "!!python/object:os.system x",
        "&a [*a]",
        "a=b",
        ",",
        ":",
    ),
    *(
        "-",
        "=",
        "a/" * 3000,
        "timm/",
        "cifar/",
        "hf",
        "cifar/resnet8.py:f",
        "absent.py:f",
        "shards:{0..9}.tar",
        "digits:3",
    ),
]
RIGHT = [
    *("plan", "digits", "--teacher", "teacher", "--student", "cifar/resnet8", "--image-size", "8", "--device", "cpu"),
    *("--loss", "kd=1", "--loss", "ce=1"),
]
LOSS_VALUES = [
    *(
        "0",
        "1",
        "0.5",
        "2",
        "auto",
        "-1",
        "true",
        "null",
        "abc",
        "[]",
        "[1,2]",
        "[1,1,1]",
        "1e300",
        "1e-300",
        "nan",
        "inf",
        HUGE,
    ),
    *(
        "1:30",
        "2020-01-01",
        "[" * 500,
        "{a: 1}",
        "!!binary aa",
        "&a [*a]",
        "",
        "balanced",
        "last",
        "2",
        "1.5",
        "'",
        '"',
    ),
]
"""None of them asks for much memory or time."""


class _TooLong(BaseException):
    """Raised in a command that does not end."""


@contextmanager
def time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Grammar:
    """Makes command lines, the same for a seed.

    Args:
        seed: of what is drawn.
        folder: holds teacher/ (a run), full/ (not empty), image.png; files are written here.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self.draw = random.Random(seed)
        self.folder = folder
        self.files = 0
        self.usual: dict[str, list[str]] = {
            "data": ["digits"] * 20 + ["digts", "full", "image.png", "shards:absent-{0..9}.tar"],
            "image": ["image.png", "absent.png", "teacher"],
            "model": ["teacher"] * 6 + ["cifar/resnet8", "absent", "full"],
            "teacher": ["teacher"] * 12 + ["cifar/resnet8", "absent", "cifar/resnet21"],
            "student": ["cifar/resnet8"] * 12 + ["cifar/resnet14", "cifar/nothing"],
            "image_size": ["8", "8", "16", "8 16"],
            "input_size": ["8", "16"],
            "teacher_input_size": ["8", "16"],
            "student_input_size": ["8", "8 8"],
            "device": ["cpu"],
            "epochs": ["1", "5", "100000"],
            "workers": ["0"],
            "batch_size": ["2", "64", "1000000"],
            "out": ["full"],
            "cache": ["cache"],
            "json_file": ["found.json", "/dev/null"],
            "weights": ["teacher/student.safetensors", "image.png", "full"],
            "normalization": ["imagenet", "half", "0.5,0.5,0.5/0.5,0.5,0.5"],
            "pairs": ["layer1:layer1", "layer1:layer2,layer2:layer3", "layer1"],
            "metrics": ["accuracy", " ".join(METRICS)],
            "attention": ["power", "gradcam", "nothing"],
            "milestones": ["0.5 0.75", "0.9"],
            "margins": ["1", "1 1.35"],
            "augment": ["flip", "crop erase", "rand_augment"],
            "classes": ["classes.yaml"],
            "precision": ["32-true", "auto"],
            "compile": ["never", "auto"],
        }

    def line(self) -> list[str]:
        """Return the arguments of one command line."""
        command = self.draw.choices(list(SHARES), list(SHARES.values()))[0]
        if command == "odd":
            return [self.draw.choice([*ODD, "help", "--version", "cache", "list"])]
        if command == "list":
            return [
                "list",
                self.draw.choice(["models", "losses", "datasets", "metrics", "x"]),
                self.draw.choice(["*", "a*", *ODD]),
            ]
        kind = KINDS[command]
        options = self.options(kind, odd=self.draw.random() < 0.4)
        arguments = command.split()
        if self.draw.random() < 0.3:
            chosen = {name: options.pop(name) for name in list(options) if self.draw.random() < 0.6}
            arguments += ["--config", self.file(chosen)]
        for name, values in options.items():
            for value in values:
                arguments += self.flag(kind, name, value)
        if self.draw.random() < 0.05:
            arguments.insert(self.draw.randrange(1, len(arguments) + 1), self.draw.choice(ODD))
        return arguments

    def options(self, kind: type[Config], odd: bool) -> dict[str, list[str]]:
        """Return options by name, each with its values, one unless it is repeated."""
        fields = kind.model_fields
        always = [name for name, field in fields.items() if field.is_required()]
        always += [name for name in ("image_size", "device", "out") if name in fields]
        others = [name for name in fields if name not in always]
        names = always + self.draw.sample(others, min(len(others), self.draw.choice([0, 0, 1, 2, 4])))
        found = {name: [self.usual_value(kind, name)] for name in names}
        if "loss" in fields and self.draw.random() < 0.5:
            found["loss"] = [self.loss() for _ in range(self.draw.randint(1, 3))]
        if odd:
            name = self.draw.choice([name for name in fields if name != "out"])
            found[name] = [self.draw.choice(ODD)]
        return found

    def usual_value(self, kind: type[Config], name: str) -> str:
        """Return a value that a user might give."""
        if name in self.usual:
            return self.draw.choice(self.usual[name])
        base = name.removeprefix("teacher_").removeprefix("student_")
        if base in self.usual and base not in ("train",):
            return self.draw.choice(self.usual[base])
        annotation = kind.model_fields[name].annotation
        choices = [value for value in get_args(annotation) if isinstance(value, str)]
        return self.draw.choice(choices or ["1", "2", "0.1", "0.5"])

    def loss(self) -> str:
        """Return a loss as text."""
        name = self.draw.choice([*LOSSES, "ce", "kd", "amd", "adm"])
        known = [
            *(LOSSES[name].options() if name in LOSSES else ()),
            "warmup_epochs",
            "decay_to",
            "share",
            "T",
            "x",
            "weight",
        ]
        options = [f"{self.draw.choice(known)}={self.draw.choice(LOSS_VALUES)}" for _ in range(self.draw.randint(0, 2))]
        return ",".join([f"{name}={self.draw.choice(['1', '0.5', 'auto', self.draw.choice(LOSS_VALUES)])}", *options])

    def flag(self, kind: type[Config], name: str, value: str) -> list[str]:
        """Return an option as it stands on a command line."""
        if name in ("data", "image"):
            return [value]
        flag = f"--{name.replace('_', '-')}"
        if kind.model_fields[name].annotation is bool:
            return [self.draw.choice([flag, flag.replace("--", "--no-", 1)])]
        parts = value.split(" ") if name in self.usual and value in self.usual[name] else [value]
        return [f"{flag}={value}"] if len(parts) == 1 and self.draw.random() < 0.3 else [flag, *parts]

    def file(self, options: dict[str, list[str]]) -> str:
        """Write options as YAML, and return the file's name."""
        self.files += 1
        path = self.folder / f"{self.files}.yaml"
        lines = [f"{name}: {self.yaml(values)}" for name, values in options.items()]
        if self.draw.random() < 0.2:
            lines.append(
                self.draw.choice(
                    [
                        "epoch: 3",
                        "- 1",
                        "1: 2",
                        "a: &a [*a]",
                        "\t",
                        "? [1]\n: 2",
                        "epochs: 1",
                        "loss: {kd: {T: 2020-01-01, weight: 1}}",
                    ]
                )
            )
        text = "\n".join(lines).encode(errors="surrogateescape").replace(b"\0", self.draw.choice([b"", b"\0"]))
        path.write_bytes(text + self.draw.choice([b"\n", b"\n", b"\n", b"\xff\n"]))
        return self.draw.choice([str(path)] * 9 + ["absent.yaml", "full", "/dev/zero", "a\0"])

    def yaml(self, values: list[str]) -> str:
        """Return values as YAML, as they are more often than quoted."""
        form = self.draw.choice(["{}", "{}", "{}", "'{}'", "[{}]", "!!binary {}", "{{a: {}}}", "&b {}"])
        return form.format(self.draw.choice(values)) if len(values) == 1 else f"[{', '.join(map(repr, values))}]"


@pytest.fixture(scope="module")
def workplace(digits_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what command lines name."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "teacher").symlink_to(digits_teacher)
    (folder / "full").mkdir()
    (folder / "full" / "notes.txt").write_text("mine")
    (folder / "classes.yaml").write_text("".join(f"'{digit}': {digit}\n" for digit in range(10)))
    Image.new("RGB", (8, 8), (90, 160, 30)).save(folder / "image.png")
    return folder


@pytest.mark.filterwarnings("default")  # a warning is no fault here, though it would be an error elsewhere in the tests
@pytest.mark.parametrize("part", range(PARTS))
def test_every_command_line_ends_as_documented(part, workplace, monkeypatch, capsys) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(tempfile, "tempdir", str(workplace))
    monkeypatch.setattr(running, "launch", lambda devices, arguments: (0, None))  # what others print is not captured
    grammar = Grammar(part, workplace)
    codes: Counter[Any] = Counter()
    faults, times = [], []
    for number in range(COUNT // PARTS):
        arguments = grammar.line() if number else list(RIGHT)
        line = f"angularkd {shlex.join(arguments)}"[:1000]
        started, code = time.perf_counter(), 0
        try:
            with time_limit():
                cli.main(arguments)
        except SystemExit as stop:
            code = stop.code or 0
        except _TooLong:
            code = "no end"
        printed = capsys.readouterr()
        codes[code] += 1
        times.append((time.perf_counter() - started, line))
        faults += [f"{line}\n  {fault}" for fault in found_faults(code, printed.out, printed.err)]
    if os.environ.get("ANGULARKD_SOAK"):
        with capsys.disabled():
            print(f"\ncodes {dict(codes)}, {len(faults)} faults, slowest: {max(times)}")
    assert not faults, "\n".join([f"{len(faults)} faults:", *faults[:30]])
    assert codes[0] and codes[2], "some command lines are right, and some are not"


def found_faults(code: Any, out: str, err: str) -> list[str]:
    """Return what is wrong with how a command ended."""
    said = [line for line in err.splitlines() if line.startswith("angularkd: ")]
    found = {
        f"ended with {code}: {err[:600]}": code not in DOCUMENTED,
        "printed a traceback": "Traceback" in out + err,
        f"said {len(said)} lines: {err[:600]}": len(said) != (code != 0),
        f"said what is no plain line: {said}"[:800]: any(len(line) > 1200 or "\x1b" in line for line in said),
        f"named a parameter, not a flag: {said}"[:800]: any(PARAMETER.search(line) for line in said),
    }
    return [fault for fault, is_one in found.items() if is_one]
