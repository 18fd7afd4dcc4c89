"""Synthetic anomalies of geometry: dents, bumps and missing points."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from patchbank._system.threads import for_each
from patchbank.errors import DatasetError, OptionError
from patchbank.training.anomalies.checks import check_kinds, check_probability
from patchbank.training.anomalies.draws import generators, log_uniform, random_pixel
from patchbank.training.anomalies.masks import (
    TRIES,
    Floats,
    Mask,
    as_tensor,
    check_foreground,
    closed,
    foregrounds,
    is_large_enough,
)

DEPTH_KINDS = ("dents", "bumps", "missing")
_RADIUS = (0.02, 0.12)  # of the longer side
_ASPECT = (1.0, 5.0)  # of a spot: round ones and grooves
_WAVES = range(2, 7)  # of its outline
_ROUGHNESS = 0.25  # of its outline, relative to the radius
_SOFTNESS = (0.8, 2.0)  # exponents of its profile: a flat bottom, a cone
_SEEN = 0.1  # of the largest change: what changes less is not marked
_RAGGED = 0.5  # of a spot: below it only some points are lost
_USUAL = 0.05  # radius, as a share of the longer side, that `relative` is for
_FACTORS = (0.5, 1.5)  # smallest and largest height of other radii, relative to that one
_SHARES = (0.02, 0.98)  # quantiles of heights that a part's spread lies between
_LOOKED_AT = 10_000  # pixels that quantiles are taken of
_NOISES = 6.0  # standard deviations of the noise of heights that an anomaly has at least
_TO_SIGMA = 1.4826 / math.sqrt(6)  # median of |second differences| → standard deviation of white noise


@dataclass(frozen=True, eq=False)
class DamagedDepth:
    """Geometry with an anomaly.

    Attributes:
        heights: millimetres towards the camera, 0 where not valid.
        valid: which pixels have a point.
        mask: where something changed.
    """

    heights: Floats
    valid: Mask
    mask: Mask


@dataclass(frozen=True)
class DepthAnomalies:
    """How anomalies are drawn on geometry.

    Attributes:
        kinds: the ones to draw from, of `DEPTH_KINDS`, each with the same probability.
        normal: probability that a sample stays as it is.
        relative: smallest and largest height of a dent or bump whose radius is 5 % of the longer side, as a share of
            `scale_mm`. The height of others grows with the root of their radius: a wide shallow dent shows nothing.
        scale_mm: millimetres, such as the height of the tallest good part; None for each part's own: the range of its
            heights within the foreground, without the lowest and highest 2 %.

    Raises:
        OptionError: a kind is unknown or there is none, `normal` is no probability, or a height is no positive number.
    """

    kinds: tuple[str, ...] = DEPTH_KINDS
    normal: float = 0.5
    relative: tuple[float, float] = (0.1, 0.4)
    scale_mm: float | None = None

    def __post_init__(self) -> None:
        check_kinds("kinds", self.kinds, DEPTH_KINDS)
        check_probability("normal", self.normal)
        for value in (*self.relative, 1.0 if self.scale_mm is None else self.scale_mm):
            if not (math.isfinite(value) and value > 0):
                raise OptionError(f"the height of a synthetic anomaly must be a positive number, not {value}")

    def applied(
        self, heights: Tensor, valid: Tensor, generator: torch.Generator, foreground: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw anomalies on a batch.

        Args:
            heights: B×1×h×w millimetres, growing towards the camera; not changed.
            valid: B×1×h×w bool, which pixels have a point.
            generator: the only source of randomness.
            foreground: h×w, B×h×w or B×1×h×w, non-zero where an anomaly may lie; None for all valid points.

        Returns:
            B×1×h×w heights (0 where not valid), B×1×h×w bool valid, and the B×1×h×w mask: 1 where something changed.

        Raises:
            DatasetError: a foreground has no valid point, or the heights of a part are all the same.
        """
        count, _, height, width = heights.shape
        values, points = heights.detach().float().cpu().numpy()[:, 0], valid.detach().cpu().numpy()[:, 0]
        allowed = foregrounds(foreground, (count, height, width))
        drawing = generators(generator, count)

        def draw(number: int) -> DamagedDepth:
            rng, z, seen = drawing[number], values[number], points[number]
            if rng.random() < self.normal:
                return DamagedDepth(np.where(seen, z, np.float32(0)), seen, np.zeros(seen.shape, bool))
            return self.damaged(z, seen, rng, allowed[number])

        drawn = for_each(draw, range(count))
        after = torch.from_numpy(np.stack([each.heights for each in drawn])[:, None]).to(heights)
        left = torch.from_numpy(np.stack([each.valid for each in drawn])[:, None]).to(valid)
        return after, left, as_tensor([each.mask for each in drawn], heights)

    def damaged(
        self, heights: Floats, valid: Mask, rng: np.random.Generator, foreground: Mask | None = None
    ) -> DamagedDepth:
        """Draw one anomaly on one part.

        Args:
            heights: H×W millimetres, growing towards the camera; not changed.
            valid: H×W, which pixels have a point.
            rng: the only source of randomness.
            foreground: H×W, where the anomaly may lie; None for all valid points.

        Raises:
            DatasetError: the foreground has no valid point, or the heights are all the same.
        """
        inside = valid if foreground is None else valid & foreground
        check_foreground(inside, "a part", "valid point")
        kind = self.kinds[rng.integers(len(self.kinds))]
        allowed = np.ones_like(valid) if foreground is None else foreground
        for _ in range(TRIES):
            spot = draw_spot(inside, rng) * allowed
            mask = spot > _SEEN
            if kind == "missing":
                lost = spot > _RAGGED * rng.random(spot.shape, dtype=np.float32)
                mask = closed(lost & valid, spot > 0)
            if is_large_enough(mask & valid, inside):
                break
        if kind == "missing":
            left = valid & ~lost
            return DamagedDepth(np.where(left, heights, np.float32(0)), left, mask)
        size = self._height_mm(heights, inside, mask, rng)
        change = np.float32(size if kind == "bumps" else -size) * spot
        return DamagedDepth(np.where(valid, heights + change, np.float32(0)), valid, mask)

    def _height_mm(self, heights: Floats, inside: Mask, mask: Mask, rng: np.random.Generator) -> float:
        """How high an anomaly is: always above the noise, also on a flat part."""
        scale = _spread(heights, inside) if self.scale_mm is None else self.scale_mm
        radius = math.sqrt(np.count_nonzero(mask) / math.pi) / max(mask.shape)
        scale *= float(np.clip(math.sqrt(radius / _USUAL), *_FACTORS))
        size = max(rng.uniform(*self.relative) * scale, _NOISES * _noise(heights, inside))
        if not size > 0:
            raise DatasetError(
                "the heights of a part are all the same, so a dent has no size there: give scale_mm in millimetres"
            )
        return size


