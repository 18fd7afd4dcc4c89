"""Colours of an anomaly map, tied to the threshold.

The scale never depends on the image at hand: a good part stays calm however its map is spread, and the
same value has the same colour in every picture made with one threshold.
"""

from __future__ import annotations

import math
from functools import reduce

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

STEPS = 128  # colours on each side of the threshold


def _colour_table() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Colour times opacity (256×3, 0..255) and opacity (256×1, 0..1).

    128 steps lead up to the threshold, 128 on to its double. Blue-grey against yellow-to-dark-red with
    falling lightness: told apart with every kind of colour blindness, and in a grey print.
    """
    stops = [0.0, 1.0, 1.0 + 1e-6, 1.45, 2.0]
    colours = [(96, 125, 160), (84, 124, 172), (255, 214, 51), (236, 112, 0), (134, 0, 18)]
    at = np.concatenate([np.linspace(0, 1, STEPS), np.linspace(1.0 + 1e-6, 2, STEPS)])
    opacity = np.interp(at, stops, [0.15, 0.5, 0.7, 0.78, 0.88]).astype(np.float32)[:, None]
    channels = [np.interp(at, stops, channel) for channel in zip(*colours, strict=True)]
    return np.stack(channels, axis=1).astype(np.float32) * opacity, opacity


_COLOUR, _OPACITY = _colour_table()


def resample(plane: NDArray[np.generic], size: tuple[int, int]) -> NDArray[np.float32]:
    """An H×W map at another size (rows, columns).

    Shrinking takes the maximum of each block, because a mean would wash a three-pixel defect out of a
    large picture; growing repeats. NaN only where the whole block is NaN.
    """
    out = np.asarray(plane, np.float32)
    for axis, length in enumerate(size):
        starts = np.arange(length) * out.shape[axis] // length
        ends = np.maximum(np.append(starts[1:], out.shape[axis]), starts + 1)
        # Step j takes the j-th line of every block: several times faster than `fmax.reduceat`.
        steps = (np.minimum(starts + j, ends - 1) for j in range(int((ends - starts).max())))
        out = reduce(np.fmax, (out.take(lines, axis) for lines in steps))
    return out


def heat(photo: Picture, values: NDArray[np.float32], threshold: float) -> Picture:
    """Map values laid over the greyed photo, RGB uint8 H×W×3.

    `values` is H×W, NaN where nothing was inspected. Blue-grey and see-through from 0 to the threshold, warm
    above it, full at twice the threshold; NaN is hatched in grey. An infinite or NaN threshold leaves
    everything calm; one of zero or below makes every value above it full.
    """
    grey = 40 + 0.72 * cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]
    unseen = np.isnan(values)
    step = colour_steps(values, threshold)
    tinted = _COLOUR[step] + (1 - _OPACITY[step]) * grey
    if unseen.any():
        diagonal = np.add.outer(np.arange(values.shape[0]), np.arange(values.shape[1])) % 10 < 3
        tinted[unseen] = 130 + 0.35 * grey[unseen]
        tinted[unseen & diagonal] = 96
    picture: Picture = np.clip(tinted, 0, 255).astype(np.uint8)
    return picture


def heat_layer(steps: NDArray[np.integer], unseen: NDArray[np.bool_]) -> Picture:
    """The colours of `heat` alone, RGBA uint8 H×W×4, to be laid over a photo; `steps` as `colour_steps` gives them."""
    layer = np.concatenate([_COLOUR / _OPACITY, 255 * _OPACITY], axis=1)[steps]
    layer[unseen] = (128, 128, 128, 166)
    picture: Picture = np.rint(layer).clip(0, 255).astype(np.uint8)
    return picture


def colour_steps(values: NDArray[np.float32], threshold: float) -> NDArray[np.intp]:
    """Row of the colour table for each value: `STEPS` of them up to the threshold, as many above it."""
    if math.isnan(threshold) or threshold == math.inf:
        return np.zeros(values.shape, np.intp)
    if threshold <= 0:
        return np.where(values > threshold, 2 * STEPS - 1, 0)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        share = np.nan_to_num(values / np.float32(threshold), nan=0.0, posinf=2.0, neginf=0.0).clip(0.0, 2.0)
    steps: NDArray[np.intp] = (share * (STEPS - 1)).astype(np.intp) + (share > 1)
    return steps
