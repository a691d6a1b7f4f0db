"""The stages of any model, and its classification layer, from the trace of one forward."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import nn

from angularkd.errors import InputError, nearest
from angularkd.features.feature_maps import Stage
from angularkd.features.selection import select_stages
from angularkd.features.tracing import Head, Trace, TracedMap


def find_stages(model: nn.Module, trace: Trace, blocks: int = 4) -> list[Stage]:
    """Return the stages of a model, shallow to deep, chosen by the shapes of its feature maps alone.

    There is one for each resolution that the network passes through: the last block that works at it. Where almost all
    of the network works at one resolution (a vision transformer, say), it is sampled at `blocks` evenly spaced blocks
    instead. Maps of a single position are left out: they carry no attention.

    Args:
        model: the traced model.
        trace: what a forward of it showed.
        blocks: how many stages a network of constant resolution gets at most.
    """
    return select_stages(model, [each.stage for each in _on_trunk(trace.maps) if each.stage.positions > 1], blocks)


def stages_at(model: nn.Module, paths: Sequence[str], trace: Trace, role: str = "model") -> list[Stage]:
    """Return the stages at given module paths, in their order.

    Args:
        model: the traced model.
        paths: of its modules.
        trace: what a forward of it showed.
        role: what errors call the model.

    Raises:
        InputError: where a path does not exist, or its module gives no feature map of more than one position.
    """
    known = dict(model.named_modules())
    for path in paths:
        if path not in known or not path:
            raise InputError(
                f"the {role}, a {type(model).__name__}, has no module '{path}'.{nearest(path, known)} "
                f"At its top are: {', '.join(name for name, _ in model.named_children())}"
            )
    found = {each.stage.path: each.stage for each in trace.maps}
    for path in paths:
        if path not in found:
            raise InputError(
                f"module '{path}' of the {role} gives no single feature map: name a module that outputs [B, C, H, W], "
                f"[B, H, W, C] or [B, N, C] once a forward{nearest(path, found)}"
            )
        if found[path].positions < 2:
            raise InputError(
                f"module '{path}' of the {role} gives a 1x1 map, which carries no attention: name a shallower module, or use larger images"
            )
    return [found[path] for path in paths]


def head_of(trace: Trace, model: nn.Module) -> Head:
    """Return the model's classification layer.

    Args:
        trace: what a forward of the model showed.
        model: named by errors.

    Raises:
        InputError: where no layer's output is the model's logits, so that there is no embedding.
    """
    if trace.head is None:
        raise InputError(
            f"the {type(model).__name__} has no layer whose output is its logits, hence no embedding: "
            "leave out the losses on embeddings"
        )
    return trace.head


def _on_trunk(maps: Iterable[TracedMap]) -> list[TracedMap]:
    """Leave out what modules do inside at a resolution that is not between those of their input and output.

    So attention matrices, windows and pooled side branches are no stages.
    """
    maps = list(maps)
    bounds = {
        each.stage.path: sorted((math.prod(each.input_grid), each.stage.positions)) for each in maps if each.input_grid
    }

    def inside(each: TracedMap) -> bool:
        around = (bounds[path] for path in _ancestors(each.stage.path) if path in bounds)
        return all(least <= each.stage.positions <= most for least, most in around)

    return [each for each in maps if inside(each)]


def _ancestors(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]
