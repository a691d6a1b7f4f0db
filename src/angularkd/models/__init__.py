"""The networks: opened by their SPEC, with their weights and preprocessing, and fitted to a data set's images and classes.

LIBRARIES in `libraries` is the table of where they come from; `cifar` holds the families that this package defines itself.
"""

from angularkd.models import cifar
from angularkd.models.adapting import (
    check_class_order,
    check_student,
    check_trained,
    fit_to_images,
    freeze_all_but_head,
    with_classes,
    with_preprocessing,
)
from angularkd.models.class_mapping import ClassMapping
from angularkd.models.classifier import Classifier, predict
from angularkd.models.counting import Count
from angularkd.models.libraries.file import is_file_spec
from angularkd.models.libraries.module import is_own, module_spec, same_network
from angularkd.models.opening import model_names, offers_weights, open_classifier
from angularkd.models.preprocessing import NORMALIZATIONS, Preprocessing, Size
from angularkd.models.traces import Traces
from angularkd.models.weights import fingerprint, read_metadata, save_weights

__all__ = [
    "NORMALIZATIONS",
    "ClassMapping",
    "Classifier",
    "Count",
    "Preprocessing",
    "Size",
    "Traces",
    "check_class_order",
    "check_student",
    "check_trained",
    "cifar",
    "fingerprint",
    "fit_to_images",
    "freeze_all_but_head",
    "is_file_spec",
    "is_own",
    "model_names",
    "module_spec",
    "offers_weights",
    "open_classifier",
    "predict",
    "read_metadata",
    "same_network",
    "save_weights",
    "with_classes",
    "with_preprocessing",
]
