"""A camera from a JSON file: intrinsics, a pitch, or what MVTec 3D-AD has beside its parts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from patchbank._system.files import reason, shown
from patchbank._system.numbers import is_finite
from patchbank.data.opening import open_file
from patchbank.errors import ImageError, OptionError
from patchbank.shape.format import check_camera
from patchbank.shape.shape import Camera, Pinhole, Pitch

_MOST_BYTES = 1 << 20
_NESTED = ("intrinsics", "camera", "camera_matrix", "K", "k")
_WANTED = "fx, fy, cx and cy in pixels, a 3×3 camera_matrix, focus with sx, sy, cx and cy, or pitch in mm"


def read_camera(path: Path) -> Camera:
    """The camera of a JSON file.

    It has fx, fy, cx, cy in pixels, or a 3×3 matrix "camera_matrix" or "K" of them; or focus, sx, sy, cx, cy as MVTec
    3D-AD has them, where fx = focus / sx; or pitch, or pitch_x and pitch_y, in millimetres. They may be nested under
    "intrinsics" or "camera". Raises `OptionError`, one sentence.
    """
    name = shown(path)
    try:
        with open_file(path) as file:
            text = file.read(_MOST_BYTES + 1)
    except (OSError, ImageError) as error:
        raise OptionError(f"{name}: cannot be read as a camera ({reason(error)})") from None
    if len(text) > _MOST_BYTES:
        raise OptionError(f"{name}: is too large for a camera: a JSON file with {_WANTED} is expected")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise OptionError(f"{name}: is not JSON: a camera needs {_WANTED}") from None
    try:
        camera = _camera_of(values)
        if camera is not None:
            check_camera(camera)
    except OptionError as error:
        raise OptionError(f"{name}: {error}") from None
    if camera is None:
        raise OptionError(f"{name}: has no camera: it needs {_WANTED}")
    return camera


def _camera_of(values: Any, depth: int = 0) -> Camera | None:
    """From the content of a file, or of a nested part of it."""
    if not isinstance(values, Mapping):
        return _of_matrix(values)
    focus = next((key for key in ("focus", "focal_length") if key in values), None)
    if "ppx" in values and "ppy" in values:  # as RealSense's own tools write them
        values = {**values, "cx": values["ppx"], "cy": values["ppy"]}
    if {"fx", "fy", "cx", "cy"} <= values.keys():
        return Pinhole(*(_number(values, key) for key in ("fx", "fy", "cx", "cy")))
    if focus and {"sx", "sy", "cx", "cy"} <= values.keys():
        length, sx, sy, cx, cy = (_number(values, key) for key in (focus, "sx", "sy", "cx", "cy"))
        if sx == 0 or sy == 0:
            raise OptionError("sx and sy must be the size of a pixel, in the unit of the focus, not 0")
        return Pinhole(length / sx, length / sy, cx, cy)
    if "pitch" in values:
        return Pitch(_number(values, "pitch"), _number(values, "pitch"))
    if {"pitch_x", "pitch_y"} <= values.keys():
        return Pitch(_number(values, "pitch_x"), _number(values, "pitch_y"))
    nested = (_camera_of(values[key], depth + 1) for key in _NESTED if key in values and depth < 3)
    return next((camera for camera in nested if camera is not None), None)


def _of_matrix(rows: Any) -> Camera | None:
    """From [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], also as one list of nine numbers."""
    if isinstance(rows, list) and len(rows) == 3 and all(isinstance(row, list) and len(row) == 3 for row in rows):
        rows = [value for row in rows for value in row]
    if not isinstance(rows, list) or len(rows) != 9 or isinstance(rows[0], list):
        return None
    numbers = dict(zip(("fx", "skew", "cx", "_", "fy", "cy"), rows, strict=False))
    return Pinhole(*(_number(numbers, key) for key in ("fx", "fy", "cx", "cy")))


def _number(values: Mapping[str, Any], key: str) -> float:
    value = values[key]
    if not is_finite(value):
        raise OptionError(f"its {key} must be a finite number, not {str(value)[:40]!r}")
    return float(value)
