"""Corruptions by noise, a number a pixel and channel."""

from __future__ import annotations

import numpy as np

from angularkd.metrics.corruptions.draws import Draws, Images


def gaussian_noise(images: Images, draws: Draws, scale: float) -> Images:
    """Add normal noise of that standard deviation."""
    return images + scale * draws.normal(*images.shape[1:])


def shot_noise(images: Images, draws: Draws, photons: float) -> Images:
    """Count photons, of which white has so many on average."""
    return draws.poisson(images * photons) / photons


def impulse_noise(images: Images, draws: Draws, amount: float) -> Images:
    """Turn that share of the values into 0 or 1 (salt and pepper)."""
    flipped, salt = (draws.uniform(0, 1, *images.shape[1:]) for _ in range(2))
    return np.where(flipped < amount, np.where(salt < 0.5, 1.0, 0.0), images)
