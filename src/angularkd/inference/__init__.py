"""Inference: a trained student, or a file that was exported of it, as a classifier of photographs.

ENGINES in `engines` is the table of what runs exported files.
"""

from angularkd.inference.classifier import Prediction
from angularkd.inference.images import as_images, image_files
from angularkd.inference.opening import load, open_exported, open_student
from angularkd.inference.signature import Signature

__all__ = [
    "Prediction",
    "Signature",
    "as_images",
    "image_files",
    "load",
    "open_exported",
    "open_student",
]
