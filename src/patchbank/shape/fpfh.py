"""Fast point feature histograms on an organised grid (Rusu et al., ICRA 2009).

For a pair of points with normals, d is the unit vector from one to the other, a₁ = n₁·d and a₂ = n₂·d. The source is
the point with the larger |a|; for it and its target:

    v = (d × n₁)/‖·‖,  w = n₁ × v,  α = v·n₂,  θ = atan2(w·n₂, n₁·n₂),  φ = n₁·d

With unit normals none of the vectors is needed: w·n₂ = (a₂ − a₁c)/s and α = d·(n₁ × n₂)/s, where c = n₁·n₂ and
s = ‖d × n₁‖ = √(1 − a₁²). A pair gives the same three numbers from both ends, so each is computed once. Only where
|a₁| = |a₂| is each end its own source.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchbank._system.numba_jit import REASSOCIATE, jit
from patchbank._system.threads import spread
from patchbank.errors import OptionError

BINS = 11
_TAN = float(np.tan(np.pi / BINS))  # half the width of the middle bin of θ
_LARGEST = 8  # radius: no more than 255 neighbours, which are counted in bytes
_GRAIN = 8  # rows
_TILE, _HALO = 256, _LARGEST  # columns at a time, and beside them
_SPAN = _TILE + 2 * _HALO


def window(radius: int) -> NDArray[np.int64]:
    """K×2 steps (rows, columns) to the neighbours of a pixel: those within the disc rows² + columns² ≤ radius² + 1,
    without the pixel itself. 36 for radius 3, 88 for radius 5. Opposite steps are K − 1 apart: k and K − 1 − k."""
    steps = np.arange(-radius - 1, radius + 2)
    rows, columns = (side.ravel() for side in np.meshgrid(steps, steps, indexing="ij"))
    squared = rows**2 + columns**2
    near = (squared > 0) & (squared <= radius**2 + 1)
    return np.stack([rows[near], columns[near]], 1).astype(np.int64)


def fpfh(
    xyz: NDArray[np.floating],
    normals: NDArray[np.floating],
    trusted: NDArray[np.bool_],
    radius: int = 3,
    step: float = 3.0,
) -> NDArray[np.float32]:
    """Fast point feature histogram of each trusted point.

    Neighbours are the trusted points of the window, without those beyond a depth step. Each of k neighbours adds 100/k
    to one bin of each block (SPFH). The result is SPFH + Σ SPFH(j)/‖p_j − p‖² over the neighbours j, where the sum is
    scaled to 100 for each block. Length cancels out: any unit gives the same numbers.

    Args:
        xyz: H×W×3 points in the camera's frame.
        normals: H×W×3, unit length, towards the camera.
        trusted: H×W, which points count.
        radius: Of the window in pixels, 1 to 8; see `window`.
        step: Largest distance of two neighbours, as a multiple of the distance of their pixels in pitches.

    Returns:
        H×W×33 float32: 11 bins each of θ, α and φ; 0 where a point is not trusted or has no neighbour.

    Raises:
        OptionError: The radius or the step is out of range.
    """
    if not 1 <= radius <= _LARGEST:
        raise OptionError(f"radius {radius}: the window of FPFH reaches 1 to {_LARGEST} pixels")
    if not step > 1:
        raise OptionError(f"step {step}: must be above 1, which is the distance of neighbours on a level surface")
    steps = window(radius)
    pitch = _pitch(xyz, trusted)
    reach = (step * pitch) ** 2 * (steps**2).sum(1)
    rows, half = len(trusted), len(steps) // 2
    counts = np.zeros((rows, 3 * BINS, trusted.shape[1]), np.uint8)
    inverse = np.zeros((half, *trusted.shape), np.float32)
    spread(
        lambda start, stop: _count(
            xyz, normals, trusted, steps[half:], reach[half:], pitch**2, counts, inverse, start, stop
        ),
        rows, _GRAIN,
    )  # fmt: skip
    share = _shares(counts)
    out = np.empty((*trusted.shape, 3 * BINS), np.float32)
    spread(lambda start, stop: _gather(steps, share, inverse, counts, out, start, stop), rows, _GRAIN)
    return out


def _shares(counts: NDArray[np.uint8]) -> NDArray[np.float32]:
    """100/k for the k neighbours of each point, 0 without one. Each is counted once in each block."""
    total = counts[:, :BINS].sum(1, dtype=np.uint8)
    shares: NDArray[np.float32] = np.where(total > 0, 100 / np.maximum(total, 1), 0).astype(np.float32)
    return shares


def _pitch(xyz: NDArray[np.floating], trusted: NDArray[np.bool_]) -> float:
    """Median distance, across the optical axis, of trusted points in pixels side by side; 0 without such a pair."""
    found = []
    for points, seen in ((xyz[::8], trusted[::8]), (xyz[:, ::8].swapaxes(0, 1), trusted[:, ::8].T)):
        difference = (points[:, 1:, :2] - points[:, :-1, :2])[seen[:, 1:] & seen[:, :-1]]
        found.append(np.hypot(difference[:, 0], difference[:, 1]))
    distances = np.concatenate(found)
    return float(np.median(distances)) if len(distances) else 0.0


@jit(error_model="numpy")
def _count(xyz, normals, trusted, steps, reach, unit, counts, inverse, start, stop):  # type: ignore[no-untyped-def]
    """Count the pairs of each bin, `counts` H×33×W, and keep unit/‖p_j − p‖² of each pair, `inverse` K/2×H×W.

    Pairs go down or to the right; those that come from the rows above are computed again, so that no two threads write
    to one row. Columns go in tiles, which have a fixed size.
    """
    height, width = trusted.shape
    first, last = max(start - steps[-1, 0], 0), min(stop + steps[-1, 0], height)
    planar = np.empty((last - first, 6 * _SPAN), np.float32)
    pairs = np.empty(5 * _TILE)
    for left in range(0, width, _TILE):
        for row in range(first, last):
            _copy_planar(xyz[row], normals[row], trusted[row], left, planar[row - first])
        size = min(_TILE, width - left)
        for row in range(first, stop):
            for k in range(len(steps)):
                y, dx = row + steps[k, 0], steps[k, 1]
                if y < start or y >= height:
                    continue
                here, there = planar[row - first, _HALO:], planar[y - first, _HALO + dx :]
                _pair_features(here, there, reach[k], unit, size, pairs)
                for i in range(size):
                    weight, sine, cosine = pairs[i], pairs[_TILE + i], pairs[2 * _TILE + i]
                    if weight == 0:
                        continue
                    theta, alpha, phi = _theta(sine, cosine), _bin(pairs[3 * _TILE + i]), _bin(pairs[4 * _TILE + i])
                    x = left + i
                    if row >= start:
                        inverse[k, row, x] = abs(weight)
                        counts[row, theta, x] += 1
                        counts[row, BINS + alpha, x] += 1
                        counts[row, 2 * BINS + phi, x] += 1
                    if y < stop:
                        if weight < 0:
                            theta, phi = _theta(-sine, cosine), _bin(-pairs[4 * _TILE + i])
                        counts[y, theta, x + dx] += 1
                        counts[y, BINS + alpha, x + dx] += 1
                        counts[y, 2 * BINS + phi, x + dx] += 1


@jit()
def _bin(value):  # type: ignore[no-untyped-def]
    """Of a number from −1 to 1."""
    return min(max(int((value + 1) * (BINS / 2)), 0), BINS - 1)


@jit()
def _theta(sine, cosine):  # type: ignore[no-untyped-def]
    """Of an angle. Most are in the middle bin, and need no arctangent."""
    if abs(sine) < _TAN * cosine:
        return BINS // 2
    return min(int((np.arctan2(sine, cosine) + np.pi) * (BINS / (2 * np.pi))), BINS - 1)


@jit()
def _copy_planar(points, normals, trusted, left, planar):  # type: ignore[no-untyped-def]
    """A row of a tile and the columns beside it, one coordinate after the other; NaN where a point does not count."""
    for i in range(_SPAN):
        column = left + i - _HALO
        counted = 0 <= column < len(trusted) and trusted[column]
        for axis in range(3):
            planar[axis * _SPAN + i] = points[column, axis] if counted else np.nan
            planar[(axis + 3) * _SPAN + i] = normals[column, axis] if counted else np.nan


@jit(error_model="numpy")
def _pair_features(here, there, reach, unit, size, pairs):  # type: ignore[no-untyped-def]
    """Of a row of pairs: unit/‖d‖², or 0 where they are no neighbours; w·n₂, n₁·n₂, α and φ.

    The first is negative where each end is its own source, and w·n₂ and φ have the other sign seen from there. The loop
    is vectorised: all that it reads or writes has constant distances, and it has no branches.
    """
    for i in range(size):
        dx = np.float64(there[i]) - here[i]
        dy = np.float64(there[_SPAN + i]) - here[_SPAN + i]
        dz = np.float64(there[2 * _SPAN + i]) - here[2 * _SPAN + i]
        nx, mx = np.float64(here[3 * _SPAN + i]), np.float64(there[3 * _SPAN + i])
        ny, my = np.float64(here[4 * _SPAN + i]), np.float64(there[4 * _SPAN + i])
        nz, mz = np.float64(here[5 * _SPAN + i]), np.float64(there[5 * _SPAN + i])
        squared = dx * dx + dy * dy + dz * dz
        one = nx * dx + ny * dy + nz * dz
        two = mx * dx + my * dy + mz * dz
        cosine = nx * mx + ny * my + nz * mz
        triple = dx * (ny * mz - nz * my) + dy * (nz * mx - nx * mz) + dz * (nx * my - ny * mx)
        other = abs(one) < abs(two)  # the other end is the source
        source, target = -two if other else one, -one if other else two
        rest = squared - source * source
        upright = rest > 1e-12 * squared  # otherwise the source's normal points at the target: v is 0
        scale = 1 / np.sqrt(rest if upright else 1.0)
        inside = (squared > 0) & (squared <= reach)
        sign = -1.0 if one == two else 1.0
        pairs[i] = sign * unit / squared if inside else 0.0
        pairs[_TILE + i] = (target - source * cosine) * scale if upright else 0.0
        pairs[2 * _TILE + i] = cosine
        pairs[3 * _TILE + i] = triple * scale if upright else 0.0
        pairs[4 * _TILE + i] = source / np.sqrt(squared)


@jit(error_model="numpy")
def _gather(steps, share, inverse, counts, out, start, stop):  # type: ignore[no-untyped-def]
    """FPFH of the rows from the counts of all points, a row of pixels at a time: those loops are vectorised."""
    height, width = share.shape
    half = len(steps) // 2
    weight = np.empty((len(steps), width), np.float32)
    near = np.empty((3 * BINS, width), np.float32)
    scale = np.empty(width, np.float32)
    for row in range(start, stop):
        for k in range(len(steps)):
            y, dx = row + steps[k, 0], steps[k, 1]
            if 0 <= y < height and abs(dx) < width:
                pair = inverse[k - half, row] if k >= half else inverse[half - 1 - k, y]
                _weights(pair, share[y], dx, k >= half, weight[k])
        near[:] = 0
        for b in range(3 * BINS):
            for k in range(len(steps)):
                y, dx = row + steps[k, 0], steps[k, 1]
                if 0 <= y < height and abs(dx) < width:
                    low, high = max(-dx, 0), width - max(dx, 0)
                    _add_products(near[b, low:high], weight[k, low:high], counts[y, b, low + dx : high + dx])
        for block in range(0, 3 * BINS, BINS):
            scale[:] = 0
            for b in range(block, block + BINS):
                for x in range(width):
                    scale[x] += near[b, x]
            for x in range(width):
                scale[x] = np.float32(100) / scale[x] if scale[x] > 0 else np.float32(0)
            for x in range(width):
                for b in range(block, block + BINS):
                    out[row, x, b] = share[row, x] * np.float32(counts[row, b, x]) + scale[x] * near[b, x]


@jit()
def _weights(pair, share, dx, forward, weight):  # type: ignore[no-untyped-def]
    """Weight of the neighbour `dx` columns away: the inverse square of its distance times the share of its counts.
    A pair is kept at its upper or left end."""
    low, high = max(-dx, 0), len(weight) - max(dx, 0)
    kept = pair[low:high] if forward else pair[low + dx : high + dx]
    shares, weights = share[low + dx : high + dx], weight[low:high]
    for x in range(high - low):
        weights[x] = kept[x] * shares[x]


@jit(fastmath=REASSOCIATE)
def _add_products(total, weight, count):  # type: ignore[no-untyped-def]
    for x in range(len(total)):
        total[x] += weight[x] * np.float32(count[x])
