"""Files, arrays and PIL images of geometry → `Shape`.

xyz TIFF (MVTec 3D-AD), one-channel depths or heights (PNG, TIFF, NPY, NPZ, PFM, CSV), organised PCD and PLY, and, with
a projection, clouds and STL meshes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchbank.errors import ImageError
from patchbank.sample import Data
from patchbank.shape.camera_fit import Points, camera_of
from patchbank.shape.extent import check_extent, check_points
from patchbank.shape.files.load import about, check_values, load, stored_size
from patchbank.shape.files.stored import Cloud, Grid, Mesh, Stored
from patchbank.shape.format import DepthFormat
from patchbank.shape.projection import project_cloud, project_mesh
from patchbank.shape.shape import Pinhole, Pitch, Shape

_PLAIN = DepthFormat()
_BLOCK = 1 << 20  # pixels that are converted at a time
_SAMPLED = 12_000  # points that tell the unit and the camera
_METRES_ACROSS = 3.0  # points that lie less far apart are in metres
_METRES_AWAY = 20.0  # depths that are nowhere larger are in metres
_WITHOUT_GRID = (
    "has points in no order of rows and columns: save it organised, or give a projection, the height and width of the "
    "grid that it is to be seen on, such as (400, 400)"
)
_PARALLEL = Pitch(1.0, 1.0)  # of depths whose camera nobody gave


def read_shape(data: Data, format: DepthFormat = _PLAIN, name: str = "the geometry") -> Shape:
    """The geometry of a source.

    Args:
        data: a path, the bytes of a file, an H×W or H×W×3 array, or a PIL image.
        format: what its numbers mean. `decide_unit` turns the unit "auto" into one for all parts of a kind.
        name: for the messages.

    Raises:
        ImageError: one sentence for what cannot be read, for points that no one camera has seen, for fewer than 5 %
            valid pixels, an extent below 1 µm or above 100 m, and for strips of less than 4 pixels.
    """
    stored = check_values(load(data, name), name)
    with about(name):
        unit = format.millimetres or (1000.0 if _is_in_metres(stored, format) else 1.0)
        if isinstance(stored, Grid):
            return _of_grid(stored.values, format, unit)
        shape = _projected(stored, format, unit)
        check_points(shape.valid, 0.0)
        return check_extent(shape)


def decide_unit(data: Data, format: DepthFormat = _PLAIN, name: str = "the geometry") -> DepthFormat:
    """The format with the unit that "auto" is for this source, for a model to keep. Raises as `read_shape`."""
    if format.millimetres is not None:
        return format
    stored = check_values(load(data, name), name)
    with about(name):
        return format.in_unit("m" if _is_in_metres(stored, format) else "mm")


def shape_size(data: Data, format: DepthFormat = _PLAIN, name: str = "the geometry") -> tuple[int, int]:
    """(height, width) of the shape that `read_shape` gives, from the header where the kind allows. Raises
    `ImageError`."""
    size = stored_size(data, name) or format.projection
    if size is None:
        raise ImageError(f"{name}: {_WITHOUT_GRID}")
    return size


# ---- stored numbers → millimetres ------------------------------------------------------------------------------------


def _of_grid(values: NDArray[Any], format: DepthFormat, unit: float) -> Shape:
    """From H×W or H×W×3 stored numbers; `unit`: millimetres of one."""
    size = values.shape[:2]
    z, valid = np.empty(size, np.float32), np.empty(size, bool)
    for rows in _blocks(size):
        part = values[rows]
        with np.errstate(over="ignore", invalid="ignore"):
            z[rows] = _z(part if part.ndim == 2 else part[..., 2], format, unit)
            valid[rows] = _is_point(part, format.invalid) & np.isfinite(z[rows])
    check_points(valid, 0.0)
    camera = format.camera or _PARALLEL
    if values.ndim == 3:
        camera = camera_of(_sampled(values, z, valid, format.scale * unit), format.camera)
    if isinstance(camera, Pinhole):
        behind = valid & (z <= 0)
        valid &= ~behind
        check_points(valid, float(behind.mean()))
    z[~valid] = 0
    return check_extent(Shape(z, valid, camera))


def _z(stored: NDArray[Any], format: DepthFormat, unit: float) -> NDArray[np.float64]:
    """Millimetres away from the camera."""
    z: NDArray[np.float64] = (stored.astype(np.float64) * format.scale + format.offset) * unit
    return -z if format.axis == "height" else z


def _is_point(values: NDArray[Any], invalid: tuple[float, ...]) -> NDArray[np.bool_]:
    """Which of H×W or H×W×3 stored numbers are a point."""
    if values.ndim == 2:
        there: NDArray[np.bool_] = np.isfinite(values) & ~_is_any(values, invalid)
        return there
    axes = np.moveaxis(values, 2, 0)
    finite: NDArray[np.bool_] = np.logical_and.reduce([np.isfinite(axis) for axis in axes])
    missing: NDArray[np.bool_] = np.logical_and.reduce([_is_any(axis, invalid) for axis in axes])
    return finite & ~missing & ~_is_any(axes[2], [value for value in invalid if value])


def _is_any(values: NDArray[Any], wanted: Iterable[float]) -> NDArray[np.bool_]:
    found = np.zeros(values.shape, bool)
    for value in wanted:
        found |= values == value
    return found


def _sampled(values: NDArray[Any], z: NDArray[np.float32], valid: NDArray[np.bool_], scale: float) -> Points:
    """Some of the valid points of a grid."""
    some = _some(valid.shape)
    at, across = np.nonzero(valid[some])
    rows, columns = some[0][at, 0], some[1][0, across]
    xyz = values[rows, columns].astype(np.float64) * scale
    xyz[:, 2] = z[rows, columns]
    return Points(xyz, columns.astype(np.float64), rows.astype(np.float64))


def _some(size: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """An index of `_SAMPLED` pixels of a grid, or all: some rows and columns, drawn, since what is missing may have a
    pattern."""
    generator = np.random.default_rng(0)
    rows = min(size[0], math.isqrt(_SAMPLED))
    columns = min(size[1], _SAMPLED // rows)
    drawn = (np.sort(generator.choice(side, n, replace=False)) for side, n in ((size[0], rows), (size[1], columns)))
    return next(drawn)[:, None], next(drawn)[None]


def _blocks(size: tuple[int, ...]) -> Iterator[slice]:
    rows = max(1, _BLOCK // size[1])
    return (slice(top, top + rows) for top in range(0, size[0], rows))


def _is_in_metres(stored: Stored, format: DepthFormat) -> bool:
    """What the unit "auto" means: see `DepthFormat`."""
    if not isinstance(stored, Grid):
        points = stored.points if isinstance(stored, Cloud) else stored.corners.reshape(-1, 3)
        return _is_small(points[np.isfinite(points).all(axis=1)] * format.scale)
    values = stored.values
    if values.dtype.kind != "f":
        return False
    some = values[_some(values.shape)]
    with np.errstate(over="ignore"):
        some = some[_is_point(some, format.invalid)].astype(np.float64) * format.scale
    if values.ndim == 3:
        return _is_small(some)
    away = np.abs(some + format.offset)
    return format.axis == "depth" and len(away) > 0 and float(np.percentile(away, 99)) <= _METRES_AWAY


def _is_small(points: NDArray[np.float64]) -> bool:
    """Whether N×3 points lie so near each other that they are in metres; a few that do not are not looked at."""
    if not len(points):
        return False
    low, high = np.percentile(points[:, :2], [0.5, 99.5], axis=0)
    return float((high - low).max()) < _METRES_ACROSS


# ---- clouds and meshes -----------------------------------------------------------------------------------------------


def _projected(stored: Cloud | Mesh, format: DepthFormat, unit: float) -> Shape:
    """A cloud or mesh on the grid that the format wants."""
    if format.projection is None:
        raise ImageError(_WITHOUT_GRID)
    points = stored.points if isinstance(stored, Cloud) else stored.corners
    xyz = points * (format.scale * unit)
    with np.errstate(over="ignore", invalid="ignore"):
        xyz[..., 2] = _z(points[..., 2], format, unit)
    pitch = format.camera if isinstance(format.camera, Pitch) else None
    project = project_cloud if isinstance(stored, Cloud) else project_mesh
    return project(xyz, format.projection, pitch, upwards=format.axis == "height")
