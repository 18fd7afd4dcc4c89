"""Shapes and files that several tests read and write."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from patchbank.shape import Camera, Pinhole, Pitch, Shape

PINHOLE = Pinhole(fx=900.0, fy=905.0, cx=23.5, cy=19.25)
SIZE = (40, 48)
BINARIES = ("binary_little_endian", "binary_big_endian")


def part(camera: Camera = PINHOLE, seed: int = 0, missing: float = 0.2, size: tuple[int, int] = SIZE) -> Shape:
    """A bumpy part about 650 mm away, with holes."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[: size[0], : size[1]]
    z = (650 + 4 * np.sin(column / 5) + 3 * np.cos(row / 7) + 0.02 * rng.standard_normal(size)).astype(np.float32)
    valid = rng.random(size) >= missing
    z[~valid] = 0
    return Shape(z, valid, camera)


def heights(seed: int = 0, pitch: float = 0.1) -> Shape:
    """A height map between -5 and 5 mm: z is negative where it is high."""
    seen = part(Pitch(pitch, pitch), seed)
    return Shape(np.where(seen.valid, seen.z - 650, 0).astype(np.float32), seen.valid, seen.camera)


def write_tiff(path: Path, values: NDArray[Any]) -> Path:
    """One channel, or three in the order given."""
    path.write_bytes(tiff_bytes(values))
    return path


def tiff_bytes(values: NDArray[Any]) -> bytes:
    stored = values[..., ::-1] if values.ndim == 3 else values
    done, data = cv2.imencode(".tiff", np.ascontiguousarray(stored), [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    assert done
    return bytes(data)


def png_bytes(values: NDArray[Any]) -> bytes:
    stored = values[..., ::-1] if values.ndim == 3 else values
    done, data = cv2.imencode(".png", np.ascontiguousarray(stored))
    assert done
    return bytes(data)


def pcd_bytes(points: NDArray[Any], coding: str, width: int, height: int) -> bytes:
    """H·W×3 points with an intensity between y and z, to have a field that is not wanted."""
    head = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS x y intensity z\nSIZE 4 4 2 8\nTYPE F F U F\n"
        f"COUNT 1 1 1 1\nWIDTH {width}\nHEIGHT {height}\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(points)}\nDATA {coding}\n"
    ).encode()
    if coding == "ascii":
        rows = (f"{x:.9g} {y:.9g} 7 {z:.17g}\n" for x, y, z in points.tolist())
        return head + "".join(rows).encode()
    return head + b"".join(struct.pack("<ffHd", x, y, 7, z) for x, y, z in points.tolist())


def ply_bytes(points: NDArray[Any], coding: str, size: tuple[int, int] | None = None) -> bytes:
    """N×3 points with colours before them, an element before the points, and one of lists behind them."""
    grid = "" if size is None else f"obj_info width {size[1]}\ncomment height = {size[0]}\n"
    head = (
        f"ply\nformat {coding} 1.0\n{grid}element camera 1\nproperty float f\nproperty uchar n\n"
        f"element vertex {len(points)}\nproperty uchar red\nproperty float x\nproperty double y\nproperty float32 z\n"
        "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    ).encode()
    if coding == "ascii":
        rows = (f"200 {x:.9g} {y:.17g} {z:.9g}\n" for x, y, z in points.tolist())
        return head + b"1.5 3\n" + "".join(rows).encode() + b"3 0 1 2\n"
    order = "<" if coding == "binary_little_endian" else ">"
    rows = [struct.pack(f"{order}Bfdf", 200, x, y, z) for x, y, z in points.tolist()]
    return head + struct.pack(f"{order}fB", 1.5, 3) + b"".join(rows) + struct.pack(f"{order}Biii", 3, 0, 1, 2)


def stl_bytes(corners: NDArray[Any], text: bool) -> bytes:
    """N×3×3 corners as a mesh."""
    if text:
        facets = [
            "facet normal 0 0 1\nouter loop\n"
            + "".join(f"vertex {x:.9g} {y:.9g} {z:.9g}\n" for x, y, z in triangle)
            + "endloop\nendfacet\n"
            for triangle in corners.tolist()
        ]
        return ("solid part\n" + "".join(facets) + "endsolid part\n").encode()
    rows = [struct.pack("<12fH", 0, 0, 1, *triangle.ravel().tolist(), 0) for triangle in corners]
    return b"\0" * 80 + struct.pack("<I", len(corners)) + b"".join(rows)


def npy_bytes(values: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def npz_bytes(**arrays: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def pfm_bytes(values: NDArray[Any], order: str) -> bytes:
    kind = b"PF" if values.ndim == 3 else b"Pf"
    scale = b"-1.0" if order == "<" else b"1.0"
    size = f"{values.shape[1]} {values.shape[0]}".encode()
    return kind + b"\n" + size + b"\n" + scale + b"\n" + values[::-1].astype(f"{order}f4").tobytes()


def organised(shape: Shape, coding: str) -> bytes:
    """A PLY or PCD with a point for each pixel, NaN where there is none."""
    points = shape.xyz().astype(np.float64).reshape(-1, 3)
    points[~shape.valid.ravel()] = np.nan
    if coding.startswith("pcd "):
        return pcd_bytes(points, coding.removeprefix("pcd "), shape.size[1], shape.size[0])
    return ply_bytes(points, coding.removeprefix("ply "), shape.size)


def table_bytes(values: NDArray[Any], divider: str, comma: bool = False, end: str = "\n", after: str = "") -> bytes:
    rows = (divider.join("" if np.isnan(v) else repr(float(v)) for v in row) + after for row in values)
    text = end.join(rows) + end
    return (text.replace(".", ",") if comma else text).encode()


def same(found: Shape, expected: Shape, tolerance: float = 1e-4) -> None:
    """Assert that two shapes have the same points, in millimetres."""
    assert found.size == expected.size
    np.testing.assert_array_equal(found.valid, expected.valid)
    np.testing.assert_allclose(found.z, expected.z, atol=tolerance, rtol=0)
    assert (found.z[~found.valid] == 0).all()
    if isinstance(expected.camera, Pinhole):
        np.testing.assert_allclose(found.xyz(), expected.xyz(), atol=tolerance, rtol=0)
