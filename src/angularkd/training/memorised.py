"""Whether a teacher knows its training images by heart: its predictions there are labels again, of a certainty that it does not have."""

from __future__ import annotations

MEMORISED = 0.995
"""Accuracy on training images from which on they are called memorised."""
GAP = 0.02
"""By which the accuracy on validation images is lower then."""


def memorised_note(on_train: float, images: int, on_validation: float) -> str | None:
    """Return what to expect of a teacher whose training images are memorised, and what to do; None where they are not.

    Args:
        on_train: its accuracy on some training images.
        images: how many these are.
        on_validation: its accuracy on validation images.
    """
    if on_train < MEMORISED or on_validation > on_train - GAP:
        return None
    return (
        f"the teacher has memorised its training images ({on_train:.1%} of {images:,} are right, and {on_validation:.1%} of validation "
        "images): students of its predictions become over-confident, by a multiple of the calibration error (ece) of training by labels. "
        "Where probabilities matter, leave its predictions out: `loss=ce=1` and `loss=amd=auto,share=0.9,centered=true`"
    )
