"""Metrics: what a classifier is worth, how near it is to its teacher, and what it costs.

METRICS (`table.py`) is the one table of what is measured on images. A row says what the metric is, which signals it needs, which way is
better, how it is printed, and how it is computed. `evaluate` makes one pass over the images and computes only the signals that
some requested metric needs. COSTS (`cost.py`) is the table of what is measured on the model itself: size, operations, time, memory.

To add a metric:
1. Write a function from an `Observation`, the signals of one batch, to a tensor: the sum over its images of whatever the
   metric averages. Put it into the file of its kind (`classification`, `calibration`, `agreement`, `similarity`, `attention`,
   `robustness`), or a new one.
2. Add a row to METRICS. Where the metric is no mean over the images, its `value` turns the sum over all batches into it.
3. Test it against its definition, in `tests/metrics`.
"""

from angularkd.metrics.attention import angular_histograms
from angularkd.metrics.calibration import reliability, reliability_of
from angularkd.metrics.corruptions import CORRUPTIONS, corrupt
from angularkd.metrics.cost import COSTS, Subject, measure_costs
from angularkd.metrics.evaluate import Extract, Predict, evaluate
from angularkd.metrics.largest_batch import LARGEST_BATCH, largest_batch
from angularkd.metrics.metric import Metric
from angularkd.metrics.observation import Observation
from angularkd.metrics.table import DEFAULT_METRICS, METRICS, check_metrics, format_metric, row_of
from angularkd.metrics.temperature import fit_temperature, temperature_on

__all__ = [
    "CORRUPTIONS",
    "COSTS",
    "DEFAULT_METRICS",
    "LARGEST_BATCH",
    "METRICS",
    "Extract",
    "Metric",
    "Observation",
    "Predict",
    "Subject",
    "angular_histograms",
    "check_metrics",
    "corrupt",
    "evaluate",
    "fit_temperature",
    "format_metric",
    "largest_batch",
    "measure_costs",
    "reliability",
    "reliability_of",
    "row_of",
    "temperature_on",
]
