"""Embeddings in the plane, by t-SNE: how far each network tells the classes apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from angularkd.reports.drawing import MUTED, SERIES, Plot, legend
from angularkd.reports.names import short
from angularkd.reports.observing import Observed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_IMAGES, LEAST_IMAGES = 400, 12
PERPLEXITY = 30.0
ITERATIONS = 500
COLOURED = 10
"""Classes that have a colour and a sign of their own; of more, those with the most images have."""
SIGNS = "osD^vPX"


def embedding_plots(observed: Observed) -> list[Plot]:
    """Return the embeddings of student and teacher in the plane; none where they cannot be computed."""
    networks = {"teacher": observed.teacher, "student": observed.student}
    embeddings = {
        role: outputs.embedding
        for role, outputs in networks.items()
        if outputs is not None and outputs.embedding is not None
    }
    rows = np.linspace(0, len(observed.labels) - 1, min(MOST_IMAGES, len(observed.labels)), dtype=np.int64)
    usable = {
        role: embedding.numpy()[rows] for role, embedding in embeddings.items() if bool(embedding.isfinite().all())
    }
    if not usable or len(rows) < LEAST_IMAGES:
        return []
    planes = {role: _plane(embedding) for role, embedding in usable.items()}
    labels = observed.labels[rows]
    return [
        Plot(
            "embeddings",
            "Embeddings",
            f"The inputs of the classification layers for {len(rows):,} test images, laid out by t-SNE (seed 0): near each other is alike, "
            "distances between groups mean little.",
            lambda figure: _draw(figure, planes, labels, observed.classes),
            height=3.5,
        )
    ]


def _plane(embedding: Float[np.ndarray, "images dim"]) -> Float[np.ndarray, "images 2"]:
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(embedding) - 1) / 3)
    spread = embedding.std() or 1.0  # which leaves the layout as it is, and very large embeddings finite
    machine = TSNE(perplexity=perplexity, init="random", random_state=0, max_iter=ITERATIONS, n_jobs=1)
    return machine.fit_transform((embedding / spread).astype(np.float64))


def _draw(figure: Figure, planes: dict[str, np.ndarray], labels: np.ndarray, classes: tuple[str, ...]) -> None:
    present, counts = np.unique(labels, return_counts=True)
    coloured = sorted(present[np.argsort(-counts, kind="stable")][:COLOURED].tolist())
    grid = figure.subplots(1, len(planes), squeeze=False)[0]
    for axes, (role, plane) in zip(grid, planes.items(), strict=True):
        others = ~np.isin(labels, coloured)
        axes.scatter(*plane[others].T, s=5, color=MUTED, alpha=0.35, linewidths=0)
        for number, index in enumerate(coloured):
            axes.scatter(
                *plane[labels == index].T,
                s=11,
                color=SERIES[number % len(SERIES)],
                marker=SIGNS[(number + number // len(SERIES)) % len(SIGNS)],
                alpha=0.85,
                linewidths=0,
                label=short(classes[index], 18),
            )
        axes.set_title(role)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
    longest = max(len(short(classes[index], 18)) for index in coloured)
    legend(figure, grid[0], 3 if longest > 8 else 5, "outside lower center")
