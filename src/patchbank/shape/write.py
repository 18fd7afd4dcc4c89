"""`Shape` → files that other programs open. Each is complete under its name, or not there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from patchbank._system.files import replacing
from patchbank.errors import OptionError
from patchbank.shape.shape import Shape

Colours = NDArray[np.uint8]
_METRES = np.float32(1e-3)
_TOP = 65535


def write_xyz(path: Path, shape: Shape) -> None:
    """A TIFF of H×W×3 float32 points in metres, as MVTec 3D-AD has them; 0 0 0 where there is none."""
    points = shape.xyz() * _METRES
    _write_picture(path, ".tiff", points[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 1])  # 1: none; blue comes first


def write_depth_png(path: Path, shape: Shape, unit_mm: float) -> None:
    """A PNG of H×W depths in whole units of so many millimetres, 16 bits; 0 where there is none. Raises `OptionError`
    where a depth is not within 1 and 65535 units."""
    if not (unit_mm > 0 and np.isfinite(unit_mm)):
        raise OptionError(f"unit_mm must be the millimetres of one unit, not {unit_mm!r}")
    units = np.rint(shape.z / unit_mm)
    there = units[shape.valid]
    if len(there) and not (there.min() >= 1 and there.max() <= _TOP):
        raise OptionError(
            f"depths from {shape.z[shape.valid].min():.6g} to {shape.z[shape.valid].max():.6g} mm are not within 1 and "
            f"{_TOP} units of {unit_mm:g} mm: choose another unit_mm, or write points (write_xyz)"
        )
    _write_picture(path, ".png", np.where(shape.valid, units, 0).astype(np.uint16), [])


def write_ply(
    path: Path,
    shape: Shape,
    rgb: Colours | None = None,
    scalars: Mapping[str, NDArray[np.float32]] | None = None,
) -> None:
    """A binary PLY of the valid points in millimetres.

    Args:
        rgb: H×W×3 colours.
        scalars: H×W values of each point by the name that viewers show, such as "anomaly".

    Raises:
        OptionError: colours or values of another size, or a name that is not one word.
    """
    scalars = scalars or {}
    _check(shape, rgb, scalars)
    columns: list[tuple[str, str, NDArray[Any]]] = [
        (name, "float", values) for name, values in zip("xyz", np.moveaxis(shape.xyz(), 2, 0), strict=True)
    ]
    if rgb is not None:
        columns += [(name, "uchar", rgb[..., i]) for i, name in enumerate(("red", "green", "blue"))]
    columns += [(name, "float", values) for name, values in scalars.items()]
    vertices = np.empty(
        int(np.count_nonzero(shape.valid)), [(name, "u1" if kind == "uchar" else "<f4") for name, kind, _ in columns]
    )
    for name, _, values in columns:
        vertices[name] = values[shape.valid]
    lines = [
        "ply", "format binary_little_endian 1.0", "comment millimetres", f"element vertex {len(vertices)}",
        *(f"property {kind} {name}" for name, kind, _ in columns), "end_header", "",
    ]  # fmt: skip
    _write(path, "\n".join(lines).encode(), vertices)


def write_pcd(path: Path, shape: Shape, rgb: Colours | None = None) -> None:
    """An organised binary PCD of all pixels, in metres as the Point Cloud Library has them; NaN where there is no
    point. `rgb`: H×W×3 colours. Raises `OptionError` for colours of another size."""
    _check(shape, rgb, {})
    height, width = shape.size
    fields = ["x", "y", "z", *(["rgb"] if rgb is not None else [])]
    points = np.empty((height, width, len(fields)), "<f4")
    points[..., :3] = shape.xyz() * _METRES
    points[~shape.valid, :3] = np.nan
    if rgb is not None:
        red, green, blue = np.moveaxis(rgb.astype("<u4"), 2, 0)
        points.view("<u4")[..., 3] = red << 16 | green << 8 | blue  # the library keeps them in the bits of a number
    ones = len(fields)
    lines = [
        "# .PCD v0.7 - Point Cloud Data file format", "VERSION 0.7", f"FIELDS {' '.join(fields)}",
        f"SIZE{' 4' * ones}", f"TYPE{' F' * ones}", f"COUNT{' 1' * ones}", f"WIDTH {width}", f"HEIGHT {height}",
        "VIEWPOINT 0 0 0 1 0 0 0", f"POINTS {height * width}", "DATA binary", "",
    ]  # fmt: skip
    _write(path, "\n".join(lines).encode(), points)


def _check(shape: Shape, rgb: Colours | None, scalars: Mapping[str, NDArray[np.float32]]) -> None:
    if rgb is not None and (rgb.shape != (*shape.size, 3) or rgb.dtype != np.uint8):
        raise OptionError(f"rgb must be {shape.size[0]}×{shape.size[1]}×3 of uint8, as the shape is, not {rgb.shape}")
    for name, values in scalars.items():
        if not name.isascii() or not name.isidentifier() or name in ("x", "y", "z", "red", "green", "blue"):
            raise OptionError(f"scalars must have names of one word that is not taken, not {name!r}")
        if values.shape != shape.size:
            raise OptionError(f"{name} must be {shape.size[0]}×{shape.size[1]}, as the shape is, not {values.shape}")


def _write(path: Path, header: bytes, records: NDArray[Any]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(header)
        file.write(np.ascontiguousarray(records).data)


def _write_picture(path: Path, ending: str, values: NDArray[Any], options: list[int]) -> None:
    encoded = cv2.imencode(ending, np.ascontiguousarray(values), options)[1]
    with replacing(path) as temporary:
        temporary.write_bytes(encoded.data)
