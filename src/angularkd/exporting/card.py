"""The model card: what a student is, in the README.md beside its file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from angularkd.exporting.checks import shown_time

CITATION = """```bibtex
@article{jeon2023leveraging,
  title   = {Leveraging Angular Distributions for Improved Knowledge Distillation},
  author  = {Jeon, Eun Som and Choi, Hongjun and Shukla, Ankita and Turaga, Pavan},
  journal = {Neurocomputing},
  volume  = {518},
  year    = {2023}
}
```
"""


def model_card(report: Mapping[str, Any]) -> str:
    """Return the text of a model card, from what export.json holds."""
    provenance = report["provenance"]
    header = yaml.safe_dump(
        {
            "license": "other",
            "license_name": "to-be-filled-in",
            "pipeline_tag": "image-classification",
            "library_name": "timm" if report["format"] == "timm" else "angularkd",
            "tags": ["knowledge-distillation", "image-classification"],
        },
        sort_keys=False,
    )
    teacher = provenance["teacher"] or "none: it was trained on the labels"
    height, width = report["image_size"]
    images = "RGB images in 0..1" if report["dtype"] == "float32" else "RGB images of 8 bits, 0..255"
    axes = "[batch, 3, height, width]" if report["layout"] == "nchw" else "[batch, height, width, 3]"
    classes = [" ".join(str(name).split()) for name in report["classes"]]
    listed = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
    return f"""---
{header}---

# {report["model"]} for {provenance["data"]}

| | |
|---|---|
| network | {report["model"]} |
| data | {provenance["data"]} |
| teacher | {teacher} |
| objective | {provenance["objective"]} |
| made with | angularkd {provenance["angularkd"]}, torch {provenance["torch"]}, from {provenance["run"]} |

**Input** {images}, {axes}, {height}x{width} pixels; the normalisation is inside. Other sizes are scaled until they just cover
this one, and cut centrally. **Output** {report["output"]} [batch, {len(classes)}]: {listed}.

## Metrics

{_metrics(provenance["metrics"])}
Measured when the file was made (times on one thread; {report["checked_on"]}):

{_figures(report["figures"])}
## Limits

It tells apart these {len(classes)} classes alone, and names one of them for any image. {_calibration(report)}
It was measured on images like those of its data set: measure it on yours before you rely on it.

## Licence

Fill in before you publish: the licence of these weights, which depends on those of the data, of the teacher's weights and of the
network's code. angularkd itself is under the Apache License 2.0.

## Citation

{CITATION}"""


def _metrics(metrics: Mapping[str, Any]) -> str:
    rows = metrics.get("last epoch", {})
    if not rows:
        return "The run has no results.json.\n"
    lines = [f"| {name} | {value:.4g} |" for name, value in rows.items() if isinstance(value, int | float)]
    return "\n".join(["| test split, last epoch | |", "|---|---|", *lines]) + "\n"


def _calibration(report: Mapping[str, Any]) -> str:
    if (temperature := report["temperature"]) == 1:
        return "Its probabilities are not calibrated beyond what the training gave."
    how = "are" if report["output"] == "probabilities" else "become"
    return (
        f"Its probabilities {how} calibrated by a temperature of {temperature:.4g},\n"
        "fitted on validation images, by which logits are divided."
    )


def _figures(figures: Mapping[str, Any]) -> str:
    lines = ["| | MiB | accuracy | largest difference | ms, batch 1 | ms, batch 32 |", "|---|---|---|---|---|---|"]
    for name, row in figures.items():
        accuracy = f"{row['accuracy']:.2%}" if "accuracy" in row else ""
        apart = f"{row['max_difference']:.1e}" if "max_difference" in row else ""
        times = [shown_time(value) for value in row["milliseconds"].values()]
        lines.append(f"| {name} | {row['bytes'] / 2**20:.2f} | {accuracy} | {apart} | {' | '.join(times)} |")
    return "\n".join(lines) + "\n"
