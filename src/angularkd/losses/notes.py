"""What losses have to say of the networks and the data that they are used on."""

from __future__ import annotations

from collections.abc import Sequence

from angularkd.losses.objective import WeightedLosses


def notes_of(losses: WeightedLosses, sizes: Sequence[tuple[int, int]], classes: int) -> list[str]:
    """Return the notes of losses that have any, each behind its loss's name.

    Args:
        losses: of an objective. One that has notes has a method `notes`, of sizes, or `notes_on_classes`, of a number of classes.
        sizes: (height, width) at which the stages are compared.
        classes: that the student tells apart.
    """
    found = []
    for name, loss in losses.losses.items():
        on_sizes, on_classes = getattr(loss, "notes", None), getattr(loss, "notes_on_classes", None)
        of_sizes, of_classes = (on_sizes(sizes) if on_sizes else []), (on_classes(classes) if on_classes else [])
        found += [f"{name}: {note}" for note in (*of_sizes, *of_classes)]
    return found
