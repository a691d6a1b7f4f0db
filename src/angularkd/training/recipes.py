"""The optimiser and its rates where they are not given: chosen by what is trained (docs/recipes.md has the measurements)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from angularkd.config import Recipe

C = TypeVar("C", bound=Recipe)

REFERENCE_BATCH = 128
"""Images of a step that these learning rates are for."""
WEIGHT_DECAYS = {"sgd": 5e-4, "adamw": 0.05}


@dataclass(frozen=True)
class TrainedPart:
    """What is trained, and the defaults for it.

    Attributes:
        what: it, in a few words.
        optimizer: where neither optimiser nor learning rate is given.
        learning_rates: the peak by optimiser, where none is given.
    """

    what: str
    optimizer: str
    learning_rates: dict[str, float]


SCRATCH = TrainedPart("a network from scratch", "sgd", {"sgd": 0.1, "adamw": 1e-3})
HEAD = TrainedPart("the classification layer alone", "adamw", {"sgd": 0.01, "adamw": 3e-3})
PRETRAINED = TrainedPart("a network with trained weights, as a whole", "adamw", {"sgd": 3e-3, "adamw": 1e-3})


def trained_part(pretrained: bool, only_head: bool) -> TrainedPart:
    """Return what is trained.

    Args:
        pretrained: whether the network starts from trained weights.
        only_head: whether all but its classification layer is frozen.
    """
    if only_head:
        return HEAD
    return PRETRAINED if pretrained else SCRATCH


def with_recipe(config: C, part: TrainedPart) -> C:
    """Return a configuration with an optimiser, a learning rate and a weight decay: those given, else the defaults of what is trained.

    A learning rate that is given without an optimiser is one of sgd. With `lr_scaling` it is multiplied by the images of a step over
    REFERENCE_BATCH (Goyal et al., arXiv 1706.02677), which is done once: the configuration that comes back asks for it no more.
    """
    optimizer = config.optimizer or (part.optimizer if config.lr is None else "sgd")
    found = {
        "optimizer": optimizer,
        "lr": _reference_rate(config, optimizer, part) * _scale(config),
        "lr_scaling": "none",
        "weight_decay": WEIGHT_DECAYS[optimizer] if config.weight_decay is None else config.weight_decay,
    }
    return config.model_copy(update=found)


def _reference_rate(config: Recipe, optimizer: str, part: TrainedPart) -> float:
    return part.learning_rates[optimizer] if config.lr is None else config.lr


def _scale(config: Recipe) -> float:
    return config.batch_size * config.accumulate / REFERENCE_BATCH if config.lr_scaling == "linear" else 1.0


def recipe_note(given: Recipe, resolved: Recipe, part: TrainedPart) -> str:
    """Return a line on the recipe, and on who chose it."""
    text = f"recipe: {resolved.optimizer}, peak learning rate {resolved.lr:g}, weight decay {resolved.weight_decay:g}"
    if given.lr_scaling == "linear":
        assert resolved.optimizer is not None
        rate, images = _reference_rate(given, resolved.optimizer, part), given.batch_size * given.accumulate
        text += f" (by `lr_scaling` {rate:g} times {images} images a step over {REFERENCE_BATCH})"
    if given.optimizer is not None and given.lr is not None:
        return f"{text}, as given"
    return f"{text}, which suits {part.what}: `optimizer` and `lr` choose another"
