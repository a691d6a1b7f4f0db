"""Data: what DATA names, its augmentation as tables, and the loaders that make batches of the two."""

from __future__ import annotations

from angularkd.data.decode import decode_image
from angularkd.data.decoded import DecodedSplits
from angularkd.data.in_memory import ResidentImages, fit, fits_memory, load_resident
from angularkd.data.loaders.batches import Batches, in_order
from angularkd.data.loaders.mixed import MixedBatches
from angularkd.data.loaders.pool import WorkerPool
from angularkd.data.loaders.resident import ResidentLoader, evaluation_loader
from angularkd.data.loaders.workers import StreamingLoader, evaluation_stream
from angularkd.data.opening import DataSet, open_data
from angularkd.data.screening import without_bad_images
from angularkd.data.sources import SOURCES, SourceRow
from angularkd.data.splits import SPLITS, Source, Split, readable_size, readable_sizes
from angularkd.data.statistics import channel_stats, sampled_channel_stats
from angularkd.data.views.mixing import Mixing
from angularkd.data.views.tables import OPS, Views, ViewTable, identity_views

__all__ = [
    "OPS",
    "SOURCES",
    "SPLITS",
    "Batches",
    "DataSet",
    "DecodedSplits",
    "MixedBatches",
    "Mixing",
    "ResidentImages",
    "ResidentLoader",
    "Source",
    "SourceRow",
    "Split",
    "StreamingLoader",
    "ViewTable",
    "Views",
    "WorkerPool",
    "channel_stats",
    "decode_image",
    "evaluation_loader",
    "evaluation_stream",
    "fit",
    "fits_memory",
    "identity_views",
    "in_order",
    "load_resident",
    "open_data",
    "readable_size",
    "readable_sizes",
    "sampled_channel_stats",
    "without_bad_images",
]
