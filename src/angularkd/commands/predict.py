"""The predict command: classes and probabilities of images, by a run's student or by a file that was exported of it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from angularkd.commands.layout import print_table
from angularkd.config import PredictConfig
from angularkd.inference import Prediction, image_files, load
from angularkd.system.files import check_file_writable, write_json


def run_prediction(config: PredictConfig, console: Console) -> dict[str, Prediction]:
    """Classify the images that a checked configuration names, and print their most probable classes.

    Returns:
        What was predicted, by the path of the image.

    Raises:
        InputError: when something that was given cannot be used.
    """
    if config.json_file is not None:
        check_file_writable(Path(config.json_file), "json_file")
    files = image_files(config.images)
    classifier = load(config.run, device=config.device, trust=config.trusted, calibrated=config.calibrated)
    predictions = dict(zip(files, classifier.predict(files, config.batch_size), strict=True))
    rows = []
    for file, prediction in predictions.items():
        names, shares = zip(*prediction.top(config.top).items(), strict=True)
        rows.append((file, "\n".join(names), "\n".join(f"{share:.2%}" for share in shares)))
    print_table(console, ("image", "class", "probability"), rows, words=("image", "class"))
    if classifier.temperature != 1:
        console.print(
            f"probabilities are calibrated: logits are divided by {classifier.temperature:.4g}, a temperature fitted on validation images",
            highlight=False,
        )
    if config.json_file is not None:
        written = [{"image": file, "classes": found.top(config.top)} for file, found in predictions.items()]
        write_json(Path(config.json_file), written)
    return predictions
