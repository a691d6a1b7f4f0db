"""What can be asked for: one class of options a command, as keyword arguments, flags and YAML. It needs no torch.

The text of an option stands once, below its field in `options` or `commands`; `objective` reads losses written as text.
"""

from angularkd.config.base import LONGEST_TEXT, Config, with_flags
from angularkd.config.commands import (
    DemoConfig,
    DistillConfig,
    EvaluateConfig,
    ExplainConfig,
    ExportConfig,
    PredictConfig,
    TrainConfig,
)
from angularkd.config.objective import format_losses, parse_losses, stored_weights, with_weights
from angularkd.config.options import DataOptions, Recipe
from angularkd.defaults import DEFAULT_LOSSES

__all__ = [
    "DEFAULT_LOSSES",
    "LONGEST_TEXT",
    "Config",
    "DataOptions",
    "DemoConfig",
    "DistillConfig",
    "EvaluateConfig",
    "ExplainConfig",
    "ExportConfig",
    "PredictConfig",
    "Recipe",
    "TrainConfig",
    "format_losses",
    "parse_losses",
    "stored_weights",
    "with_flags",
    "with_weights",
]
