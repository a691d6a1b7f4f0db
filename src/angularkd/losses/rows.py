"""What a row of the table of losses says: a loss's class, the signals it takes, what it is built for, and where it is from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from angularkd.losses.stages import STAGE_WEIGHTS, STAGES, Stages

FEATURES = ("student_features", "teacher_features")
EMBEDDINGS = ("student_embedding", "teacher_embedding")
LOGITS = ("student_logits", "teacher_logits")
DISTILLATION_LOGITS = "student_distillation_logits"
DEFAULT_SHARE = 0.5
"""Of the first gradient, for a loss whose weight is `auto`."""
NAMED = inspect.Parameter.POSITIONAL_OR_KEYWORD


@dataclass(frozen=True)
class Loss:
    """A row of the table of losses.

    Args:
        build: the loss's class.
        inputs: the signals it takes, in the order of its `forward`: names of fields of `Signals`.
        summary: what it is, in a few words.
        built_for: arguments of `build` that come from the models and the data (fields of `LossContext`), not from the user.
        short: short forms of option names, as the literature writes them.
        one_class: whether it needs samples of one class each, and cannot use mixed ones and their soft labels.
        pre_activation: whether it takes whole features from before the last activation of each stage.
        stages: which of the paired stages a loss on features acts on by default: those of its reference implementation.
        linked: whether it compares stages with each other, and so takes no weight for each.
        paper: its number on arXiv, or a link.
        share: of the first gradient, which a weight of `auto` gives it where no other is asked for and maps have room enough.
        usual_weight: the weight of its authors or of the field beside a cross-entropy of 1, and what it depends on.
    """

    build: Callable[..., nn.Module]
    inputs: tuple[str, ...]
    summary: str
    built_for: tuple[str, ...] = ()
    short: Mapping[str, str] = field(default_factory=dict)
    one_class: bool = False
    pre_activation: bool = False
    stages: Stages = "all"
    linked: bool = False
    paper: str = ""
    share: float = DEFAULT_SHARE
    usual_weight: str = ""

    @property
    def on_features(self) -> bool:
        """Return whether it uses features of paired stages."""
        return bool(set(FEATURES) & set(self.inputs))

    @property
    def weighs_stages(self) -> bool:
        """Return whether its class takes `stage_weights` itself."""
        return STAGE_WEIGHTS in inspect.signature(self.build).parameters

    def annotations(self) -> dict[str, str]:
        """Return how the options of its class are annotated."""
        return {name: str(p.annotation) for name, p in inspect.signature(self.build).parameters.items()}

    def options(self) -> dict[str, Any]:
        """Return the options that a user may set, with their defaults; on features, `stages` and `stage_weights` too."""
        parameters = inspect.signature(self.build).parameters
        own = {name: p.default for name, p in parameters.items() if name not in self.built_for and p.kind is NAMED}
        if not self.on_features:
            return own
        return {**own, STAGES: self.stages, **({} if self.linked else {STAGE_WEIGHTS: None})}
