"""Fingerprints of what the options of a run name: files may change behind the same paths."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import nn

from angularkd.data import listing
from angularkd.models import Classifier, fingerprint, is_file_spec
from angularkd.system.sources import code_of
from angularkd.training.job import Job


def code_behind(module: nn.Module, spec: str) -> dict[str, str]:
    """Return a digest of each own file whose code a network runs, by its path, and the version of each package, by its name.

    Args:
        module: the network, of whose parts all classes count.
        spec: the SPEC that built it; a Python file counts, too, for it may have changed what its classes do.
    """
    files = [Path(spec.rpartition(":")[0])] if is_file_spec(spec) else []
    return code_of({type(part): None for part in module.modules()}, files)


def run_fingerprints(job: Job) -> dict[str, str]:
    """Return what must not change between a run and its resumption, by what a message calls it."""
    dataset = job.data.dataset
    networks = {"student" if job.teacher is not None else "model": job.student, "teacher": job.teacher}
    found = {f"the {name} images": listing(split) for name, split in dataset.splits.items()}
    found["the classes, or their order,"] = _digest(dataset.classes)
    for role, network in networks.items():
        if network is not None:
            found[f"the code of the {role}"] = _own_code(network)
    if job.teacher is not None:
        found["the weights of the teacher"] = fingerprint(job.teacher.module)
    return found


def _own_code(network: Classifier) -> str:
    """Hash the user's own files; packages, and this one, may be updated."""
    here = Path(__file__).parents[1]
    code = code_behind(network.module, network.architecture or network.spec)
    return _digest(
        sorted(
            digest for path, digest in code.items() if Path(path).is_absolute() and not Path(path).is_relative_to(here)
        )
    )


def _digest(value: object) -> str:
    return hashlib.blake2b(repr(value).encode(), digest_size=16).hexdigest()
