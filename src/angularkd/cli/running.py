"""The command line's commands: each parses its options, calls its function and prints what it returns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import angularkd
from angularkd.cli.endings import ending
from angularkd.cli.parsing import parse
from angularkd.cli.printing import open_console
from angularkd.config import (
    DemoConfig,
    DistillConfig,
    EvaluateConfig,
    ExplainConfig,
    ExportConfig,
    PredictConfig,
    TrainConfig,
)
from angularkd.errors import InputError, nearest, shown

USAGE = """angularkd: distil any PyTorch vision classifier into a smaller one

  angularkd demo                                       teacher, student from scratch, KD and AMD on embedded digits, offline
  angularkd train DATA --model SPEC                    train or fine-tune a classifier: a teacher, or a baseline
  angularkd distill DATA --teacher SPEC --student SPEC distil a teacher into a student
  angularkd plan DATA --teacher SPEC --student SPEC    what distill would pair, check and spend
  angularkd evaluate DATA --model SPEC                 every metric of a model, or of a student beside its teacher
  angularkd cache fill|verify|info DATA ...            store the teacher's answers, with the flags of distill
  angularkd explain IMAGE --teacher SPEC --student SPEC what AMD compares in one image, as a figure
  angularkd predict RUN IMAGES...                      classes and probabilities, by a run's student or an exported file
  angularkd export RUN --format onnx                   a student as a file for other programs, checked against the original
  angularkd list models|losses|datasets|metrics [PATTERN] what there is

DATA is a folder of class folders, digits, cifar10:DIR, cifar100:DIR, cinic10:DIR, tiny-imagenet:DIR, imagenet:DIR,
parquet:DIR, hf:NAME or shards:PATTERN.
SPEC is cifar/NAME, timm/NAME, torchvision/NAME, hf/NAME, the folder of a run, or FILE.py:CALLABLE.
angularkd COMMAND --help shows the flags of a command; --config FILE reads them from YAML, flags on top.
Exit codes: 0 done, 2 input that cannot be used, 70 a fault of angularkd (named with a file to report), 74 disk or output refuse,
130 interrupted, 141 nobody reads the output any more.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        arguments: of the command line; None for those of the process.

    Raises:
        SystemExit: with one of the exit codes in USAGE, after one line that says why; with 0 after a help.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with ending(arguments):
        _run(arguments)


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return
    if arguments[0] == "--version":
        print(f"angularkd {angularkd.__version__}")
        return
    command = COMMANDS.get(arguments[0])
    if command is None:
        known = f"{nearest(arguments[0], COMMANDS)} All of them: {', '.join(COMMANDS)}"
        raise InputError(f"there is no command {shown(arguments[0])}.{known}")
    command(arguments[1:])


def _train(arguments: list[str]) -> None:
    config = parse(TrainConfig, "train", arguments)
    from angularkd.commands.progress import ConsoleReporter
    from angularkd.training import run_training

    _own_process(config.device)
    run_training(config, ConsoleReporter(open_console()))


def _distill(arguments: list[str]) -> None:
    config = parse(DistillConfig, "distill", arguments)
    from angularkd.commands.progress import ConsoleReporter
    from angularkd.training import run_distillation

    _own_process(config.device)
    run_distillation(config, ConsoleReporter(open_console()))


def _plan(arguments: list[str]) -> None:
    config = parse(DistillConfig, "plan", arguments)
    from angularkd.commands.tables import print_plan
    from angularkd.training import plan_distillation

    _own_process(config.device)
    print_plan(plan_distillation(config), open_console())


def _evaluate(arguments: list[str]) -> None:
    config = parse(EvaluateConfig, "evaluate", arguments)
    from angularkd.commands.evaluate import run_evaluation
    from angularkd.commands.tables import print_metrics

    _own_process(config.device)
    print_metrics(run_evaluation(config), open_console())


def _demo(arguments: list[str]) -> None:
    config = parse(DemoConfig, "demo", arguments)
    from angularkd.commands.demo import run_demo

    _own_process("cpu", threads=1)  # networks so small that threads only wait for each other
    run_demo(config, open_console())


def _cache(arguments: list[str]) -> None:
    actions = ("fill", "verify", "info")
    if arguments[:1] in (["-h"], ["--help"]):
        arguments = ["fill|verify|info", "--help"]
    elif not arguments or arguments[0] not in actions:
        raise InputError(
            f"say what to do with the cache: angularkd cache {'|'.join(actions)} DATA --teacher SPEC --student SPEC --cache DIR"
        )
    config = parse(DistillConfig, f"cache {arguments[0]}", arguments[1:])
    from angularkd.commands.cache import ACTIONS

    _own_process(config.device)
    ACTIONS[arguments[0]](config, open_console())


def _explain(arguments: list[str]) -> None:
    config = parse(ExplainConfig, "explain", arguments)
    from angularkd.commands.explain import run_explanation

    run_explanation(config, open_console())


def _predict(arguments: list[str]) -> None:
    config = parse(PredictConfig, "predict", arguments)
    from angularkd.commands.predict import run_prediction

    _own_process(config.device)
    run_prediction(config, open_console())


def _export(arguments: list[str]) -> None:
    config = parse(ExportConfig, "export", arguments)
    from angularkd.commands.export import run_export

    run_export(config, console=open_console())


def _list(arguments: list[str]) -> None:
    from angularkd.commands.list import LISTS, show_list

    if arguments[:1] in (["-h"], ["--help"]) or arguments[1:] in (["-h"], ["--help"]):
        print(
            f"usage: angularkd list {'|'.join(LISTS)} [PATTERN]\n\nShow what there is, or what matches a pattern such as 'cifar/*'."
        )
        return
    if not arguments or arguments[0] not in LISTS or len(arguments) > 2:
        raise InputError(f"say what to list: angularkd list {'|'.join(LISTS)} [PATTERN], for example models 'cifar/*'")
    show_list(arguments[0], arguments[1] if len(arguments) == 2 else "*", open_console())


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "demo": _demo,
    "train": _train,
    "distill": _distill,
    "plan": _plan,
    "evaluate": _evaluate,
    "cache": _cache,
    "explain": _explain,
    "predict": _predict,
    "export": _export,
    "list": _list,
}


def _own_process(device: str, threads: int | None = None) -> None:
    """Set what a command wants of its process, which functions of the package leave to whoever owns it."""
    import torch

    from angularkd.system.memory import keep_freed_memory

    if threads is not None:
        torch.set_num_threads(threads)
    if device == "cpu" or (device == "auto" and not (torch.cuda.is_available() or torch.backends.mps.is_available())):
        keep_freed_memory()