def draw_spot(inside: Mask, rng: np.random.Generator) -> Floats:
    """A smooth spot with a wavy outline, round or long, whose middle lies on a pixel of a mask.

    Args:
        inside: H×W, not empty.
        rng: draws place, size and form.

    Returns:
        H×W float32, 1 in the middle and 0 outside; at least that pixel is above 0.
    """
    row, column = random_pixel(inside, rng)
    radius = max(rng.uniform(*_RADIUS) * max(inside.shape), 2.0)
    aspect, angle = log_uniform(*_ASPECT, rng), rng.uniform(0, np.pi)
    reach = math.ceil(radius * math.sqrt(aspect) * (1 + 2 * _ROUGHNESS))
    rows, columns = (
        slice(max(middle - reach, 0), min(middle + reach + 1, side))
        for middle, side in zip((row, column), inside.shape, strict=True)
    )
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - row
    x = np.arange(columns.start, columns.stop, dtype=np.float32) - column
    along = (math.cos(angle) * x + math.sin(angle) * y) / (radius * math.sqrt(aspect))
    across = (math.cos(angle) * y - math.sin(angle) * x) * (math.sqrt(aspect) / radius)
    direction, outline = np.arctan2(across, along), np.float32(1)
    for waves in _WAVES:
        amplitude, phase = rng.normal(0, _ROUGHNESS / waves), rng.uniform(0, 2 * np.pi)
        outline = outline + np.float32(amplitude) * np.cos(waves * direction + np.float32(phase))
    distance = np.hypot(along, across) / np.maximum(outline, 0.3)
    spot = np.zeros(inside.shape, np.float32)
    spot[rows, columns] = np.clip(1 - distance**2, 0, 1) ** rng.uniform(*_SOFTNESS)
    return spot


def _spread(heights: Floats, inside: Mask) -> float:
    """Range of the heights within a mask, without the lowest and the highest ones."""
    found = heights[inside]
    low, high = np.quantile(found[:: max(len(found) // _LOOKED_AT, 1)], _SHARES)
    return float(high - low)


def _noise(heights: Floats, inside: Mask) -> float:
    """Standard deviation of the noise of heights, from second differences along some rows; 0 for too few points."""
    step = max(inside.size // (4 * _LOOKED_AT), 1)
    z, seen = heights[::step], inside[::step]
    bends = z[:, :-2] - 2 * z[:, 1:-1] + z[:, 2:]
    found = bends[seen[:, :-2] & seen[:, 1:-1] & seen[:, 2:]]
    return _TO_SIGMA * float(np.median(np.abs(found))) if len(found) else 0.0
