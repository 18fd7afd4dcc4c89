"""Lower bounds of distances from the first principal coordinates.

After a rotation to principal axes, ‖x − y‖² ≥ Σ_{d ≤ k} (x_d − y_d)² + (r_x − r_y)², where r is the norm of what the
first k coordinates leave. With k of a few dozen this decides all but a few pairs in a thousand of real patch
features. Written out it is ‖x‖² + ‖y‖² − 2·(Σ_{d ≤ k} x_d·y_d + r_x·r_y): one inner product of k + 1 numbers. It is
taken in three stages of growing k, and most pairs are decided after the first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchbank.jit import REASSOCIATE, jit
from patchbank.search.tile import LANES, ROWS, tile_below
from patchbank.threads import spread

_SAMPLE = 8192  # vectors that the axes are taken from
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Coordinates:
    """N vectors in tiles of `width`: per stage, tiles×(depth + 1)×width, the residual norm last; `squared` N norms
    about the mean."""

    stages: tuple[Floats, Floats, Floats]
    squared: Floats
    width: int


class Prefix:
    """Principal axes of a set of vectors (N×D), and the coordinates of vectors along the first of them.

    Any orthonormal axes give correct bounds; the principal ones give tight bounds.
    """

    def __init__(self, vectors: Floats, depths: tuple[int, int, int] = (8, 16, 24)):
        """`depths`: how many coordinates each stage adds."""
        sample = vectors[:: max(1, len(vectors) // _SAMPLE)].astype(np.float64)
        mean = sample.mean(0)
        sample -= mean
        _, axes = np.linalg.eigh(sample.T @ sample)
        dimension = vectors.shape[1]
        stops = np.minimum(np.cumsum(depths), dimension)
        self.depths = np.diff(stops, prepend=0)
        self.mean: Floats = mean.astype(np.float32)
        self.axes: Floats = np.ascontiguousarray(axes[:, ::-1][:, : stops[-1]], dtype=np.float32)
        # a sum of n float32 products is off by more than 8·√n·u·‖x‖·‖y‖ with a probability below 1e-13 (Higham & Mary,
        # "A new approach to probabilistic rounding error analysis", 2019); twice that for the axes themselves
        self.rounding = 16 * (dimension + stops[-1]) ** 0.5 * float(np.finfo(np.float32).eps)

    def __call__(self, vectors: Floats, width: int) -> Coordinates:
        """Coordinates of N×D vectors: `width` is ROWS for queries (scaled by −2), LANES for what is searched."""
        coordinates, squared = self.rows(vectors)
        if width == ROWS:
            coordinates *= -2
        stops = np.cumsum(self.depths + 1)
        stages = [_in_tiles(coordinates[:, a:b], width) for a, b in zip([0, *stops], stops, strict=False)]
        return Coordinates((stages[0], stages[1], stages[2]), squared, width)

    def rows(self, vectors: Floats) -> tuple[Floats, Floats]:
        """N×D → the coordinates of each vector in a row, stage after stage, and its squared norm about the mean."""
        coordinates = np.empty((len(vectors), self.axes.shape[1] + 3), np.float32)
        squared = np.empty(len(vectors), np.float32)
        spread(
            lambda start, stop: _project(vectors, self.mean, self.axes, self.depths, coordinates, squared, start, stop),
            len(vectors),
            grain=16,
        )
        return coordinates, squared

    def margin(self, squared: Floats, largest: float) -> Floats:
        """How far rounding may lift a squared bound between vectors with these squared norms and others of norm²
        `largest` at most."""
        return np.asarray(self.rounding * np.square(np.sqrt(squared) + largest**0.5), np.float32)


def _in_tiles(columns: Floats, width: int) -> Floats:
    count, depth = columns.shape
    tiles = np.zeros((-(-count // width), width, depth), np.float32)
    tiles.reshape(-1, depth)[:count] = columns
    return np.ascontiguousarray(tiles.transpose(0, 2, 1))


@jit(fastmath=REASSOCIATE)
def _project(vectors, mean, axes, depths, coordinates, squared, start, stop):  # type: ignore[no-untyped-def]
    dimension, count = axes.shape
    transposed = axes.T.copy()
    rest = np.empty(dimension, np.float32)
    along = np.empty(count, np.float32)
    for i in range(start, stop):
        norm = np.float32(0)
        along[:] = 0
        for d in range(dimension):
            rest[d] = vectors[i, d] - mean[d]
            norm += rest[d] * rest[d]
            for k in range(count):
                along[k] += rest[d] * axes[d, k]
        squared[i] = norm
        # what the axes leave, as a vector: ‖x‖² − Σ x_k² would cancel
        for k in range(count):
            for d in range(dimension):
                rest[d] -= along[k] * transposed[k, d]
        residual = np.float32(0)
        for d in range(dimension):
            residual += rest[d] * rest[d]
        column, k = coordinates.shape[1] - 1, count
        for stage in range(len(depths) - 1, -1, -1):
            coordinates[i, column] = np.sqrt(residual)
            column -= 1
            for _ in range(depths[stage]):
                k -= 1
                coordinates[i, column] = along[k]
                residual += along[k] * along[k]
                column -= 1


@jit(inline="always")
def below(q0, q1, q2, v0, v1, v2, norms, group, tile, limits):  # type: ignore[no-untyped-def]
    """Which of 4 queries × 16 vectors have a bound below the query's limit: bit 16·row + lane.

    q*, v*: the stages of queries and vectors; norms: squared norms of the vectors, +inf for none; limits: 4, less the
    query's own squared norm.
    """
    stages = (_stage(q0, v0, group, tile), _stage(q1, v1, group, tile), _stage(q2, v2, group, tile))
    return tile_below(stages, norms.ctypes.data + tile * (4 * LANES), limits.ctypes.data)


@jit(inline="always")
def _stage(queries, vectors, group, tile):  # type: ignore[no-untyped-def]
    rows = queries.shape[1]  # depth + 1, of 4 bytes times 4 or 16
    return (
        queries.ctypes.data + group * rows * (4 * ROWS),
        vectors.ctypes.data + tile * rows * (4 * LANES),
        rows - 1,
    )
