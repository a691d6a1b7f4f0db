"""Which models of timm and torchvision can teach, and learn, without a word about their modules.

    python benchmarks/pairing.py [--families vgg,levit] [--library timm] [--all] [--checkpointing] [--resume]
        [--json-file FILE]

The smallest model of every family (timm: of every module file; torchvision: likewise), with random weights, once as the
teacher of a ResNet-18 and once as its student. A model passes in a role when its stages are found and paired, and one
step of cross-entropy and AMD on two images gives finite gradients, one of them not zero in the first layer that has
weights. As a teacher, its logits through the hooks must also equal those of the bare model bit for bit. With --checkpointing only
models of timm that offer gradient checkpoints are tried, with those on and the student in training mode.

Each model runs in a process of its own, on images of --image-size where it takes them, else of its own size. Prints a table;
writes every result, with the reason of each failure, to --json-file after every model, where --resume goes on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from rich.console import Console
from rich.table import Table
from torch import nn

from angularkd import Distiller
from angularkd.features import find_stages, trace
from angularkd.models import Preprocessing, open_classifier

ROLES = ("teacher", "student")
CLASSES = 10


@dataclass(frozen=True)
class Case:
    """A model to try: its SPEC, the family it stands for, and how many parameters it has."""

    library: str
    family: str
    name: str
    parameters: int

    @property
    def spec(self) -> str:
        return f"{self.library}/{self.name}"


def main() -> None:
    options = parse()
    warnings.simplefilter("ignore")
    results: dict[str, Any] = {}
    if options.resume and options.json_file.is_file():
        results = json.loads(options.json_file.read_text())["models"]
    cases = list(chosen_cases(options))
    for case in cases:
        if case.spec in results:
            continue
        started = time.perf_counter()
        arguments = (case, options.partner, options.image_size, options.checkpointing)
        outcome = in_own_process(try_both_roles, *arguments, limit=options.timeout)
        seconds = round(time.perf_counter() - started, 1)
        results[case.spec] = {"family": case.family, "parameters": case.parameters, "seconds": seconds, **outcome}
        write(options.json_file, results, options)
        marks = " ".join(outcome[role]["failure"] or "ok" for role in ROLES)
        print(f"{case.spec:<50} {seconds:6.1f} s  {marks}", flush=True)
    write(options.json_file, results, options)
    show({case.spec: results[case.spec] for case in cases})


def chosen_cases(options: argparse.Namespace) -> Iterator[Case]:
    """The smallest model of each family asked for, or every model of it."""
    families: dict[tuple[str, str], list[str]] = {}
    if options.library in (None, "timm"):
        families |= {("timm", family): timm.list_models(module=family) for family in timm.list_modules()}
    if options.library in (None, "torchvision"):
        for name in torchvision.models.list_models(module=torchvision.models):
            family = torchvision.models.get_model_builder(name).__module__.rpartition(".")[2]
            families.setdefault(("torchvision", family), []).append(name)
    for (library, family), names in families.items():
        if options.families and family not in options.families.split(","):
            continue
        sizes = sorted((parameters_of(library, name), name) for name in names)
        for size, name in sizes if options.all else sizes[:1]:
            yield Case(library, family, name, size)


def try_both_roles(case: Case, partner: str, small: int, checkpointing: bool = False) -> dict[str, Any]:
    """What comes of the model as a teacher of the partner, and as its student."""
    size, image_options = image_size(case, small)
    torch.manual_seed(0)
    model = build(case, num_classes=CLASSES, **image_options)
    if checkpointing:
        try:
            model.set_grad_checkpointing(True)
        except (AssertionError, AttributeError):
            return {role: failed("offers no gradient checkpoints") for role in ROLES}
    outcome: dict[str, Any] = {"image_size": size}
    for role in ROLES:
        try:
            other = open_classifier(partner, CLASSES).module
            pairs = try_role(role, model, other, size, small, checkpointing)
            outcome[role] = {"failure": None, "pairs": pairs}
        except Exception as error:
            outcome[role] = failed(error)
    return outcome


def try_role(
    role: str, model: nn.Module, partner: nn.Module, size: int, partner_size: int, training: bool = False
) -> list[str]:
    """One step of distillation with the model in this role; the pairs that were made. Raises where it does not work."""
    own, others = (Preprocessing((0.5,) * 3, (0.5,) * 3, (side, side)) for side in (size, partner_size))
    images, labels = torch.rand(2, 3, size, size), torch.tensor([0, 1])
    teaches = role == "teacher"
    teacher, student = (model, partner) if teaches else (partner, model)
    transforms = {"teacher_transform": own, "student_transform": others}
    if not teaches:
        transforms = {"teacher_transform": others, "student_transform": own}
    bare = None
    if teaches:
        with torch.no_grad():
            bare = model.eval()(own(images))
    distiller = Distiller(teacher, student, {"ce": 1.0, "amd": 1.0}, example=images, **transforms)
    if bare is not None and distiller.teacher is not None:
        check(torch.equal(distiller.teacher(images).logits, bare), "the hooks change the teacher's logits")
    if training:
        distiller.train()
    out = distiller(images, labels)
    check(bool(out.total.isfinite()), "the loss is not finite")
    check(all(pair.teacher.height * pair.student.height > 1 for pair in distiller.pairs), "a map has one position")
    out.terms["amd"].backward()
    first = first_weights(student)
    check(first.grad is not None and bool(first.grad.ne(0).any()), "AMD gives the first layer no gradient")
    gradients = [p.grad for p in student.parameters() if p.grad is not None]
    check(all(bool(gradient.isfinite().all()) for gradient in gradients), "a gradient is not finite")
    return [f"{pair.teacher} -> {pair.student}" for pair in distiller.pairs]


def check(holds: bool, reason: str) -> None:
    if not holds:
        raise AssertionError(reason)


def first_weights(model: nn.Module) -> nn.Parameter:
    """The weights of the first layer: of the first module that has some of its own."""
    return next(p for p in (getattr(m, "weight", None) for m in model.modules()) if isinstance(p, nn.Parameter))


def image_size(case: Case, small: int) -> tuple[int, dict[str, int]]:
    """`small` where the model runs on such images, or can be built for them; else its own size. Nothing is computed."""
    own = timm.get_pretrained_cfg(case.name).input_size[-1] if case.library == "timm" else 224
    for options in ({}, {"img_size": small}):
        try:
            with torch.device("meta"):
                model = build(case, **options)
                if len(find_stages(model, trace(model, torch.zeros(1, 3, small, small)))) > 1:
                    return small, options
        except Exception:
            continue
    return own, {}


def build(case: Case, **options: Any) -> nn.Module:
    create = timm.create_model if case.library == "timm" else torchvision.models.get_model
    return create(case.name, **options)


def parameters_of(library: str, name: str) -> int:
    """How many parameters a model has, counted once a machine, and where that is possible without memory for them."""
    version = (timm if library == "timm" else torchvision).__version__
    file = Path(tempfile.gettempdir()) / f"angularkd-sizes-{library}-{version}.json"
    if file not in SIZES:
        SIZES[file] = json.loads(file.read_text()) if file.is_file() else {}
    if name not in SIZES[file]:
        try:
            with torch.device("meta"):
                model = build(Case(library, "", name, 0))
        except Exception:  # some compute with numbers that such tensors do not have
            model = build(Case(library, "", name, 0))
        SIZES[file][name] = sum(p.numel() for p in model.parameters())
        file.write_text(json.dumps(SIZES[file]))
    return SIZES[file][name]


SIZES: dict[Path, dict[str, int]] = {}


def failed(error: BaseException | str) -> dict[str, Any]:
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return {"failure": text.splitlines()[0][:300] if text else "?", "pairs": []}


def in_own_process(call: Callable[..., dict[str, Any]], *arguments: Any, limit: float) -> dict[str, Any]:
    """Its answer; an exception, a crash, or more than `limit` seconds, is a failure in both roles."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def run(answers: Connection) -> None:
        try:
            answers.send(call(*arguments))
        except Exception as error:
            answers.send({role: failed(error) for role in ROLES})

    process = context.Process(target=run, args=(sender,))
    process.start()
    sender.close()
    reason = f"took more than {limit:.0f} s"
    try:
        if receiver.poll(limit):
            return receiver.recv()
    except EOFError:
        process.join()
        reason = f"the process ended with {process.exitcode}"
    finally:
        process.kill()
        process.join()
    return {role: failed(reason) for role in ROLES}


