"""Compiled loops over the pixel grid of a shape. Each fills rows `start` to `stop` of what it is given."""

from __future__ import annotations

import numpy as np

from patchbank._system.numba_jit import jit

LEAST_AREA = 0.25  # of a pixel's area: what a pixel covers of the plane is taken for at least that


@jit()
def to_plane(xyz, valid, origin, frame, out, start, stop):  # type: ignore[no-untyped-def]
    """H×W×3 points → `out` H×W×4: x, y, height in the plane's frame and 1; all 0 where not valid."""
    for row in range(start, stop):
        for column in range(xyz.shape[1]):
            if not valid[row, column]:
                out[row, column, :] = 0
                continue
            x = xyz[row, column, 0] - origin[0]
            y = xyz[row, column, 1] - origin[1]
            z = xyz[row, column, 2] - origin[2]
            for axis in range(3):
                out[row, column, axis] = frame[axis, 0] * x + frame[axis, 1] * y + frame[axis, 2] * z
            out[row, column, 3] = 1


@jit(error_model="numpy")
def grid_normals(sums, valid, eye, normals, out, start, stop):  # type: ignore[no-untyped-def]
    """Cross product of the grid's gradients, turned to the camera.

    `sums`: H×W×4, weighted sums of x, y, height and the sum of weights. `eye`: (4,) homogeneous position of the camera,
    last number 0 for parallel rays. `out`: H×W×4 for the next smoothing: x and y of the normal, x and y of the point.
    """
    height, width = valid.shape
    for row in range(start, stop):
        above, below = max(row - 1, 0), min(row + 1, height - 1)
        for column in range(width):
            if not valid[row, column]:
                out[row, column, :] = 0
                continue
            left, right = max(column - 1, 0), min(column + 1, width - 1)
            ux, uy, uz = _difference(sums[row, left], sums[row, right])
            vx, vy, vz = _difference(sums[above, column], sums[below, column])
            nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
            length = np.sqrt(nx * nx + ny * ny + nz * nz)
            w = 1.0 / sums[row, column, 3]
            x, y, z = sums[row, column, 0] * w, sums[row, column, 1] * w, sums[row, column, 2] * w
            if length > 0:
                seen = nx * (eye[0] - eye[3] * x) + ny * (eye[1] - eye[3] * y) + nz * (eye[2] - eye[3] * z)
                scale = (1.0 if seen >= 0 else -1.0) / length
                nx, ny, nz = nx * scale, ny * scale, nz * scale
            else:  # a picture of one row or column has no gradient across it
                nx, ny, nz = 0.0, 0.0, 1.0
            normals[row, column, 0], normals[row, column, 1], normals[row, column, 2] = nx, ny, nz
            out[row, column, 0], out[row, column, 1] = nx, ny
            out[row, column, 2], out[row, column, 3] = x, y


@jit()
def _difference(before, after):  # type: ignore[no-untyped-def]
    """Of two weighted means, times both weights: that saves divisions, and changes no direction."""
    a, b = np.float64(before[3]), np.float64(after[3])
    return after[0] * a - before[0] * b, after[1] * a - before[1] * b, after[2] * a - before[2] * b


@jit(error_model="numpy")
def divergence(sums, weights, valid, turn, pitch, curvature, start, stop):  # type: ignore[no-untyped-def]
    """∂n_x/∂x + ∂n_y/∂y times `pitch`, by the chain rule from the gradients of normals and positions along the grid.

    `sums`: H×W×4, weighted sums of n_x, n_y, x, y. `weights`: H×W×4, the last is the sum of weights. `turn`: the sign
    of the grid's area in the plane. Beside a depth step the grid folds: there the area is taken for `LEAST_AREA`.
    """
    height, width = valid.shape
    least = LEAST_AREA * pitch * pitch
    for row in range(start, stop):
        above, below = max(row - 1, 0), min(row + 1, height - 1)
        for column in range(width):
            if not valid[row, column]:
                continue
            left, right = max(column - 1, 0), min(column + 1, width - 1)
            # every term below has one difference along the row and one along the column: factors of these cancel out
            a, b = np.float64(weights[row, left, 3]), np.float64(weights[row, right, 3])
            factor = a * b * (right - left)
            before, after = sums[row, left], sums[row, right]
            nx_u, ny_u = after[0] * a - before[0] * b, after[1] * a - before[1] * b
            x_u, y_u = after[2] * a - before[2] * b, after[3] * a - before[3] * b
            a, b = np.float64(weights[above, column, 3]), np.float64(weights[below, column, 3])
            factor *= a * b * (below - above)
            before, after = sums[above, column], sums[below, column]
            nx_v, ny_v = after[0] * a - before[0] * b, after[1] * a - before[1] * b
            x_v, y_v = after[2] * a - before[2] * b, after[3] * a - before[3] * b
            area = max(turn * (x_u * y_v - x_v * y_u), least * factor)
            total = nx_u * y_v - nx_v * y_u + x_u * ny_v - x_v * ny_u
            curvature[row, column] = turn * pitch * total / area if area > 0 else 0.0


@jit()
def fill(nearest, valid, height, normals, curvature, start, stop):  # type: ignore[no-untyped-def]
    """Give each pixel without a point what its nearest valid pixel has."""
    width = valid.shape[1]
    for row in range(start, stop):
        for column in range(width):
            if not valid[row, column]:
                y, x = nearest[row, column] // width, nearest[row, column] % width
                height[row, column], curvature[row, column] = height[y, x], curvature[y, x]
                for axis in range(3):
                    normals[row, column, axis] = normals[y, x, axis]
