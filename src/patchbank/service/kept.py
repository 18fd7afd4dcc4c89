"""What is kept of an inspection beside its row: the map, small, in the steps of the report's colour scale."""

from __future__ import annotations

import json
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from patchbank.data import opened
from patchbank.errors import ImageError
from patchbank.pictures.heat import STEPS, colour_steps, resample
from patchbank.prediction import Prediction, Region
from patchbank.service.store import Row

_SIDE = 512  # pixels of the longer side of a kept map


def pack_map(values: NDArray[np.float32], threshold: float) -> bytes:
    """An H×W map as a small grey PNG: 0 where nothing was inspected, otherwise the row of the colour table."""
    scale = min(1.0, _SIDE / max(values.shape))
    small = resample(values, (max(1, round(values.shape[0] * scale)), max(1, round(values.shape[1] * scale))))
    steps = np.where(np.isnan(small), 0, np.maximum(colour_steps(small, threshold), 1)).astype(np.uint8)
    _, encoded = cv2.imencode(".png", steps, [cv2.IMWRITE_PNG_COMPRESSION, 2])
    return encoded.tobytes()


def unpack_steps(png: bytes) -> NDArray[np.uint8]:
    """The h×w steps that `pack_map` wrote. Raises `ImageError` where they are torn: files of images are not synced."""
    try:
        with opened(png) as image:
            return np.asarray(image.convert("L"))
    except Exception as error:  # Pillow's readers raise all sorts
        raise ImageError("its map is torn") from error


def unpack_map(png: bytes, threshold: float, size: tuple[int, int]) -> NDArray[np.float32]:
    """The map at `size`, as exact as its colours are; those come out the same."""
    steps = unpack_steps(png)
    if 0 < threshold < math.inf:
        values = (steps - (steps >= STEPS).astype(np.float32) + 0.5) / (STEPS - 1) * threshold
    else:
        values = np.where(steps >= STEPS, threshold + 1, threshold if threshold <= 0 else 0)
    small = np.where(steps == 0, np.nan, values).astype(np.float32)
    return resample(small, size)


def prediction_of(row: Row, png: bytes) -> Prediction:
    """The prediction that a row of the history and its kept map came from."""
    threshold = _number(row["map_threshold"])
    regions = tuple(Region(tuple(r["box"]), r["area"], r["score"]) for r in json.loads(row["regions"]))
    return Prediction(
        path=row["name"],
        score=_number(row["score"]),
        p_value=_number(row["p_value"]),
        threshold=_number(row["threshold"]),
        is_anomalous=bool(row["is_anomalous"]),
        map=unpack_map(png, threshold, (row["height"], row["width"])),
        map_threshold=threshold,
        regions=regions,
        timings=json.loads(row["timings"]),
        channels={name: _number(value) for name, value in json.loads(row["channels"]).items()},
    )


def _number(value: float | None) -> float:
    """The history has no NaN: it comes back as NULL."""
    return math.nan if value is None else value
