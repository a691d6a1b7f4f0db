"""Data: what DATA names, its augmentation as tables, and the loaders that make batches of the two."""

from __future__ import annotations

from angularkd.data.decode import decode_image, to_rgb
from angularkd.data.in_memory import ResidentImages, fit, fits_memory, load_resident
from angularkd.data.listing import listing
from angularkd.data.loaders.batches import Batches, in_order
from angularkd.data.loaders.mixed import MixedBatches
from angularkd.data.loaders.pool import WorkerPool
from angularkd.data.loaders.resident import ResidentLoader, evaluation_loader
from angularkd.data.loaders.workers import StreamingLoader, evaluation_stream
from angularkd.data.opening import DataSet, open_data
from angularkd.data.reading import read_image_file
from angularkd.data.screening import without_bad_images
from angularkd.data.sources import SOURCES, SourceRow
from angularkd.data.sources.walking import image_paths
from angularkd.data.splits import SPLITS, Split, readable_size, readable_sizes
from angularkd.data.statistics import channel_stats, sampled_channel_stats
from angularkd.data.views.mixing import Mixing
from angularkd.data.views.pixels import to_unit
from angularkd.data.views.tables import Views, ViewTable, identity_views

__all__ = [
    "SOURCES",
    "SPLITS",
    "Batches",
    "DataSet",
    "MixedBatches",
    "Mixing",
    "ResidentImages",
    "ResidentLoader",
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
    "image_paths",
    "in_order",
    "listing",
    "load_resident",
    "open_data",
    "read_image_file",
    "readable_size",
    "readable_sizes",
    "sampled_channel_stats",
    "to_rgb",
    "to_unit",
    "without_bad_images",
]
