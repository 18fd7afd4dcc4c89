"""What generated textures are made of: fields of values in 0..1 over the pixels of a picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import cv2
import numpy as np

from patchbank.training.anomalies.draws import log_uniform
from patchbank.training.anomalies.masks import Floats

Size: TypeAlias = tuple[int, int]
Field: TypeAlias = Callable[[Size, np.random.Generator], Floats]

_FINEST = 2.0  # pixels from one grain of noise to the next
_OCTAVE = 0.55  # amplitude of an octave, relative to the coarser one


def clouds(size: Size, rng: np.random.Generator) -> Floats:
    """Smooth noise at several scales, from a quarter of the picture down to a few pixels."""
    total = np.zeros(size, np.float32)
    cell, amplitude = max(size) / rng.uniform(2, 12), 1.0
    for _ in range(int(rng.integers(1, 5))):
        total += np.float32(amplitude) * _smooth(size, cell, rng)
        cell, amplitude = max(cell / 2, _FINEST), amplitude * _OCTAVE
    return _stretched(total)


def grain(size: Size, rng: np.random.Generator) -> Floats:
    """Fine noise, 2 to 8 pixels from one grain to the next."""
    return _stretched(_smooth(size, rng.uniform(_FINEST, 8), rng))


def stripes(size: Size, rng: np.random.Generator) -> Floats:
    """Wavy lines in any direction, 4 pixels to a sixth of the picture apart; soft or with sharp edges."""
    wave = _wave(size, rng, bend=rng.uniform(0, 1.5))
    return np.asarray(np.clip(0.5 + rng.uniform(0.5, 4) * wave, 0, 1), dtype=np.float32)


def checks(size: Size, rng: np.random.Generator) -> Floats:
    """Squares of two kinds in any direction, with sharp or blurred edges."""
    pitch, angle = _pitch(size, rng), rng.uniform(0, np.pi)
    both = [np.sin(_along(size, angle + quarter) * np.float32(np.pi / pitch)) for quarter in (0, np.pi / 2)]
    return np.asarray(np.clip(0.5 + rng.uniform(1, 8) * both[0] * both[1], 0, 1), dtype=np.float32)


def blobs(size: Size, rng: np.random.Generator) -> Floats:
    """Round spots of one size at random places, or the net of cells between them."""
    points = np.ones(size, np.uint8)
    count = int(rng.integers(12, 160))
    points[rng.integers(size[0], size=count), rng.integers(size[1], size=count)] = 0
    distance = cv2.distanceTransform(points, cv2.DIST_L2, 3) / np.float32(math.sqrt(size[0] * size[1] / count))
    return np.asarray(np.clip(distance * rng.uniform(0.8, 2.5), 0, 1), dtype=np.float32)


def cells(size: Size, rng: np.random.Generator) -> Floats:
    """Pieces with straight edges (Voronoi cells), each of one value."""
    points = np.ones(size, np.uint8)
    count = int(rng.integers(8, 120))
    points[rng.integers(size[0], size=count), rng.integers(size[1], size=count)] = 0
    _, labels = cv2.distanceTransformWithLabels(points, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    return np.asarray(rng.random(int(labels.max()) + 1, dtype=np.float32)[labels])


def gradient(size: Size, rng: np.random.Generator) -> Floats:
    """A slow change from one side to the other, or from a point outwards."""
    if rng.random() < 0.5:
        return _stretched(_along(size, rng.uniform(0, 2 * np.pi)))
    row, column = rng.uniform(0, size[0]), rng.uniform(0, size[1])
    y, x = np.arange(size[0], dtype=np.float32)[:, None], np.arange(size[1], dtype=np.float32)
    return _stretched(np.hypot(y - np.float32(row), x - np.float32(column)))


def plain(size: Size, rng: np.random.Generator) -> Floats:
    """Nearly one value, as a drop of paint has it."""
    spread = rng.uniform(0, 0.15)
    return np.asarray(rng.uniform(0, 1 - spread) + spread * clouds(size, rng), dtype=np.float32)


FIELDS: dict[str, Field] = {
    "clouds": clouds,
    "grain": grain,
    "stripes": stripes,
    "checks": checks,
    "blobs": blobs,
    "cells": cells,
    "gradient": gradient,
    "plain": plain,
}


def _smooth(size: Size, cell: float, rng: np.random.Generator) -> Floats:
    """Noise that changes over `cell` pixels, about −1..1."""
    rows, columns = (math.ceil(side / cell) + 1 for side in size)
    coarse = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC))


def _wave(size: Size, rng: np.random.Generator, bend: float) -> Floats:
    """A sine in any direction, −1..1; `bend`: radians that its phase wanders."""
    phase = _along(size, rng.uniform(0, np.pi)) * np.float32(2 * np.pi / _pitch(size, rng))
    phase += np.float32(bend) * _smooth(size, max(size) / 4, rng) + np.float32(rng.uniform(0, 2 * np.pi))
    return np.asarray(np.sin(phase))


def _pitch(size: Size, rng: np.random.Generator) -> float:
    """Pixels from one line to the next, small and large ones alike."""
    return log_uniform(4, max(max(size) / 6, 8), rng)


def _along(size: Size, angle: float) -> Floats:
    """Pixels from the first corner in a direction, in radians."""
    y, x = np.arange(size[0], dtype=np.float32)[:, None], np.arange(size[1], dtype=np.float32)
    return np.asarray(np.float32(math.cos(angle)) * x + np.float32(math.sin(angle)) * y)


def _stretched(values: Floats) -> Floats:
    """The lowest value becomes 0, the highest 1."""
    low, high = float(values.min()), float(values.max())
    return np.asarray((values - np.float32(low)) / np.float32(max(high - low, 1e-6)))
