"""A small data set cut from a large one: what a benchmark trains on, that it takes minutes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from angularkd.data import DataSet


def write_first(dataset: DataSet, images: int, folder: Path, beside: int = 10) -> None:
    """The first training images, and a few of the other splits, as a data set to open with parquet:FOLDER."""
    if not 1 <= images <= len(dataset.train):
        raise SystemExit(f"--images {images}: expected from 1 to {len(dataset.train)}, the training split")
    folder.mkdir(parents=True, exist_ok=True)
    features = {"label": {"names": dataset.classes, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    for name, split, count in (
        ("train", dataset.train, images),
        ("validation", dataset.val, beside),
        ("test", dataset.test, beside),
    ):
        rows = [split[i] for i in range(min(count, len(split)))]
        kept = [{"bytes": png(pixels), "path": f"{i}.png"} for i, (pixels, _) in enumerate(rows)]
        table = pa.table({"image": kept, "label": [label for _, label in rows]})
        pq.write_table(table.replace_schema_metadata(metadata), folder / f"{name}.parquet")


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
