"""Compiled loops of `views.py`: points to pixels with a z-buffer, and features of pixels back to points."""

from __future__ import annotations

import numpy as np

from patchbank._system.numba_jit import jit


@jit()
def cross(points, known, valid, normals):  # type: ignore[no-untyped-def]
    """Fill H×W×3 unit normals: y × x of the differences of known neighbours, towards a camera that looks along z. The
    point itself stands in for an unknown neighbour, and one without any along an axis faces the camera; 0 where not
    valid."""
    height, width = valid.shape
    for r in range(height):
        for c in range(width):
            normals[r, c] = 0
            if not valid[r, c]:
                continue
            after_r = r + 1 if r + 1 < height and known[r + 1, c] else r
            after_c = c + 1 if c + 1 < width and known[r, c + 1] else c
            before_r = r - 1 if r > 0 and known[r - 1, c] else r
            before_c = c - 1 if c > 0 and known[r, c - 1] else c
            down_x = points[after_r, c, 0] - points[before_r, c, 0]
            down_y = points[after_r, c, 1] - points[before_r, c, 1]
            down_z = points[after_r, c, 2] - points[before_r, c, 2]
            across_x = points[r, after_c, 0] - points[r, before_c, 0]
            across_y = points[r, after_c, 1] - points[r, before_c, 1]
            across_z = points[r, after_c, 2] - points[r, before_c, 2]
            x = down_y * across_z - down_z * across_y
            y = down_z * across_x - down_x * across_z
            z = down_x * across_y - down_y * across_x
            length = np.sqrt(x * x + y * y + z * z)
            if length > 0:
                normals[r, c, 0], normals[r, c, 1], normals[r, c, 2] = x / length, y / length, z / length
            else:
                normals[r, c, 2] = -1


@jit()
def splat(points, normals, valid, turn, centre, camera, scale, radius, positions, depth, grey):  # type: ignore[no-untyped-def]
    """Turn all points about the centre, project them, and keep the nearest of those that fall on one pixel.

    points, normals: H×W×3. turn: 3×3. camera: (1, fx, fy, cx, cy) of a pinhole, or (0, 1/x, 1/y, 0, 0) of a pitch.
    scale, radius: of rows and of columns: pixels of the view for one of the picture; a point covers the pixels at most
    so far from it. positions: H×W×2, filled with rows and columns. depth, grey: of the view, the first filled with inf.
    """
    for r in range(points.shape[0]):
        for c in range(points.shape[1]):
            if not valid[r, c]:
                positions[r, c] = np.nan
                continue
            x, y, z = points[r, c, 0] - centre[0], points[r, c, 1] - centre[1], points[r, c, 2] - centre[2]
            tx = turn[0, 0] * x + turn[0, 1] * y + turn[0, 2] * z + centre[0]
            ty = turn[1, 0] * x + turn[1, 1] * y + turn[1, 2] * z + centre[1]
            tz = turn[2, 0] * x + turn[2, 1] * y + turn[2, 2] * z + centre[2]
            if camera[0] > 0:
                if tz <= 0:  # behind the camera
                    positions[r, c] = np.nan
                    continue
                tx, ty = tx / tz, ty / tz
            row = np.float32((ty * camera[2] + camera[4] + 0.5) * scale[0] - 0.5)
            column = np.float32((tx * camera[1] + camera[3] + 0.5) * scale[1] - 0.5)
            positions[r, c, 0], positions[r, c, 1] = row, column
            light = -(turn[2, 0] * normals[r, c, 0] + turn[2, 1] * normals[r, c, 1] + turn[2, 2] * normals[r, c, 2])
            top, bottom = max(int(np.ceil(row - radius[0])), 0), min(int(np.ceil(row + radius[0])), depth.shape[0])
            left, right = (
                max(int(np.ceil(column - radius[1])), 0),
                min(int(np.ceil(column + radius[1])), depth.shape[1]),
            )
            for i in range(top, bottom):
                for j in range(left, right):
                    if tz < depth[i, j]:
                        depth[i, j] = tz
                        grey[i, j] = max(light, 0.0)


