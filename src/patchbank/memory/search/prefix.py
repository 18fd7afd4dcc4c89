"""Lower bounds of distances from the first principal coordinates.

After a rotation to principal axes, ‖x − y‖² ≥ Σ_{d ≤ k} (x_d − y_d)² + (r_x − r_y)², where r is the norm of what the
first k coordinates leave. With k of a few dozen this decides all but a few pairs in a thousand of real patch
features. Written out it is ‖x‖² + ‖y‖² − 2·(Σ_{d ≤ k} x_d·y_d + r_x·r_y): one inner product of k + 1 numbers. It is
taken in three stages of growing k, and most pairs are decided after the first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchbank._system.numba_jit import REASSOCIATE, jit
from patchbank._system.threads import spread
from patchbank.memory.search.tile import LANES, ROWS, tile_below

_SAMPLE, _RUN = 4096, 128  # vectors that the axes are taken from, in runs of so many
Floats = NDArray[np.float32]


class Prefix:
    """Principal axes of a set of vectors (N×D), and the coordinates of vectors along the first of them.

    Any orthonormal axes give correct bounds; the principal ones give tight bounds.
    """

    def __init__(self, vectors: Floats, depths: tuple[int, int, int]):
        """`depths`: how many coordinates each stage adds."""
        # runs of neighbours: rows apart from each other would bring most of a file into memory
        runs = np.linspace(0, max(0, len(vectors) - _RUN), _SAMPLE // _RUN).astype(int)
        few = len(vectors) <= _SAMPLE
        sample = vectors if few else np.concatenate([vectors[start : start + _RUN] for start in runs])
        sample = sample.astype(np.float64)
        mean = sample.mean(0)
        sample -= mean
        _, axes = np.linalg.eigh(sample.T @ sample)
        dimension = vectors.shape[1]
        stops = np.minimum(np.cumsum(depths), dimension)
        self.depths = np.diff(stops, prepend=0)
        self.mean: Floats = mean.astype(np.float32)
        self.axes: Floats = np.ascontiguousarray(axes[:, ::-1][:, : stops[-1]], dtype=np.float32)
        self.transposed: Floats = np.ascontiguousarray(self.axes.T)
        # a sum of n float32 products is off by more than 8·√n·u·‖x‖·‖y‖ with a probability below 1e-13 (Higham & Mary,
        # "A new approach to probabilistic rounding error analysis", 2019); twice that for the axes themselves
        self.rounding = float(16 * (dimension + stops[-1]) ** 0.5 * np.finfo(np.float32).eps)

    @property
    def width(self) -> int:
        """Numbers per vector: the coordinates of each stage, followed by the norm of what is left."""
        return int(self.axes.shape[1]) + 3

    def rows(self, vectors: Floats) -> tuple[Floats, Floats]:
        """N×D → N×`width`, and the squared norms about the mean."""
        coordinates = np.empty((len(vectors), self.width), np.float32)
        squared = np.empty(len(vectors), np.float32)
        spread(
            lambda start, stop: project(
                vectors, self.mean, self.axes, self.transposed, self.depths, start, stop,
                coordinates[start:stop], squared[start:stop],
            ),
            len(vectors),
            grain=64,
        )  # fmt: skip
        return coordinates, squared

    def empty_tiles(self, count: int) -> tuple[Floats, Floats, Floats]:
        """The stages of `count` vectors to be laid into tiles: tiles×(depth + 1)×16 each."""
        tiles = -(-count // LANES)
        one, two, three = (np.zeros((tiles, depth + 1, LANES), np.float32) for depth in self.depths)
        return one, two, three

    def lay(self, coordinates: Floats, tiles: tuple[Floats, Floats, Floats], first: int) -> None:
        """Write N×`width` coordinates into tiles, as vectors `first` and following."""
        at, column = np.arange(first, first + len(coordinates)), 0
        for stage in tiles:
            stage[at // LANES, :, at % LANES] = coordinates[:, column : column + stage.shape[1]]
            column += stage.shape[1]


@jit(fastmath=REASSOCIATE)
def project(  # type: ignore[no-untyped-def]
    vectors, mean, axes, transposed, depths, start, stop, coordinates, squared
):
    """Rows start to stop of `vectors` → `coordinates`, `squared` from row 0 on. Four at a time share the axes."""
    dimension, count = axes.shape
    rest = np.empty((4, dimension), np.float32)
    along = np.empty((4, count), np.float32)
    for first in range(start, stop, 4):
        along[:] = 0
        for r in range(4):
            for d in range(dimension):
                rest[r, d] = vectors[min(first + r, stop - 1), d] - mean[d]
        for d in range(dimension):
            x0, x1, x2, x3 = rest[0, d], rest[1, d], rest[2, d], rest[3, d]
            for k in range(count):
                axis = axes[d, k]
                along[0, k] += x0 * axis
                along[1, k] += x1 * axis
                along[2, k] += x2 * axis
                along[3, k] += x3 * axis
        for r in range(min(4, stop - first)):
            squared[first - start + r] = _norm(rest[r])
        # what the axes leave, as a vector: ‖x‖² − Σ x_k² would cancel
        for k in range(count):
            x0, x1, x2, x3 = along[0, k], along[1, k], along[2, k], along[3, k]
            for d in range(dimension):
                axis = transposed[k, d]
                rest[0, d] -= x0 * axis
                rest[1, d] -= x1 * axis
                rest[2, d] -= x2 * axis
                rest[3, d] -= x3 * axis
        for r in range(min(4, stop - first)):
            _write(along[r], _norm(rest[r]), depths, coordinates[first - start + r])


@jit(fastmath=REASSOCIATE)
def _norm(values):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for d in range(len(values)):
        total += values[d] * values[d]
    return total


@jit()
def _write(along, residual, depths, out):  # type: ignore[no-untyped-def]
    """Coordinates of each stage and, behind them, the norm of what all later coordinates and the rest hold."""
    column, k = len(out) - 1, len(along)
    for stage in range(len(depths) - 1, -1, -1):
        out[column] = np.sqrt(residual)
        column -= 1
        for _ in range(depths[stage]):
            k -= 1
            out[column] = along[k]
            residual += along[k] * along[k]
            column -= 1


@jit(inline="always")
def lay_query(coordinates, q0, q1, q2, group, row):  # type: ignore[no-untyped-def]
    """Write the coordinates of a query, times −2, into a tile of queries."""
    for k in range(q0.shape[1]):
        q0[group, k, row] = -2 * coordinates[k]
    column = q0.shape[1]
    for k in range(q1.shape[1]):
        q1[group, k, row] = -2 * coordinates[column + k]
    column += q1.shape[1]
    for k in range(q2.shape[1]):
        q2[group, k, row] = -2 * coordinates[column + k]


@jit(inline="always")
def margin(rounding, squared, largest):  # type: ignore[no-untyped-def]
    """How far rounding may lift a squared bound between vectors with squared norms `squared` and `largest`."""
    reach = np.sqrt(squared) + np.sqrt(largest)
    return np.float32(rounding) * reach * reach


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


@jit(fastmath=REASSOCIATE)
def squared_distance(a, b):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for d in range(len(a)):
        difference = a[d] - b[d]
        total += difference * difference
    return total