def summary(results: dict[str, Any]) -> dict[str, Any]:
    """Counts and percentages by library: in each role, and in both."""
    counted: dict[str, Any] = {}
    for library in ("timm", "torchvision"):
        mine = [result for spec, result in results.items() if spec.startswith(library + "/")]
        if mine:
            good = {role: sum(result[role]["failure"] is None for result in mine) for role in ROLES}
            good["both"] = sum(all(result[role]["failure"] is None for role in ROLES) for result in mine)
            percent = {role: round(100 * count / len(mine), 1) for role, count in good.items()}
            counted[library] = {"models": len(mine), "passed": good, "percent": percent}
    return counted


def write(file: Path, results: dict[str, Any], options: argparse.Namespace) -> None:
    document = {
        "partner": options.partner,
        "timm": timm.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "summary": summary(results),
        "models": results,
    }
    beside = file.with_suffix(".partial")
    beside.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(beside, file)


def show(results: dict[str, Any]) -> None:
    table = Table("model", "family", "M", "px", "pairs", "as teacher", "as student")
    for spec, result in results.items():
        marks = [result[role]["failure"] or "ok" for role in ROLES]
        pairs = str(len(result["teacher"]["pairs"]))
        millions = f"{result['parameters'] / 1e6:.1f}"
        table.add_row(spec, result["family"], millions, str(result.get("image_size", "")), pairs, *marks)
    console = Console()
    console.print(table)
    for library, counts in summary(results).items():
        shares = ", ".join(f"{role} {counts['passed'][role]} ({share} %)" for role, share in counts["percent"].items())
        console.print(f"{library}: {counts['models']} models; passed as {shares}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", help="only these, separated by commas")
    parser.add_argument("--library", choices=("timm", "torchvision"))
    parser.add_argument("--all", action="store_true", help="every model of the families, not the smallest alone")
    parser.add_argument(
        "--checkpointing", action="store_true", help="with gradient checkpoints, where a model offers them"
    )
    parser.add_argument("--partner", default="timm/resnet18")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds a model may take")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--json-file", type=Path, default=Path(tempfile.gettempdir()) / "angularkd-pairing.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
