"""What a student is worth beside what it could be compared with: the same network without a teacher, and the teacher's size and speed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool

from angularkd.errors import InputError
from angularkd.models import Classifier, open_classifier
from angularkd.runs import RunFolder
from angularkd.system.modes import mode
from angularkd.system.timing import time_in_turn
from angularkd.training.job import Job, predictor
from angularkd.training.plan import Plan

SCRATCH = "from scratch"
"""The name of the student without a teacher, in results."""
Z = 1.959964
"""The normal quantile of a 95 % interval."""
TIMED_IMAGES, REPEATS, LEAST_REPEATS, LONGEST_SECONDS = 16, 20, 3, 1.0


def compare_with_baseline(job: Job, baseline: RunFolder) -> dict[str, Any]:
    """Return what results.json says of the student beside the same network that was trained without its teacher.

    Both are those of their last epoch, and run on the same test images.

    Args:
        job: of the distillation, its training done.
        baseline: the folder of the finished run without a teacher.

    Raises:
        InputError: where that folder holds no results of such a network.
    """
    metrics = baseline.read_results().get("metrics", {}).get("last epoch")
    if metrics is None:
        raise InputError(
            f"the run without a teacher in {baseline.path} has no results: remove that folder, and give `baseline` again"
        )
    alone = copy.deepcopy(job.result.module)
    trusted = getattr(job.config, "trusted", ())  # the files whose code this run runs anyway
    opened = open_classifier(str(baseline.path), len(job.data.dataset.classes), module=alone, trust=trusted)
    difference = paired_difference(_hits(job, job.result), _hits(job, replace(job.result, module=opened.module)))
    return {"metrics": {SCRATCH: metrics}, "comparison": {"with": SCRATCH, **difference}}


def paired_difference(ours: Bool[np.ndarray, " images"], theirs: Bool[np.ndarray, " images"]) -> dict[str, float]:
    """Return by how much the accuracy of one classifier is above another's on the same images, and how sure that is.

    The interval is that of Bonett and Price for paired proportions (Statistics in Medicine 31, 2012), the test McNemar's exact one;
    both are of these two networks on other images, not of other seeds.

    Args:
        ours: whether each image is classified rightly, [images].
        theirs: likewise, by the other.

    Returns:
        difference, low and high (of the 95 % interval), in shares of the images; p_value; images; and how many images only one of
        them gets right, as only_student and only_baseline.
    """
    from scipy.stats import binomtest  # half a second that only who compares waits for

    images, mine, others = len(ours), int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    p, q = (mine + 1) / (images + 2), (others + 1) / (images + 2)
    half = Z * ((p + q - (p - q) ** 2) / (images + 2)) ** 0.5
    return {
        "difference": (mine - others) / images,
        "low": max(p - q - half, -1.0),
        "high": min(p - q + half, 1.0),
        "p_value": float(binomtest(mine, mine + others).pvalue) if mine + others else 1.0,
        "only_student": mine,
        "only_baseline": others,
        "images": images,
    }


def little_to_teach(plan: Plan, results: Mapping[str, Any]) -> str | None:
    """Return a note where the student without a teacher is as good as that on the validation images.

    Args:
        plan: which has measured the teacher.
        results: of the run without it.
    """
    alone, teacher = results["selected_validation_accuracy"], plan.teacher_validation.get("accuracy")
    if teacher is None or alone < teacher:
        return None
    return (
        f"without its teacher the student reaches {alone:.2%} on the validation images, the teacher {teacher:.2%}: it may have little to "
        "teach; a larger one, or one trained longer, has more"
    )


def size_and_speed(job: Job) -> dict[str, Any]:
    """Return the teacher's parameters, and the milliseconds that an image takes teacher and student, timed in turn."""
    assert job.teacher is not None
    images = next(iter(job.test.epoch(0))).images[:TIMED_IMAGES]

    def timed(classifier: Classifier) -> Any:
        predict = predictor(job.fabric, classifier)

        def call() -> None:
            predict(images)
            if images.device.type != "cpu":
                torch.accelerator.synchronize(images.device)

        return call

    limits = {"repeats": REPEATS, "least_repeats": LEAST_REPEATS}
    with mode(job.teacher.module, training=False), mode(job.result.module, training=False), torch.inference_mode():
        found = time_in_turn(
            {"student": timed(job.result), "teacher": timed(job.teacher)}, longest_seconds=LONGEST_SECONDS, **limits
        )
    return {
        "teacher_parameters": job.teacher.parameters,
        "milliseconds": {name: times["median_ms"] / len(images) for name, times in found.items()},
    }


def _hits(job: Job, classifier: Classifier) -> Bool[np.ndarray, " images"]:
    """Return whether a classifier predicts the class of each test image."""
    predict = predictor(job.fabric, classifier)
    with mode(classifier.module, training=False), torch.inference_mode():
        hits = [predict(batch.images).argmax(dim=1) == batch.labels for batch in job.test.epoch(0)]
    found: np.ndarray = torch.cat(hits).cpu().numpy()
    return found
