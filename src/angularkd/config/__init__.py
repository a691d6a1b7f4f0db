"""What can be asked for: one class of options a command, as keyword arguments, flags and YAML. It needs no torch.

The text of an option stands once, below its field in `options` or `commands`; `objective` reads losses written as text.
"""

from angularkd.config.base import Config, with_flags
from angularkd.config.commands import DemoConfig, DistillConfig, EvaluateConfig, ExplainConfig, TrainConfig
from angularkd.config.objective import DEFAULT_LOSSES, format_losses, parse_losses, stored_weights, with_weights
from angularkd.config.options import DataOptions, Recipe

__all__ = [
    "DEFAULT_LOSSES",
    "Config",
    "DataOptions",
    "DemoConfig",
    "DistillConfig",
    "EvaluateConfig",
    "ExplainConfig",
    "Recipe",
    "TrainConfig",
    "format_losses",
    "parse_losses",
    "stored_weights",
    "with_flags",
    "with_weights",
]
