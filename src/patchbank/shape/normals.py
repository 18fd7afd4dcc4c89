"""Normals of points by the eigenvectors of their neighbourhood: what features of points are computed from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchbank._system.numba_jit import jit
from patchbank._system.threads import spread
from patchbank.errors import OptionError

_GRAIN = 16  # rows


def box_normals(
    xyz: NDArray[np.floating], valid: NDArray[np.bool_], radius: int, pinhole: bool = False
) -> NDArray[np.float32]:
    """The normal of the plane that fits the valid points of a window best, for each valid point.

    It is the eigenvector of the smallest eigenvalue of the window's covariance, from sums of 1, p and ppᵀ.

    Args:
        xyz: H×W×3 points in the camera's frame.
        valid: H×W, which points count.
        radius: The window has 2·radius + 1 pixels a side, 1 or more.
        pinhole: Whether rays meet in the origin, or are parallel to z. Normals are turned to the camera accordingly.

    Returns:
        H×W×3 float32 of unit length; (0, 0, −1) where the window's points lie in a line; 0 where not valid.

    Raises:
        OptionError: The radius is below 1.
    """
    if radius < 1:
        raise OptionError(f"radius {radius}: the window of a normal reaches 1 pixel or more to each side")
    mean = xyz[valid].mean(0, dtype=np.float64) if valid.any() else np.zeros(3)
    normals = np.zeros((*valid.shape, 3), np.float32)
    spread(
        lambda start, stop: _fill_normals(xyz, valid, mean, radius, pinhole, normals, start, stop), len(valid), _GRAIN
    )
    return normals


@jit(error_model="numpy")
def _fill_normals(xyz, valid, mean, radius, pinhole, normals, start, stop):  # type: ignore[no-untyped-def]
    height, width = valid.shape
    columns = np.zeros((width, 10))  # sums over the window's rows, for each column
    for row in range(max(start - radius, 0), min(start + radius, height)):
        _add(xyz, valid, mean, row, 1.0, columns)
    for row in range(start, stop):
        if row + radius < height:
            _add(xyz, valid, mean, row + radius, 1.0, columns)
        if row - radius - 1 >= max(start - radius, 0):
            _add(xyz, valid, mean, row - radius - 1, -1.0, columns)
        box = np.zeros(10)
        for column in range(min(radius, width)):
            for k in range(10):
                box[k] += columns[column, k]
        for column in range(width):
            if column + radius < width:
                for k in range(10):
                    box[k] += columns[column + radius, k]
            if column - radius - 1 >= 0:
                for k in range(10):
                    box[k] -= columns[column - radius - 1, k]
            if not valid[row, column]:
                continue
            nx, ny, nz = _normal_of(box)
            if pinhole:
                seen = nx * xyz[row, column, 0] + ny * xyz[row, column, 1] + nz * xyz[row, column, 2]
            else:
                seen = nz
            sign = -1.0 if seen > 0 else 1.0
            normals[row, column, 0], normals[row, column, 1] = sign * nx, sign * ny
            normals[row, column, 2] = sign * nz


@jit()
def _add(xyz, valid, mean, row, sign, columns):  # type: ignore[no-untyped-def]
    """Add a row of points to the sums of its columns, or take it away."""
    for column in range(valid.shape[1]):
        if valid[row, column]:
            x = xyz[row, column, 0] - mean[0]
            y = xyz[row, column, 1] - mean[1]
            z = xyz[row, column, 2] - mean[2]
            sums = columns[column]
            sums[0] += sign
            sums[1] += sign * x
            sums[2] += sign * y
            sums[3] += sign * z
            sums[4] += sign * x * x
            sums[5] += sign * x * y
            sums[6] += sign * x * z
            sums[7] += sign * y * y
            sums[8] += sign * y * z
            sums[9] += sign * z * z


@jit(error_model="numpy")
def _normal_of(box):  # type: ignore[no-untyped-def]
    """Smallest eigenvector of a 3×3 covariance in closed form: the eigenvalue by trigonometry (Smith 1961), the vector
    as the longest cross product of two rows of A − λI."""
    n = box[0]
    mx, my, mz = box[1] / n, box[2] / n, box[3] / n
    xx, xy, xz = box[4] / n - mx * mx, box[5] / n - mx * my, box[6] / n - mx * mz
    yy, yz, zz = box[7] / n - my * my, box[8] / n - my * mz, box[9] / n - mz * mz
    third = (xx + yy + zz) / 3
    a, b, c = xx - third, yy - third, zz - third
    p = np.sqrt((a * a + b * b + c * c + 2 * (xy * xy + xz * xz + yz * yz)) / 6)
    if n < 3 or not p > 0:
        return 0.0, 0.0, -1.0
    r = (a * (b * c - yz * yz) - xy * (xy * c - yz * xz) + xz * (xy * yz - b * xz)) / (2 * p * p * p)
    smallest = 2 * p * np.cos(np.arccos(min(max(r, -1.0), 1.0)) / 3 + 2 * np.pi / 3)
    a, b, c = a - smallest, b - smallest, c - smallest
    x0, y0, z0 = xy * yz - xz * b, xz * xy - a * yz, a * b - xy * xy
    x1, y1, z1 = xy * c - xz * yz, xz * xz - a * c, a * yz - xy * xz
    x2, y2, z2 = b * c - yz * yz, yz * xz - xy * c, xy * yz - b * xz
    d0, d1, d2 = x0 * x0 + y0 * y0 + z0 * z0, x1 * x1 + y1 * y1 + z1 * z1, x2 * x2 + y2 * y2 + z2 * z2
    if d1 > d0 and d1 >= d2:
        x0, y0, z0, d0 = x1, y1, z1, d1
    elif d2 > d0:
        x0, y0, z0, d0 = x2, y2, z2, d2
    length = np.sqrt(d0)
    if length <= 1e-9 * p * p:  # a line of points
        return 0.0, 0.0, -1.0
    return x0 / length, y0 / length, z0 / length
