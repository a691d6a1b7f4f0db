"""Whether a teacher's predictions are more certain than right: where it knows its images by heart, and where it is out of its depth."""

from __future__ import annotations

MEMORISED = 0.995
"""Accuracy on training images from which on they are called memorised."""
GAP = 0.02
"""By which the accuracy on validation images is lower then."""
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


def overconfident_note(confidence: float, accuracy: float, images: int, left_out: bool) -> str:
    """Return what an over-confident teacher means for its students, and what is done or to do.

    Args:
        confidence: the mean of its largest probabilities on validation images.
        accuracy: its accuracy on them.
        images: how many these are.
        left_out: whether the run has left its predictions out of the default objective.
    """
    done = (
        f"its predictions are left out of the default objective, which is then {INSTEAD}; give `loss` to have them in"
        if left_out
        else f"leave its predictions out, {INSTEAD}"
    )
    return (
        f"the teacher is over-confident: of {images:,} validation images it has {accuracy:.1%} right, and is {confidence:.1%} certain "
        f"in the mean. Students of such predictions may end worse than by labels alone, while its maps still teach: {done}"
    )
