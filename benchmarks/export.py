"""Which families of timm can be exported to ONNX for any number of images, and give the same there.

    python benchmarks/export.py [--families vgg,levit] [--timeout 300] [--resume] [--json-file FILE]

The smallest model of every family, with random weights, 10 classes and its normalisation inside, is written by the same code as
`angularkd export --format onnx` and run by onnxruntime on batches of 1, 2 and 5 images. It passes when no output differs from PyTorch's
by more than a thousandth of the largest one (or of 1), and the first classes are the same. Each model has a process of its own; the
smallest models come first. Prints a line a model; every result, with the reason of each failure, lies in --json-file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import timm
import torch

from angularkd.exporting import FORMATS, Deployable
from angularkd.inference import Signature, open_exported
from angularkd.models import Classifier, Preprocessing
from pairing import Case, build, chosen_cases, image_size, in_own_process

CLASSES = 10
BATCHES = (1, 2, 5)
TOLERANCE = 1e-3


def main() -> None:
    options = parse()
    warnings.simplefilter("ignore")
    results: dict[str, Any] = {}
    if options.resume and options.json_file.is_file():
        results = json.loads(options.json_file.read_text())["models"]
    for case in sorted(chosen_cases(options), key=lambda case: case.parameters):
        if case.spec in results:
            continue
        started = time.perf_counter()
        outcome = in_own_process(export, case, options.image_size, limit=options.timeout)
        outcome = outcome.get("teacher", outcome)  # how a process that ended is reported
        seconds = round(time.perf_counter() - started, 1)
        results[case.spec] = {"family": case.family, "parameters": case.parameters, "seconds": seconds, **outcome}
        passed = sum(result["failure"] is None for result in results.values())
        document = {"timm": timm.__version__, "torch": torch.__version__, "passed": passed, "models": results}
        options.json_file.write_text(json.dumps(document, indent=1) + "\n")
        print(f"{case.spec:<50} {seconds:6.1f} s  {outcome['failure'] or 'ok'}", flush=True)
    print(f"{sum(result['failure'] is None for result in results.values())} of {len(results)} families pass")


def export(case: Case, small: int) -> dict[str, Any]:
    """Export a model and compare; its size, the largest difference, and what is wrong, None where nothing is."""
    torch.set_num_threads(1)
    size, image_options = image_size(case, small)
    torch.manual_seed(0)
    module = build(case, num_classes=CLASSES, **image_options).eval()
    student = Classifier(case.spec, module, CLASSES, Preprocessing((0.5,) * 3, (0.25,) * 3))
    signature = Signature(classes=tuple(map(str, range(CLASSES))), image_size=(size, size))
    network = Deployable(student, signature)
    differences = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / FORMATS["onnx"].file
        FORMATS["onnx"].write(network, file, signature.model_dump(mode="json"))
        exported = open_exported(file)
        for batch in BATCHES:
            images = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(batch))
            with torch.inference_mode():
                original = network(images)
            found = exported.outputs(images)
            differences.append(((found - original).abs().max() / original.abs().max().clamp(min=1)).item())
            same = bool((found.argmax(dim=1) == original.argmax(dim=1)).all())
            if not same or not differences[-1] <= TOLERANCE:
                failure = f"batch {batch} differs by {differences[-1]:.2g} of its largest output"
                return {"image_size": size, "difference": differences[-1], "failure": failure}
    return {"image_size": size, "difference": max(differences), "failure": None}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", help="only these, separated by commas")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds a model may take")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--json-file", type=Path, default=Path(tempfile.gettempdir()) / "angularkd-export.json")
    parser.set_defaults(library="timm", all=False)
    return parser.parse_args()


if __name__ == "__main__":
    main()
