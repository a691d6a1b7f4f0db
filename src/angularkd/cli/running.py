"""The command line's commands: each parses its options, calls its function and prints what it returns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence

import angularkd
from angularkd.cli.endings import ending
from angularkd.cli.helping import FLAGS as HELP_FLAGS
from angularkd.cli.parsing import parse
from angularkd.cli.printing import open_console, stop
from angularkd.config import (
    CacheInfoConfig,
    DemoConfig,
    DistillConfig,
    EvaluateConfig,
    ExplainConfig,
    ExportConfig,
    PredictConfig,
    Recipe,
    ReplayConfig,
    ReportConfig,
    StudyConfig,
    TrainConfig,
    VerifyConfig,
)
from angularkd.errors import InputError, nearest, short_repr
from angularkd.system.processes import check_devices, check_parts, launch, process_count
from angularkd.system.stopping import stopped_by_signals

USAGE = """angularkd: distil any PyTorch vision classifier into a smaller one

  angularkd demo                teacher, student from scratch, KD and AMD on
                                embedded digits, offline
  angularkd train DATA          train or fine-tune a classifier (--model SPEC)
  angularkd distill DATA        distil a teacher into a student
                                (--teacher SPEC --student SPEC)
  angularkd plan DATA           what distill would pair, check and spend
  angularkd evaluate DATA       every metric of a model (--model SPEC), or of a
                                student beside its teacher
  angularkd cache fill|verify   store or check the teacher's answers, with the
                                flags of distill
  angularkd cache info FOLDER   what the caches in a folder hold
  angularkd study FILE          objectives x pairs x seeds, resumable, to one
                                table with intervals
  angularkd report RUN...       one HTML file of a run, of runs, or of a study
  angularkd explain IMAGE       where teacher and student look, as a figure
  angularkd predict RUN IMAGES  classes and probabilities, by a run's student
                                or an exported file
  angularkd export RUN          a student as a file for other programs, checked
                                against the original (--format onnx)
  angularkd replay RUN          a step that was not finite, part by part
  angularkd list WHAT [PATTERN] models, losses, datasets, metrics that there are

DATA  a folder of class folders, digits, cifar10:DIR, cifar100:DIR, cinic10:DIR,
      tiny-imagenet:DIR, imagenet:DIR, parquet:DIR, hf:NAME or shards:PATTERN
SPEC  cifar/NAME, timm/NAME, torchvision/NAME, hf/NAME, the folder of a run, or
      FILE.py:CALLABLE

angularkd COMMAND --help shows the flags that matter most, --help-all every one;
--config FILE reads them from YAML, flags on top.

