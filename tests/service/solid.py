"""A tiny model of picture and geometry, and parts to inspect with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from patchbank import PatchCore
from patchbank.demo.solid import draw_solid
from patchbank.errors import PatchbankWarning

SIZE = 96


def encoded(ending: str, values: np.ndarray) -> bytes:
    done, data = cv2.imencode(ending, values)
    assert done
    return bytes(data.tobytes())


def part(seed: int, *, bad: bool = False) -> dict[str, bytes]:
    """The files of a drawn plate by channel; a bad one has a hill that no other has."""
    drawn = draw_solid("plate", None, np.random.default_rng(seed), SIZE)
    xyz = drawn.shape.xyz()
    if bad:
        hill = np.zeros((SIZE, SIZE), np.float32)
        cv2.circle(hill, (SIZE // 2, SIZE // 2), SIZE // 8, 1.0, -1)
        xyz *= (1 - 0.04 * cv2.GaussianBlur(hill, (0, 0), 2))[..., None]  # along the rays
    return {"rgb": encoded(".png", drawn.rgb[..., ::-1]), "xyz": encoded(".tiff", xyz[..., ::-1] / np.float32(1000))}


def write(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    """folder/rgb/NAME.png and folder/xyz/NAME.tiff; gives the picture's."""
    for channel, ending in (("rgb", "png"), ("xyz", "tiff")):
        (folder / channel).mkdir(parents=True, exist_ok=True)
        (folder / channel / f"{name}.{ending}").write_bytes(files[channel])
    return folder / "rgb" / f"{name}.png"


def fit(folder: Path, **options: Any) -> PatchCore:
    """A model of eight parts below `folder`, random weights, small images."""
    for seed in range(8):
        write(folder, f"{seed:03}", part(seed))
    given = {"weights": "random", "image_size": 64, "bank_size": 60, "threads": 1, "false_alarm_rate": 0.2, **options}
    with pytest.warns(PatchbankWarning):
        return PatchCore(**given).fit(folder)
