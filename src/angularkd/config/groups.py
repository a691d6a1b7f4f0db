"""How options are put together for a reader: the group of each by name, and the ones that a command's short help shows."""

from __future__ import annotations

from collections.abc import Collection

from angularkd.config.base import POSITIONAL

MAIN = "Main"
GROUPS: dict[str, tuple[str, ...]] = {
    MAIN: (
        "data", "image", "run", "runs", "images", "folder", "model", "teacher", "student", "out", "resume", "baseline", "report",
        "tensorboard",
    ),
    "Objective": ("loss", "pairs", "insist", "label_smoothing"),
    "Recipe": (
        "epochs", "optimizer", "lr", "schedule", "warmup_epochs", "milestones", "gamma", "momentum", "nesterov", "weight_decay",
        "lr_scaling", "clip_norm", "accumulate", "on_nonfinite", "ema", "augment", "mixup", "cutmix", "batch_size",
        "sync_batchnorm", "seed",
    ),
    "Data": ("image_size", "split", "val_fraction", "split_seed", "on_bad_image"),
    "Model": ("weights", "pretrained", "new_head", "train_only_head", "normalization", "input_size", "classes"),
    "Teacher": (
        "teacher_weights", "teacher_classes", "teacher_normalization", "teacher_input_size", "teacher_train", "teacher_train_what",
        "teacher_train_optimizer", "teacher_train_lr", "teacher_train_weight_decay",
    ),
    "Student": ("student_pretrained", "student_weights", "student_normalization", "student_input_size"),
    "Cache": ("cache", "cache_views", "cache_logits", "cache_maps", "verify_batches"),
    "Machine": ("checkpoint_every", "device", "devices", "precision", "compile", "loader", "workers", "trust"),
}  # fmt: skip
"""By group, the names of its options in the order of the help. An option in none of them is one of Main's last."""

PAIRED = ("loss", "epochs", "lr", "image_size", "teacher_weights", "teacher_classes", "student_pretrained", "cache")
FIRST: dict[str, tuple[str, ...]] = {
    "train": (
        "out", "resume", "epochs", "optimizer", "lr", "augment", "image_size", "weights", "pretrained", "device",
    ),
    "distill": ("out", "resume", "baseline", *(name for name in PAIRED if name != "teacher_classes")),
    "plan": (*PAIRED, "augment", "device"),
    "cache": (
        "loss", "augment", "image_size", "teacher_weights", "teacher_classes", "cache", "cache_views", "cache_logits", "verify_batches",
        "device",
    ),
    "evaluate": (
        "teacher", "split", "metrics", "json_file", "image_size", "weights", "normalization", "classes", "teacher_weights", "device",
    ),
}  # fmt: skip
"""By command, what its help shows beside what is required; `--help-all` shows the rest."""
MOST_SHOWN = 14
"""Options up to which a command shows all of them at once."""


def grouped(names: Collection[str]) -> dict[str, list[str]]:
    """Return some options by group, groups and options in the order of the help; groups that none is of are left out."""
    placed = {name for row in GROUPS.values() for name in row}
    rows = {group: [name for name in row if name in names] for group, row in GROUPS.items()}
    rows[MAIN] += [name for name in names if name not in placed]
    rows[MAIN].sort(key=lambda name: name not in POSITIONAL)
    return {group: row for group, row in rows.items() if row}


def shown_first(command: str, names: Collection[str], required: Collection[str]) -> list[str]:
    """Return the options that the short help of a command shows: what is required, and those that matter most.

    Args:
        command: its name, with the action of `cache` behind it or not.
        names: of all its options.
        required: those without a default.
    """
    first = FIRST.get(command.split()[0])
    if first is None or len(names) <= MOST_SHOWN:
        return list(names)
    return [name for name in names if name in required or name in first]
