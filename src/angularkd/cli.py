"""The command line: parses, calls, prints; decides nothing."""

from __future__ import annotations

import contextlib
import inspect
import io
import itertools
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import tyro

import angularkd
from angularkd.config import (
    Config,
    DemoConfig,
    DistillConfig,
    EvaluateConfig,
    ExplainConfig,
    TrainConfig,
    with_flags,
)
from angularkd.errors import InputError, nearest

C = TypeVar("C", bound=Config)

USAGE = """angularkd: distil any PyTorch vision classifier into a smaller one

  angularkd demo                                       teacher, student from scratch, KD and AMD on embedded digits, offline
  angularkd train DATA --model SPEC                    train or fine-tune a classifier: a teacher, or a baseline
  angularkd distill DATA --teacher SPEC --student SPEC distil a teacher into a student
  angularkd plan DATA --teacher SPEC --student SPEC    what distill would pair, check and spend
  angularkd evaluate DATA --model SPEC                 every metric of a model, or of a student beside its teacher
  angularkd cache fill|verify|info DATA ...            store the teacher's answers, with the flags of distill
  angularkd explain IMAGE --teacher SPEC --student SPEC what AMD compares in one image, as a figure
  angularkd list models|losses|datasets|metrics [PATTERN] what there is

DATA is a folder of class folders, digits, cifar10:DIR, cifar100:DIR, cinic10:DIR, tiny-imagenet:DIR, imagenet:DIR,
parquet:DIR, hf:NAME or shards:PATTERN.
SPEC is cifar/NAME, timm/NAME, torchvision/NAME, hf/NAME, the folder of a run, or FILE.py:CALLABLE.
angularkd COMMAND --help shows the flags of a command; --config FILE reads them from YAML, flags on top.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        arguments: of the command line; None for those of the process.

    Raises:
        SystemExit: with 2 and one line for input that cannot be used, with 130 when interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return
    if arguments[0] == "--version":
        print(f"angularkd {angularkd.__version__}")
        return
    try:
        command = COMMANDS.get(arguments[0])
        if command is None:
            raise InputError(
                f"there is no command '{arguments[0]}'.{nearest(arguments[0], COMMANDS)} All of them: {', '.join(COMMANDS)}"
            )
        command(arguments[1:])
    except InputError as error:
        _stop(f"angularkd: {' '.join(with_flags(str(error)).split())}", 2)
    except KeyboardInterrupt:
        goes_on = "; if an epoch was done, it goes on with --resume" if arguments[0] in ("train", "distill") else ""
        _stop(f"angularkd: interrupted{goes_on}", 130)


def parse(kind: type[C], command: str, arguments: list[str]) -> C:
    """Return a configuration from flags, on top of the YAML file that --config names.

    Args:
        kind: the class of the configuration.
        command: its name, for messages.
        arguments: flags and values.

    Raises:
        InputError: for a flag that the command does not have, or a value that cannot be.
    """
    arguments, file = _take_config(arguments)
    _check_flags(kind, command, arguments)
    options = kind.load(file) if file is not None else {}
    losses = options.pop("loss", ())
    default: Any = None
    if options:
        required = {name: tyro.MISSING for name, field in kind.model_fields.items() if field.is_required()}
        default = kind.model_construct(**{**required, **options})
    about = f"{inspect.getdoc(kind)} --config FILE reads these options from YAML; flags lie on top."
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed = tyro.cli(kind, prog=f"angularkd {command}", description=about, args=arguments, default=default)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise InputError(f"{_in_one_line(complaint.getvalue())} See: angularkd {command} --help") from None
    given = {name: getattr(parsed, name) for name in kind.model_fields}
    if losses and not given["loss"]:
        given["loss"] = losses
    return kind.from_options(**given)


def _check_flags(kind: type[Config], command: str, arguments: Sequence[str]) -> None:
    """Raise InputError for a flag that the command does not have, with the nearest that it has."""
    flags = {"--help"}
    for name, field in kind.model_fields.items():
        flag = name.replace("_", "-")
        flags |= {f"--{flag}", f"--no-{flag}"} if field.annotation is bool else {f"--{flag}"}
    for argument in arguments:
        flag = argument.partition("=")[0].replace("_", "-")
        if argument.startswith("--") and flag not in flags:
            known = nearest(flag, flags)
            raise InputError(f"angularkd {command} has no flag {flag}.{known} See: angularkd {command} --help")


def _in_one_line(complaint: str) -> str:
    """Return the first sentence of a boxed complaint: its lines up to the rule, without the frame."""
    lines = [line.strip("│╭╮╰╯─|+ ") for line in complaint.splitlines()]
    lines = ["" if set(line) == {"-"} else line for line in lines]  # rules, where the encoding knows no others
    body = list(itertools.dropwhile(lambda line: not line, lines[1:]))
    text = " ".join(body[: next((i for i, line in enumerate(body) if not line), len(body))])
    text = re.sub(
        r"\[type=[^\]]*\]|For further information visit \S+|Error parsing \w+: \d+ validation errors? for \w+", "", text
    )
    text = " ".join(text.split()).replace("Value error, ", "")
    return text if text.endswith(".") else f"{text}."


def _take_config(arguments: list[str]) -> tuple[list[str], str | None]:
    """Return the arguments without --config FILE, and the file."""
    for i, argument in enumerate(arguments):
        if argument == "--config":
            if i + 1 == len(arguments):
                raise InputError("--config needs a YAML file")
            return arguments[:i] + arguments[i + 2 :], arguments[i + 1]
        if argument.startswith("--config="):
            return arguments[:i] + arguments[i + 1 :], argument.removeprefix("--config=")
    return arguments, None


def _train(arguments: list[str]) -> None:
    config = parse(TrainConfig, "train", arguments)
    from angularkd.commands.progress import ConsoleReporter
    from angularkd.training import run_training

    _own_process(config.device)
    run_training(config, ConsoleReporter(_console()))


def _distill(arguments: list[str]) -> None:
    config = parse(DistillConfig, "distill", arguments)
    from angularkd.commands.progress import ConsoleReporter
    from angularkd.training import run_distillation

    _own_process(config.device)
    run_distillation(config, ConsoleReporter(_console()))


def _plan(arguments: list[str]) -> None:
    config = parse(DistillConfig, "plan", arguments)
    from angularkd.commands.tables import print_plan
    from angularkd.training import plan_distillation

    _own_process(config.device)
    print_plan(plan_distillation(config), _console())


def _evaluate(arguments: list[str]) -> None:
    config = parse(EvaluateConfig, "evaluate", arguments)
    from angularkd.commands.evaluate import run_evaluation
    from angularkd.commands.tables import print_metrics

    _own_process(config.device)
    print_metrics(run_evaluation(config), _console())


def _demo(arguments: list[str]) -> None:
    config = parse(DemoConfig, "demo", arguments)
    from angularkd.commands.demo import run_demo

    _own_process("cpu", threads=1)  # networks so small that threads only wait for each other
    run_demo(config, _console())


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
    ACTIONS[arguments[0]](config, _console())


def _explain(arguments: list[str]) -> None:
    config = parse(ExplainConfig, "explain", arguments)
    from angularkd.commands.explain import run_explanation

    run_explanation(config, _console())


def _list(arguments: list[str]) -> None:
    from angularkd.commands.list import LISTS, show_list

    if not arguments or arguments[0] not in LISTS or len(arguments) > 2:
        raise InputError(f"say what to list: angularkd list {'|'.join(LISTS)} [PATTERN], for example models 'cifar/*'")
    show_list(arguments[0], arguments[1] if len(arguments) == 2 else "*", _console())


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "demo": _demo,
    "train": _train,
    "distill": _distill,
    "plan": _plan,
    "evaluate": _evaluate,
    "cache": _cache,
    "explain": _explain,
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


def _console() -> Any:
    from rich.console import Console

    terminal = Console(markup=False)  # brackets in a path or a class's name are no markup
    return terminal if terminal.is_terminal else Console(width=160, markup=False)


def _stop(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(code)
