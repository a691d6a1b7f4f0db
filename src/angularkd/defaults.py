"""The objective of a distillation for which none is given: one mapping for the commands and for `Distiller`."""

from __future__ import annotations

from typing import Any

LABELS_ALONE: dict[str, Any] = {"ce": 1.0}
"""The objective without a teacher."""

KD_LOSSES: dict[str, Any] = {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 4.0}}
"""Hinton's distillation, with the field's usual weights and temperature."""

MAPS: dict[str, Any] = {"amd": {"weight": "auto", "centered": True, "stage_weights": "balanced"}}
"""AMD in the centred form, its stages balanced, with nine tenths of the first gradient (half of it for transformers and small maps):
ours, for the paper's form at a fixed weight ruins students whose maps are small (docs/results.md)."""

DEFAULT_LOSSES: dict[str, Any] = {**KD_LOSSES, **MAPS}
"""From a loss's name to its weight and options."""

MAPS_ALONE: dict[str, Any] = {**LABELS_ALONE, **MAPS}
"""What takes the place of DEFAULT_LOSSES in a run whose teacher is over-confident: students of such predictions end worse than
without a teacher, and those of its maps better (docs/results.md)."""
