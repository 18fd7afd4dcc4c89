"""Textures that anomalies are blended with: generated ones, or pictures from a folder."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from os import PathLike
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from patchbank.data import RGB, Sample, gather, prefetch, read_image
from patchbank.errors import DatasetError, ImageError, OnError, warn
from patchbank.training.anomalies.checks import check_kinds
from patchbank.training.anomalies.fields import FIELDS
from patchbank.training.anomalies.masks import Floats, is_grey

SHUFFLED = "shuffled"
TEXTURE_KINDS = (*FIELDS, SHUFFLED)
_COLOURS = 256  # steps of a palette
_PIECES = (3, 9)  # along each side of a shuffled picture
_SIDE = 256  # pixels of the shorter side of a texture that was read
_MOST = 200  # textures that are kept: about 40 MB
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


class Textures(Protocol):
    """A source of textures."""

    def texture(self, picture: Floats, rng: np.random.Generator) -> Floats:
        """H×W×C in 0..1, as large as the picture (H×W×C in 0..1, C is 1 or 3) that it is going to be blended with."""
        ...


@dataclass(frozen=True)
class GeneratedTextures:
    """Textures that need no files.

    Attributes:
        kinds: the ones to draw from, of `TEXTURE_KINDS`, each with the same probability.

    Raises:
        OptionError: a kind is unknown, or there is none.
    """

    kinds: tuple[str, ...] = TEXTURE_KINDS

    def __post_init__(self) -> None:
        check_kinds("texture kinds", self.kinds, TEXTURE_KINDS)

    def texture(self, picture: Floats, rng: np.random.Generator) -> Floats:
        """See `Textures`."""
        kind = self.kinds[rng.integers(len(self.kinds))]
        if kind == SHUFFLED:
            return _shuffled(picture, rng)
        field = FIELDS[kind]((picture.shape[0], picture.shape[1]), rng)
        steps = np.clip(field * (_COLOURS - 1), 0, _COLOURS - 1).astype(np.uint8)
        return np.asarray(_palette(picture, rng)[steps])


def _palette(picture: Floats, rng: np.random.Generator) -> Floats:
    """256×C colours from one to another, through a third one between them.

    Half of the palettes have any colours, pale ones as often as strong ones. The others vary colours of the picture, as
    dirt, rust and wear do. Those of a grey picture are grey: a colour would give the anomaly away.
    """
    channels = picture.shape[2]
    free = 1 if is_grey(picture) else channels
    stops: NDArray[np.floating[Any]]
    if rng.random() < 0.5:
        stops = rng.random((3, free))
        stops += rng.random() * (stops.mean(axis=1, keepdims=True) - stops)
    else:
        rows, columns = rng.integers(picture.shape[0], size=3), rng.integers(picture.shape[1], size=3)
        stops = picture[rows, columns, :free] * rng.uniform(0.3, 1.5) + rng.uniform(-0.3, 0.3, free)
    stops = np.broadcast_to(stops, (3, channels))
    at = np.linspace(0, 2, _COLOURS)
    table = np.stack([np.interp(at, range(3), np.clip(stops[:, c], 0, 1)) for c in range(channels)], axis=1)
    return table.astype(np.float32)


def _shuffled(picture: Floats, rng: np.random.Generator) -> Floats:
    """Pieces of the picture itself, each from another place, some of them mirrored."""
    height, width = picture.shape[:2]
    texture = np.empty_like(picture)
    rows, columns = (np.linspace(0, side, int(rng.integers(*_PIECES)) + 1).astype(int) for side in (height, width))
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            y, x = rng.integers(height - (bottom - top) + 1), rng.integers(width - (right - left) + 1)
            piece = picture[y : y + bottom - top, x : x + right - left]
            texture[top:bottom, left:right] = piece[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
    return texture


@dataclass(frozen=True, eq=False)
class PictureTextures:
    """Textures that are parts of pictures. `read_textures` makes them from a folder.

    Attributes:
        pictures: each H×W×3 uint8, of any size.
    """

    pictures: tuple[NDArray[np.uint8], ...]

    def texture(self, picture: Floats, rng: np.random.Generator) -> Floats:
        """A random part of a random picture, mirrored or turned by a quarter, lighter or darker. See `Textures`."""
        source = self.pictures[rng.integers(len(self.pictures))]
        share = rng.uniform(0.5, 1)
        height, width = (max(round(side * share), 1) for side in source.shape[:2])
        top, left = rng.integers(source.shape[0] - height + 1), rng.integers(source.shape[1] - width + 1)
        part = source[top : top + height, left : left + width]
        part = np.rot90(part[:: rng.choice((-1, 1))], int(rng.integers(4)))
        size = (picture.shape[1], picture.shape[0])
        values = cv2.resize(np.ascontiguousarray(part), size, interpolation=cv2.INTER_LINEAR).astype(np.float32)
        values = np.clip(values * np.float32(rng.uniform(0.7, 1.3) / 255) + np.float32(rng.uniform(-0.1, 0.1)), 0, 1)
        if is_grey(picture):
            values = np.repeat((values @ _LUMA)[..., None], picture.shape[2], axis=2)
        return np.asarray(values)


def read_textures(folder: str | PathLike[str], on_error: OnError = warn) -> PictureTextures:
    """Read the pictures of a folder and its sub-folders as textures.

    At most 200 pictures, evenly spread over the sorted names, are kept at a shorter side of at most 256 pixels.

    Args:
        folder: holds image files of any kind that `patchbank.data` reads.
        on_error: hears of files that cannot be read; the others are used.

    Raises:
        DatasetError: the folder is missing, holds no images, or none of them can be read.
    """
    sources = gather(folder, on_error)
    sources = [sources[i] for i in np.linspace(0, len(sources) - 1, min(_MOST, len(sources))).astype(int)]
    pictures: list[NDArray[np.uint8]] = []
    for source, found in zip(sources, prefetch(_read, sources), strict=True):
        if isinstance(found, ImageError):
            on_error(source.name, found)
        else:
            pictures.append(found)
    if not pictures:
        raise DatasetError(f"{folder}: none of its {len(sources)} images can be read, so it gives no textures")
    return PictureTextures(tuple(pictures))


def textures_of(folder: str | PathLike[str] | None, on_error: OnError = warn) -> Textures:
    """Those of a folder (`read_textures`); generated ones where none is given."""
    return GeneratedTextures() if folder is None else read_textures(folder, on_error)


def _read(source: Sample) -> NDArray[np.uint8] | ImageError:
    try:
        rgb: RGB = read_image(source)
    except ImageError as error:
        return error
    height, width = rgb.shape[:2]
    scale = min(_SIDE / min(height, width), 1)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)).astype(np.uint8, copy=False)
