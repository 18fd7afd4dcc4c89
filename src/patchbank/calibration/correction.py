"""Leave-one-out scores → what new images score (docs/guides/thresholds.md)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_LEAST_SLOPE, _MARGIN = 0.5, 0.5  # few images can give any slope

Values = NDArray[np.float64]


def as_apart(values: Values, left_out: Values, apart: Values) -> Values:
    """Leave-one-out `values` as new images score. `left_out` and `apart` are what m images score with their patches
    taken out of the memory, and in a memory that was selected without them.

    A value becomes c · value^b. The line through the logarithms is the reduced major axis (`_line`). So the highest
    scores, which are too high by the largest factor, come down furthest.
    """
    known = np.isfinite(left_out) & np.isfinite(apart) & (left_out != 0)
    left_out, apart = left_out[known], apart[known]
    if not len(apart):
        return values
    if not np.concatenate([values, left_out, apart]).min() > 0:  # several channels together: distances are standardised
        return values * float(np.median(apart / left_out))
    slope, offset = _line(np.log(left_out), np.log(apart))
    return values**slope * math.exp(offset)


def standardised_as_apart(values: Values, left_out: Values, apart: Values) -> Values:
    """As `as_apart`, of values that are standardised and so have no logarithms: the line lies in the values."""
    known = np.isfinite(left_out) & np.isfinite(apart)
    if not known.any():
        return values
    slope, offset = _line(left_out[known], apart[known])
    return values * slope + offset


def _line(x: Values, y: Values) -> tuple[float, float]:
    """Slope b and offset of the reduced major axis of m points: b is the ratio of their standard deviations, and the
    line goes through their means.

    As few images can show a small spread by chance, b is widened by `_MARGIN` of the largest standard error that such a
    ratio has, 1/√(m − 1) of it (with the correlation r it is √(1 − r²) of that); it is at most 1.
    """
    slope = 1.0
    if len(x) > 1:
        widened = math.exp(_MARGIN / math.sqrt(len(x) - 1))
        slope = float(np.clip(widened * y.std() / max(x.std(), 1e-12), _LEAST_SLOPE, 1))
    return slope, float(y.mean() - slope * x.mean())
