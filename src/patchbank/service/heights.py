"""The heights of an inspected sample, small enough for a page to have the one under the pointer."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from patchbank.errors import ImageError
from patchbank.shape import Shape
from patchbank.shape.surface import surface_of

_SIDE = 256  # cells of the longer side, at most
_LEVELS = 65534  # of a 16-bit number, without 0 for "no point" and the first


def heights_of(shape: Shape) -> dict[str, Any]:
    """Heights above the background plane as `answers.Heights` describes them, each the mean of the points of its cell.
    Raises `ImageError` where there is no point."""
    height, width = shape.size
    factor = -(-max(height, width) // _SIDE)
    least = max(height // factor, 1), max(width // factor, 1)
    small, pixels = shape.reduced(least), max(min(height // least[0], width // least[1]), 1)
    if max(small.size) > 2 * _SIDE:  # a strip so narrow that it cannot be reduced
        raise ImageError(f"has {width}×{height} pixels, a strip too narrow for a grid of heights")
    surface = surface_of(small)
    there = small.valid
    lowest, highest = (float(value) for value in (surface.height[there].min(), surface.height[there].max()))
    step = max(highest - lowest, 1e-6) / _LEVELS
    numbers = np.where(there, np.rint((surface.height - lowest) / step) + 1, 0).astype("<u2")
    return {
        "rows": small.size[0],
        "columns": small.size[1],
        "pixels": pixels,
        "lowest_mm": lowest,
        "step_mm": step,
        "is_background": surface.plane.is_background,
        "data": base64.b64encode(numbers.tobytes()).decode(),
    }
