"""Metrics: numbers that say what a classifier is worth, and how near it is to its teacher.

METRICS (`table.py`) is the one table of them. A row says what the metric is, which signals it needs, which way is better,
how it is printed, and how it is computed. `evaluate` makes one pass over the images and computes only the signals that
some requested metric needs.

To add a metric:
1. Write a function from an `Observation`, the signals of one batch, to a tensor: the sum over its images of whatever the
   metric averages. Put it into the file of its kind (`classification`, `calibration`, `agreement`, `similarity`), or a new one.
2. Add a row to METRICS. Where the metric is no mean over the images, its `value` turns the sum over all batches into it.
3. Test it against its definition, in `tests/metrics`.
"""

from angularkd.metrics.evaluate import Extract, Predict, evaluate
from angularkd.metrics.largest_batch import LARGEST_BATCH, largest_batch
from angularkd.metrics.metric import Metric
from angularkd.metrics.observation import Observation
from angularkd.metrics.table import DEFAULT_METRICS, METRICS, check_metrics, format_metric

__all__ = [
    "DEFAULT_METRICS",
    "LARGEST_BATCH",
    "METRICS",
    "Extract",
    "Metric",
    "Observation",
    "Predict",
    "check_metrics",
    "evaluate",
    "format_metric",
    "largest_batch",
]
