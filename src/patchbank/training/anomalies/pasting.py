"""CutPaste: a piece of the picture, somewhere else (Li et al. 2021, section 2.2 and appendix)."""

from __future__ import annotations

import math

import cv2
import numpy as np

from patchbank.training.anomalies.draws import log_uniform, random_pixel
from patchbank.training.anomalies.masks import Floats, Mask, is_grey

_AREA = (0.02, 0.15)  # of a patch, as a share of the picture
_ASPECT = (0.3, 3.3)  # of a patch, width over height
_SCAR_WIDTH, _SCAR_LENGTH = (2.0, 16.0), (10.0, 25.0)  # pixels of a picture of 256
_SCAR_OF = 256
_TILT = 45.0  # degrees to either side


def patch(picture: Floats, foreground: Mask, jitter: float, rng: np.random.Generator) -> tuple[Floats, Mask]:
    """Paste a rectangle: 2 to 15 % of the picture, 0.3 to 3.3 times as wide as high.

    Args:
        picture: H×W×C in 0..1.
        foreground: H×W, where the middle of the piece is cut and pasted; what lies outside keeps its value.
        jitter: how far contrast and colours of the piece may change, 0.1 in the paper.
        rng: draws all of it.

    Returns:
        The new picture, and the H×W region that was pasted over.
    """
    height, width = foreground.shape
    area = rng.uniform(*_AREA) * height * width
    aspect = log_uniform(*_ASPECT, rng)
    box = min(math.sqrt(area / aspect), height), min(math.sqrt(area * aspect), width)
    return _pasted(picture, foreground, box, 0.0, jitter, rng)


def scar(picture: Floats, foreground: Mask, jitter: float, rng: np.random.Generator) -> tuple[Floats, Mask]:
    """Paste a thin piece, turned by −45 to 45 degrees.

    It is 2 to 16 pixels wide, thin ones more often, and 10 to 25 long in a picture whose longer side has 256 pixels.
    In a larger picture it is larger.
    Arguments and result as for `patch`.
    """
    scale = max(foreground.shape) / _SCAR_OF
    box = rng.uniform(*_SCAR_LENGTH) * scale, log_uniform(*_SCAR_WIDTH, rng) * scale
    return _pasted(picture, foreground, box, rng.uniform(-_TILT, _TILT), jitter, rng)


def _pasted(
    picture: Floats,
    foreground: Mask,
    box: tuple[float, float],
    angle: float,
    jitter: float,
    rng: np.random.Generator,
) -> tuple[Floats, Mask]:
    """Cut an upright box (height, width) in one place, and paste it in another, turned by `angle` degrees."""
    source, target = (random_pixel(foreground, rng) for _ in range(2))
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    reach = [math.ceil((abs(a * box[0]) + abs(b * box[1])) / 2) for a, b in ((cosine, sine), (sine, cosine))]
    rows, columns = (
        slice(max(middle - half, 0), min(middle + half + 1, side))
        for middle, half, side in zip(target, reach, foreground.shape, strict=True)
    )
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - target[0]
    x = np.arange(columns.start, columns.stop, dtype=np.float32) - target[1]
    down, across = cosine * y + sine * x, cosine * x - sine * y  # in the frame of the piece
    region = np.zeros(foreground.shape, bool)
    inside = (np.abs(down) <= box[0] / 2) & (np.abs(across) <= box[1] / 2) & foreground[rows, columns]
    region[rows, columns] = inside
    at_y, at_x = (np.asarray(grid, np.float32) for grid in (down + source[0], across + source[1]))
    piece = cv2.remap(picture, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    piece = _jittered(piece.reshape(*inside.shape, -1), jitter, rng)
    after = picture.copy()
    after[rows, columns] = np.where(inside[..., None], piece, picture[rows, columns])
    return after, region


def _jittered(piece: Floats, strength: float, rng: np.random.Generator) -> Floats:
    """Change the contrast of a piece, and the gain of each of its channels: brightness and hue. Grey stays grey."""
    contrast = 1 + rng.uniform(-strength, strength)
    gains = 1 + rng.uniform(-strength, strength, 1 if is_grey(piece) else piece.shape[2])
    mean = piece.mean(axis=(0, 1))
    values = (mean + (piece - mean) * contrast) * gains
    return np.asarray(np.clip(values, 0, 1), dtype=np.float32)
