"""What can be asked for: one class of options a command, as keyword arguments, flags and YAML. It needs no torch.

The text of an option stands once, below its field in `options` or `commands`; `objective` reads losses written as text.
"""

from angularkd.config.base import LARGEST, LONGEST_TEXT, POSITIONAL, Config, check_file_name, with_flags
from angularkd.config.commands import (
    CacheInfoConfig,
    DemoConfig,
    DistillConfig,
    EvaluateConfig,
    ExplainConfig,
    ExportConfig,
    PredictConfig,
    ReplayConfig,
    TrainConfig,
    VerifyConfig,
)
from angularkd.config.groups import grouped, shown_first
from angularkd.config.intervals import parse_interval
from angularkd.config.objective import format_losses, parse_losses, stored_weights, with_weights
from angularkd.config.options import DataOptions, Recipe
from angularkd.config.report import ReportConfig
from angularkd.config.study import Protocol, StudyConfig, StudyObjective, StudyPair, seeds_of
from angularkd.defaults import DEFAULT_LOSSES, KD_LOSSES, MAPS_ALONE

__all__ = [
    "DEFAULT_LOSSES",
    "KD_LOSSES",
    "LARGEST",
    "LONGEST_TEXT",
    "MAPS_ALONE",
    "POSITIONAL",
    "CacheInfoConfig",
    "Config",
    "DataOptions",
    "DemoConfig",
    "DistillConfig",
    "EvaluateConfig",
    "ExplainConfig",
    "ExportConfig",
    "PredictConfig",
    "Protocol",
    "Recipe",
    "ReplayConfig",
    "ReportConfig",
    "StudyConfig",
    "StudyObjective",
    "StudyPair",
    "TrainConfig",
    "VerifyConfig",
    "check_file_name",
    "format_losses",
    "grouped",
    "parse_interval",
    "parse_losses",
    "seeds_of",
    "shown_first",
    "stored_weights",
    "with_flags",
    "with_weights",
]