@jit()
def close(depth, grey, tolerance, closed_depth, image):  # type: ignore[no-untyped-def]
    """Fill each pixel between splats: one that lies deeper by more than the tolerance, or is empty, while two opposite
    neighbours are there and near, for at least two of the four pairs of opposites. It takes their mean."""
    height, width = depth.shape
    for i in range(height):
        for j in range(width):
            own, light = depth[i, j], grey[i, j]
            total_depth = total_grey = 0.0
            pairs = 0
            if 0 < i < height - 1 and 0 < j < width - 1:
                for di, dj in ((0, 1), (1, 0), (1, 1), (1, -1)):
                    one, two = depth[i + di, j + dj], depth[i - di, j - dj]
                    if max(one, two) + tolerance < own and abs(one - two) <= 2 * tolerance:
                        total_depth += one + two
                        total_grey += grey[i + di, j + dj] + grey[i - di, j - dj]
                        pairs += 1
            if pairs >= 2:
                own, light = total_depth / (2 * pairs), total_grey / (2 * pairs)
            closed_depth[i, j] = own
            image[i, j] = np.uint8(255 * min(light, 1.0) + 0.5) if own < np.inf else 0


@jit()
def see(points, valid, turn, centre, positions, depth, tolerance, visible):  # type: ignore[no-untyped-def]
    """Mark the points that lie in the view and not behind another surface."""
    for r in range(points.shape[0]):
        for c in range(points.shape[1]):
            visible[r, c] = False
            if not valid[r, c] or np.isnan(positions[r, c, 0]):
                continue
            i, j = int(np.ceil(positions[r, c, 0] - 0.5)), int(np.ceil(positions[r, c, 1] - 0.5))
            if i < 0 or j < 0 or i >= depth.shape[0] or j >= depth.shape[1]:
                continue
            z = centre[2]
            for k in range(3):
                z += turn[2, k] * (points[r, c, k] - centre[k])
            visible[r, c] = z <= depth[i, j] + tolerance


@jit()
def collect(features, positions, visible, weight, size, cells, out, start, stop):  # type: ignore[no-untyped-def]
    """Add one view's features to the cells of rows start..stop of the grid.

    A cell's points fall on few pixels of the features. So the bilinear weights of its points are added up for each of
    those pixels first, and each pixel is read once.

    features: h×w×D. positions: H×W×2, in the view of `size` (height, width). weight: H×W, of each point. cells: the
    first rows and the first columns of all cells, with the end. out: rows×columns×D.
    """
    height, width, dimension = features.shape
    first_rows, first_columns = cells
    window = np.zeros(height * width)
    for row in range(start, stop):
        for column in range(len(first_columns) - 1):
            top, left, bottom, right, wide = height, width, -1, -1, 0
            for fill in range(2):  # first where the points fall, then how much
                for r in range(first_rows[row], first_rows[row + 1]):
                    for c in range(first_columns[column], first_columns[column + 1]):
                        if not visible[r, c]:
                            continue
                        v = min(max((positions[r, c, 0] + 0.5) * height / size[0] - 0.5, 0.0), height - 1.0)
                        u = min(max((positions[r, c, 1] + 0.5) * width / size[1] - 0.5, 0.0), width - 1.0)
                        i, j = min(int(v), max(height - 2, 0)), min(int(u), max(width - 2, 0))
                        if fill == 0:
                            top, left, bottom, right = min(top, i), min(left, j), max(bottom, i), max(right, j)
                            continue
                        a, b, w = v - i, u - j, weight[r, c]
                        at = (i - top) * wide + j - left
                        window[at] += w * (1 - a) * (1 - b)
                        if b > 0:
                            window[at + 1] += w * (1 - a) * b
                        if a > 0:
                            window[at + wide] += w * a * (1 - b)
                        if a > 0 and b > 0:
                            window[at + wide + 1] += w * a * b
                if bottom < 0:
                    break
                if fill == 0:
                    bottom, right = min(bottom + 2, height), min(right + 2, width)
                    wide = right - left
                    window[: (bottom - top) * wide] = 0
            if bottom < 0:
                continue
            for i in range(top, bottom):
                for j in range(left, right):
                    w = np.float32(window[(i - top) * wide + j - left])
                    if w > 0:
                        for d in range(dimension):
                            out[row, column, d] += w * features[i, j, d]
