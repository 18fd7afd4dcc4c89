"""Regions of interest: which pixels of an image are inspected and learned from."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchbank._system.numbers import is_finite, is_whole
from patchbank.data.opening import opened
from patchbank.errors import ImageError, OptionError

_FARTHEST = 1_000_000  # pixels from the origin: no image is so large, and OpenCV counts no further
Polygon = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class RegionOfInterest:
    """Pixels inside any of the `include` polygons (all, where there are none) and in no `ignore` polygon, corners as
    (x, y) in pixels of the input; and, where there is a `mask` (PNG bytes), not black in it. `size`: the (height,
    width) that images must have, None for any."""

    include: tuple[Polygon, ...] = ()
    ignore: tuple[Polygon, ...] = ()
    mask: bytes = b""
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Raise `OptionError` for corners that are no numbers or far from any image, and for sizes of no image."""
        for polygon in (*self.include, *self.ignore):
            if len(polygon) < 3:
                raise OptionError("a polygon of a region of interest has at least three corners")
            for value in (value for corner in polygon for value in corner):
                if not is_finite(value) or abs(value) > _FARTHEST:
                    raise OptionError(f"a corner of a region of interest is two numbers of pixels, not {value!r}")
        if self.size is not None and not all(is_whole(side) and 1 <= side <= _FARTHEST for side in self.size):
            raise OptionError(f"the size of a region of interest is a height and a width in pixels, not {self.size}")

    @lru_cache(maxsize=16)  # noqa: B019 (frozen, and a model has one)
    def pixels(self, height: int, width: int) -> NDArray[np.bool_]:
        """H×W: which pixels of an image of that size are inspected. Raises `ImageError` for another size than the
        region's own, and where nothing is left."""
        if self.size not in (None, (height, width)):
            raise ImageError(
                f"has {width}×{height} pixels, the region of interest is for {self.size[1]}×{self.size[0]}"
            )
        inspected = _filled(self.include, height, width) if self.include else np.ones((height, width), bool)
        inspected &= ~_filled(self.ignore, height, width)
        if self.mask:
            with opened(self.mask) as image:
                inspected &= np.asarray(image) > 0
        if not inspected.any():
            raise ImageError("lies wholly outside the region of interest")
        return inspected

    def __and__(self, other: RegionOfInterest) -> RegionOfInterest:
        """What lies in both. Raises `OptionError` where that cannot be said without an image."""
        if self == other:
            return self
        if (self.include and other.include) or (self.mask and other.mask) or None not in (self.size, other.size):
            size = self.size or other.size
            if size is None or self.size not in (None, size) or other.size not in (None, size):
                raise OptionError("two regions of interest go together only if one of them has a size")
            both = self.pixels(*size) & other.pixels(*size)
            return RegionOfInterest(mask=_png(both), size=size)
        return RegionOfInterest(
            self.include or other.include, self.ignore + other.ignore, self.mask or other.mask, self.size or other.size
        )

    def state(self) -> dict[str, Any]:
        """As plain values, for the model file."""
        return {
            "include": self.include,
            "ignore": self.ignore,
            "mask": base64.b64encode(self.mask).decode("ascii"),
            "size": self.size,
        }

    @classmethod
    def of(cls, values: dict[str, Any]) -> RegionOfInterest:
        """The inverse of `state`."""
        include, ignore = (tuple(tuple((x, y) for x, y in p) for p in values[key]) for key in ("include", "ignore"))
        size = tuple(values["size"]) if values["size"] else None
        return cls(include, ignore, base64.b64decode(values["mask"]), size)


def read_roi(path: str | PathLike[str]) -> RegionOfInterest:
    """A mask (an image, black where nothing is inspected), or polygons in a JSON file: {"include": [[[x, y], …], …],
    "ignore": […], "size": [height, width]}, each of them optional. Raises `OptionError`."""
    path = Path(path)
    if not path.is_file():
        raise OptionError(f"{path}: no such region of interest (a mask image, or a JSON file with polygons)")
    if path.suffix.lower() == ".json":
        return _from_json(path)
    try:
        with opened(path) as image:
            deep = image.mode.startswith(("I", "F"))  # which Pillow would cut off at 255
            values = np.asarray(image if deep else image.convert("RGB"))
            mask = (values if deep else values.max(axis=2)) > 0
    except Exception as error:  # Pillow's decoders raise all sorts
        raise OptionError(f"{path}: cannot be read as a mask image ({error})") from None
    if not mask.any():
        raise OptionError(f"{path}: is black everywhere, so nothing would be inspected")
    return RegionOfInterest(mask=_png(mask), size=(mask.shape[0], mask.shape[1]))


def _from_json(path: Path) -> RegionOfInterest:
    form = '{"include": [[[x, y], …], …], "ignore": […], "size": [height, width]}'
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if unknown := set(document) - {"include", "ignore", "size"}:
            raise ValueError(f"does not know {', '.join(sorted(unknown))}")
        polygons = [
            tuple(tuple((_number(x), _number(y)) for x, y in polygon) for polygon in document.get(key, []))
            for key in ("include", "ignore")
        ]
        size = document.get("size")
        size = None if size is None else _size(size)
    except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise OptionError(f"{path}: a region of interest in JSON is {form} ({error})") from None
    if not polygons[0] and not polygons[1]:
        raise OptionError(f"{path}: names no polygon; a region of interest in JSON is {form}")
    try:
        return RegionOfInterest(polygons[0], polygons[1], size=size)
    except OptionError as error:
        raise OptionError(f"{path}: {error}") from None


def _number(value: Any) -> float:
    if not is_finite(value):  # JSON of Python has NaN and Infinity
        raise ValueError(f"a corner is two finite numbers, not {value!r}")
    return float(value)


def _size(value: Any) -> tuple[int, int]:
    height, width = value
    if not (is_whole(height) and is_whole(width)):
        raise ValueError(f"size is two whole numbers, not {value!r}")
    return int(height), int(width)


def _filled(polygons: tuple[Polygon, ...], height: int, width: int) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(mask, [np.round(polygon).astype(np.int32)], 1)
    return mask > 0


def _png(mask: NDArray[np.bool_]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    return buffer.getvalue()
