"""Whether a teacher's predictions are more certain than right: where it knows its images by heart, and where it is out of its depth."""

from __future__ import annotations

MEMORISED = 0.995
"""Accuracy on training images from which on they are called memorised."""
GAP = 0.02
"""By which the accuracy on validation images is lower then."""
OVERCONFIDENT = 0.15
"""Calibration error on validation images from which on predictions are called over-confident."""
ENOUGH_IMAGES = 100
"""Validation images from which on a calibration error says something."""
INSTEAD = "`loss=ce=1` and `loss=amd=auto,centered=true,stage_weights=balanced`"
"""The default objective without the teacher's predictions."""


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
        f"Where probabilities matter, leave its predictions out: {INSTEAD}"
    )


def overconfident_note(calibration_error: float, images: int) -> str | None:
    """Return what to expect of a teacher whose predictions are far too certain, and what to do; None where they are not.

    Args:
        calibration_error: its expected calibration error (ece) on validation images, in 0..1.
        images: how many these are.
    """
    if images < ENOUGH_IMAGES or calibration_error < OVERCONFIDENT:
        return None
    return (
        f"the teacher is over-confident: its calibration error (ece) on {images:,} validation images is {calibration_error:.1%}. Students "
        f"of such predictions may end worse than by labels alone, while its maps still teach: leave its predictions out, {INSTEAD}"
    )
