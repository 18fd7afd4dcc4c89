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
    to one row.
    """
    height, width = trusted.shape
    for row in range(max(start - steps[-1, 0], 0), stop):
        for column in range(width):
            if not trusted[row, column]:
                continue
            px = np.float64(xyz[row, column, 0])
            py = np.float64(xyz[row, column, 1])
            pz = np.float64(xyz[row, column, 2])
            nx = np.float64(normals[row, column, 0])
            ny = np.float64(normals[row, column, 1])
            nz = np.float64(normals[row, column, 2])
            for k in range(len(steps)):
                y, x = row + steps[k, 0], column + steps[k, 1]
                if x < 0 or x >= width or y < start or y >= height or not trusted[y, x]:
                    continue
                dx, dy, dz = xyz[y, x, 0] - px, xyz[y, x, 1] - py, xyz[y, x, 2] - pz
                squared = dx * dx + dy * dy + dz * dz
                if squared > reach[k] or squared == 0:
                    continue
                mx = np.float64(normals[y, x, 0])
                my = np.float64(normals[y, x, 1])
                mz = np.float64(normals[y, x, 2])
                one = nx * dx + ny * dy + nz * dz
                two = mx * dx + my * dy + mz * dz
                cosine = nx * mx + ny * my + nz * mz
                triple = dx * (ny * mz - nz * my) + dy * (nz * mx - nx * mz) + dz * (nx * my - ny * mx)
                other = abs(one) < abs(two)  # the other end is the source; no branch, which would be a coin toss
                first, second = -two if other else one, -one if other else two
                theta, alpha, phi = _bins(first, second, cosine, triple, squared)
                if row >= start:
                    inverse[k, row, column] = unit / squared
                    counts[row, theta, column] += 1
                    counts[row, alpha, column] += 1
                    counts[row, phi, column] += 1
                if y < stop:
                    if abs(one) == abs(two):  # each end is its own source: normals that are exactly parallel
                        theta, alpha, phi = _bins(-two, -one, cosine, triple, squared)
                    counts[y, theta, x] += 1
                    counts[y, alpha, x] += 1
                    counts[y, phi, x] += 1


@jit(error_model="numpy")
def _bins(one, two, cosine, triple, squared):  # type: ignore[no-untyped-def]
    """The bins, among 33, of θ, α and φ; from products with d at its full length."""
    rest = squared - one * one
    length, across = np.sqrt(squared), np.sqrt(max(rest, 0.0))
    theta, alpha, sine = BINS // 2, BINS // 2, two - one * cosine
    if rest > 1e-12 * squared:
        alpha = int((triple / across + 1) * (BINS / 2))
        sine /= across
    else:  # the normal of the source points at the target: v is 0, and so are v·n₂ and w·n₂
        sine = 0.0
    if not abs(sine) < _TAN * cosine:  # most are in the middle bin, and need no arctangent
        theta = int((np.arctan2(sine, cosine) + np.pi) * (BINS / (2 * np.pi)))
    phi = int((one / length + 1) * (BINS / 2))
    return min(theta, BINS - 1), BINS + min(max(alpha, 0), BINS - 1), 2 * BINS + min(max(phi, 0), BINS - 1)


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
