"""Layers and poolings written with loops over NumPy arrays: what the slow oracles of the losses are made of."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]


def array(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def positions(features: Array) -> list[tuple[int, int]]:
    return [(h, w) for h in range(features.shape[-2]) for w in range(features.shape[-1])]


def pool(features: Array, height: int, width: int) -> Array:
    """Averages over the windows of an adaptive pooling; windows of one value where it enlarges."""
    out = np.zeros((*features.shape[:-2], height, width))
    rows, columns = features.shape[-2:]
    for h, w in positions(out):
        top, bottom = h * rows // height, math.ceil((h + 1) * rows / height)
        left, right = w * columns // width, math.ceil((w + 1) * columns / width)
        window = features[..., top:bottom, left:right]
        out[..., h, w] = window.sum(axis=(-2, -1)) / ((bottom - top) * (right - left))
    return out


def match(first: Array, second: Array) -> tuple[Array, Array]:
    height, width = (min(first.shape[d], second.shape[d]) for d in (-2, -1))
    return pool(first, height, width), pool(second, height, width)


def power_map(features: Array, power: float = 2.0) -> Array:
    out = np.zeros((features.shape[0], *features.shape[2:]))
    for channel in range(features.shape[1]):
        out += np.abs(features[:, channel]) ** power
    return out


def context(student: Array, teacher: Array, levels: tuple[int, ...] = (4, 2, 1)) -> float:
    """ReviewKD's hierarchical context loss of one stage."""
    student, teacher = match(student, teacher)
    height, width = student.shape[2:]
    total, weights, weight = float(((student - teacher) ** 2).mean()), 1.0, 1.0
    for level in levels:
        if level < max(height, width):
            size = (min(level, height), min(level, width))
            weight /= 2
            weights += weight
            total += weight * float(((pool(student, *size) - pool(teacher, *size)) ** 2).mean())
    return total / weights


def unit(values: Array) -> Array:
    """Each sample divided by its Euclidean norm."""
    return np.stack([sample / math.sqrt(float((sample**2).sum())) for sample in values])


def convolve(features: Array, layer: nn.Conv2d) -> Array:
    """A convolution of stride 1, padded with zeros to keep the size."""
    weight = array(layer.weight)
    side = weight.shape[2] // 2
    padded = np.pad(features, ((0, 0), (0, 0), (side, side), (side, side)))
    out = np.zeros((features.shape[0], weight.shape[0], *features.shape[2:]))
    for b in range(out.shape[0]):
        for c in range(out.shape[1]):
            for h, w in positions(out):
                patch = padded[b, :, h : h + weight.shape[2], w : w + weight.shape[3]]
                out[b, c, h, w] = (patch * weight[c]).sum() + (0 if layer.bias is None else layer.bias[c].item())
    return out


def linear(embedding: Array, layer: nn.Linear) -> Array:
    weight = array(layer.weight)
    bias = np.zeros(len(weight)) if layer.bias is None else array(layer.bias)
    return np.array([[float(row @ sample) + b for row, b in zip(weight, bias, strict=True)] for sample in embedding])


def normalise_batch(values: Array, layer: nn.BatchNorm1d | nn.BatchNorm2d) -> Array:
    """Batch normalisation by the statistics of the batch, as in training."""
    out = np.zeros_like(values)
    for c in range(values.shape[1]):
        channel = values[:, c]
        variance = float(((channel - channel.mean()) ** 2).mean())
        scaled = (channel - channel.mean()) / math.sqrt(variance + layer.eps)
        out[:, c] = scaled * layer.weight[c].item() + layer.bias[c].item()
    return out


def run(layers: nn.Module, values: Array) -> Array:
    """A sequence of the layers above, one after the other."""
    if isinstance(layers, nn.Sequential):
        for layer in layers:
            values = run(layer, values)
        return values
    if isinstance(layers, nn.Conv2d):
        return convolve(values, layers)
    if isinstance(layers, nn.Linear):
        return linear(values, layers)
    if isinstance(layers, nn.BatchNorm1d | nn.BatchNorm2d):
        return normalise_batch(values, layers)
    if isinstance(layers, nn.LeakyReLU):
        return np.where(values > 0, values, layers.negative_slope * values)
    if isinstance(layers, nn.ReLU):
        return np.where(values > 0, values, 0.0)
    assert isinstance(layers, nn.Identity), layers
    return values