Exit codes: 0 done, 2 input that cannot be used, 70 a fault of angularkd (named
with a file to report), 74 disk or output refuse, 130 interrupted, 141 nobody
reads the output any more; 143, 129, 138, 140 stopped by SIGTERM, SIGHUP,
SIGUSR1, SIGUSR2 (128 and the signal's number). A run that is interrupted or
stopped has saved all at its next step, and goes on with --resume.
"""


CACHE_USAGE = """usage: angularkd cache fill DATA --teacher SPEC --student SPEC --cache DIR
       angularkd cache verify DATA --teacher SPEC --student SPEC --cache DIR
       angularkd cache info FOLDER

fill stores the answers that distill with the same options would ask its teacher
for, verify compares them with the teacher, info says what the caches in a
folder hold. angularkd cache fill --help shows the options.
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
    if not arguments or arguments[0] in HELP_FLAGS:
        print(USAGE, end="")
        return
    if arguments[0] == "--version":
        print(f"angularkd {angularkd.__version__}")
        return
    command = COMMANDS.get(arguments[0])
    if process_count() > 1 and command is not None and arguments[0] not in IN_PROCESSES:
        raise InputError(
            f"angularkd {arguments[0]} is of one process, and this is one of {process_count()}: start it without torchrun, which is for "
            f"{' and '.join(IN_PROCESSES)}"
        )
    if command is None:
        known = f"{nearest(arguments[0], COMMANDS)} All of them: {', '.join(COMMANDS)}"
        raise InputError(f"there is no command {short_repr(arguments[0])}.{known}")
    command(arguments[1:])


def _train(arguments: list[str]) -> None:
    config = parse(TrainConfig, "train", arguments)
    _in_processes(config, ["train", *arguments])
    from angularkd.commands.progress import ConsoleReporter
    from angularkd.commands.train import train_and_report

    _own_process(config.device)
    with stopped_by_signals() as stop:
        train_and_report(config, ConsoleReporter(open_console()), stop=stop)


def _distill(arguments: list[str]) -> None:
    config = parse(DistillConfig, "distill", arguments)
    _in_processes(config, ["distill", *arguments])
    from angularkd.commands.distill import distill_and_report
    from angularkd.commands.progress import ConsoleReporter

    _own_process(config.device)
    with stopped_by_signals() as stop:
        distill_and_report(config, ConsoleReporter(open_console()), stop=stop)


def _plan(arguments: list[str]) -> None:
    config = parse(DistillConfig, "plan", arguments)
    from angularkd.commands.tables import print_plan
    from angularkd.training import plan_distillation

    _own_process(config.device)
    print_plan(plan_distillation(config), open_console())


def _evaluate(arguments: list[str]) -> None:
    config = parse(EvaluateConfig, "evaluate", arguments)
    from angularkd.commands.evaluate import run_evaluation
    from angularkd.commands.structures import print_evaluation

    _own_process(config.device)
    print_evaluation(run_evaluation(config), config.json_file, open_console())


def _demo(arguments: list[str]) -> None:
    config = parse(DemoConfig, "demo", arguments)
    from angularkd.commands.demo import run_demo

    _own_process("cpu", threads=1)  # networks so small that threads only wait for each other
    run_demo(config, open_console())


def _cache(arguments: list[str]) -> None:
    if arguments[:1] and arguments[0] in HELP_FLAGS:
        print(CACHE_USAGE, end="")
        return
    action, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if action == "info":
        folder = parse(CacheInfoConfig, "cache info", rest)
        from angularkd.commands.cache import describe_caches

        describe_caches(folder, open_console())
        return
    if action not in ("fill", "verify"):
        raise InputError(
            f"{_unknown(action, ('fill', 'verify', 'info'))}say what to do with the cache: angularkd cache fill|verify DATA "
            "--teacher SPEC --student SPEC --cache DIR, or angularkd cache info FOLDER"
        )
    config = parse(VerifyConfig if action == "verify" else DistillConfig, f"cache {action}", rest)
    from angularkd.commands.cache import ACTIONS

    _own_process(config.device)
    ACTIONS[action](config, open_console())


def _explain(arguments: list[str]) -> None:
    config = parse(ExplainConfig, "explain", arguments)
    from angularkd.commands.explain import run_explanation

    run_explanation(config, open_console())


def _study(arguments: list[str]) -> None:
    config = parse(StudyConfig, "study", arguments)
    from angularkd.commands.study import show_study

    _own_process("cpu")
    with stopped_by_signals() as stop:
        show_study(config, open_console(), stop)


def _report(arguments: list[str]) -> None:
    config = parse(ReportConfig, "report", arguments)
    from angularkd.commands.report import run_report

    _own_process(config.device)
    run_report(config, open_console())


def _predict(arguments: list[str]) -> None:
    config = parse(PredictConfig, "predict", arguments)
    from angularkd.commands.predict import run_prediction

    _own_process(config.device)
    run_prediction(config, open_console())


def _replay(arguments: list[str]) -> None:
    config = parse(ReplayConfig, "replay", arguments)
    from angularkd.commands.replay import run_replay

    _own_process(config.device)
    run_replay(config, open_console())


def _export(arguments: list[str]) -> None:
    config = parse(ExportConfig, "export", arguments)
    from angularkd.commands.export import run_export

    run_export(config, console=open_console())


def _list(arguments: list[str]) -> None:
    from angularkd.commands.list import LISTS, show_list

    if set(arguments[:2]) & set(HELP_FLAGS):
        print(
            f"usage: angularkd list {'|'.join(LISTS)} [PATTERN]\n\nShow what there is, or what matches a pattern such as 'cifar/*'."
        )
        return
    if not arguments or arguments[0] not in LISTS or len(arguments) > 2:
        unknown = _unknown(arguments[0] if arguments else "", LISTS)
        raise InputError(
            f"{unknown}say what to list: angularkd list {'|'.join(LISTS)} [PATTERN], for example models 'cifar/*'"
        )
    show_list(arguments[0], arguments[1] if len(arguments) == 2 else "*", open_console())


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "demo": _demo,
    "train": _train,
    "distill": _distill,
    "plan": _plan,
    "evaluate": _evaluate,
    "cache": _cache,
    "study": _study,
    "report": _report,
    "explain": _explain,
    "predict": _predict,
    "export": _export,
    "replay": _replay,
    "list": _list,
}


IN_PROCESSES = ("train", "distill")
"""The commands that run in several processes."""


def _in_processes(config: Recipe, arguments: list[str]) -> None:
    """Run a command in as many processes as it asks for, unless this is one of them already.

    Raises:
        InputError: for more than there are devices, and for a batch that has no equal parts for them.
        SystemExit: with their exit code, once they have ended.
    """
    if config.devices == 1 or process_count() > 1:
        return
    check_parts(config.batch_size, config.devices)
    check_devices(config.devices, config.device)
    code, text = launch(config.devices, arguments)
    if text is not None:
        stop(f"{text}; if a checkpoint was written, it goes on with --resume", code)
    raise SystemExit(code)


def _unknown(word: str, known: Iterable[str]) -> str:
    """Return how a message about a word begins that is none of those known; empty where it is one, or there is none."""
    known = list(known)
    return f"there is no {short_repr(word)}.{nearest(word, known)} Or " if word and word not in known else ""


def _own_process(device: str, threads: int | None = None) -> None:
    """Set what a command wants of its process, which functions of the package leave to whoever owns it."""
    import torch

    from angularkd.system.memory import keep_freed_memory

    if threads is not None:
        torch.set_num_threads(threads)
    if device == "cpu" or (device == "auto" and not (torch.cuda.is_available() or torch.backends.mps.is_available())):
        keep_freed_memory()
