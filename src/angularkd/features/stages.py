"""The stages of any model, and its classification layer, from the trace of one forward."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import nn

from angularkd.errors import InputError, nearest
from angularkd.features.feature_maps import INPUT, Stage, Tap
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
    """Return the stages at given module paths, in their order. A path with `.input` behind it names what the module is called with.

    Args:
        model: the traced model.
        paths: of its modules.
        trace: what a forward of it showed.
        role: what errors call the model.

    Raises:
        InputError: where a path does not exist, or what it names is no feature map of more than one position.
    """
    known = dict(model.named_modules())
    found = {stage.name: stage for stage in (*trace.inputs, *(each.stage for each in trace.maps))}
    for path in paths:
        module = path if path in known else path.removesuffix(INPUT)
        if module not in known or not module:
            raise InputError(
                f"the {role}, a {type(model).__name__}, has no module '{module}'.{nearest(module, known)} "
                f"At its top are: {', '.join(name for name, _ in model.named_children())}"
            )
        if path not in found:
            does = "gives no single feature map" if path in known else "is called with no feature map"
            takes = "outputs" if path in known else "takes"
            often = " once a forward" if path in known else ""
            raise InputError(
                f"module '{module}' of the {role} {does}: name a module that {takes} [B, C, H, W], "
                f"[B, H, W, C] or [B, N, C]{often}{nearest(path, found)}"
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


def embedding_of(trace: Trace, model: nn.Module) -> Head:
    """Return where a network's embedding is: before its classification layer, or its output [batch, dim] where it has no such layer.

    Args:
        trace: what a forward of the network showed.
        model: named by errors.

    Raises:
        InputError: where it has no such layer, and gives anything but one vector an image.
    """
    if trace.head is not None:
        return trace.head
    if trace.output_shape is None or len(trace.output_shape) != 2:
        output = list(trace.output_shape) if trace.output_shape is not None else f"a {trace.output_kind}"
        raise InputError(
            f"the {type(model).__name__} has no classification layer and gives {output} for a batch of 2 images, not an embedding "
            "[2, dim]: pool its output, or leave out the losses on embeddings"
        )
    return Head("", trace.output_shape[1], Tap("", "output"))


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
