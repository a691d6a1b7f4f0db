"""The objective of a distillation for which none is given: one mapping for the commands and for `Distiller`."""

from __future__ import annotations

from typing import Any

DEFAULT_LOSSES: dict[str, Any] = {
    "ce": 0.1,
    "kd": {"weight": 0.9, "temperature": 4.0},
    "amd": {"weight": "auto", "centered": True, "stage_weights": "balanced"},
}
"""From a loss's name to its weight and options. The weights of ce and kd and the temperature are the field's usual ones. AMD is in
the centred form, its stages balanced, with nine tenths of the first gradient (half of it for transformers and small maps): ours, for
the paper's form at a fixed weight ruins students whose maps are small (docs/results.md)."""

LABELS_ALONE: dict[str, Any] = {"ce": 1.0}
"""The objective without a teacher."""
