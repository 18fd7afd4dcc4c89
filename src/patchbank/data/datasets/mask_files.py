"""Masks as arrays of the size of their image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from patchbank.data.datasets.dataset import GOOD, LabelledImage
from patchbank.data.listing import list_images
from patchbank.data.opening import opened
from patchbank.errors import DatasetError, ImageError

_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}  # of those that swap the sides


@dataclass(frozen=True)
class Mask:
    """The defective pixels of an image, H×W; whether the mask was of another size, or turned as its image is."""

    pixels: NDArray[np.bool_]
    resized: bool = False
    turned: bool = False


def read_mask(sample: LabelledImage, mask_above: int, size: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Which pixels of `sample` are defective: bool, H×W with `size` = (H, W); None for a defect that has no
    mask file.

    A good part is False everywhere. A mask of the same shape at another scale is resized to `size`, nearest pixel; one
    that lies on its side is turned as the EXIF orientation turns its image. A mask file without any defective pixel is
    legal and comes back as all False. Raises `DatasetError` where a mask file cannot be read, or has another shape.
    """
    if sample.defect == GOOD:
        return np.zeros(size, dtype=bool)
    mask = open_mask(sample, mask_above, size)
    return None if mask is None else mask.pixels


def open_mask(sample: LabelledImage, mask_above: int, size: tuple[int, int]) -> Mask | None:
    """As `read_mask`, for good parts too, with what was done to the mask."""
    if sample.mask is None:
        return None
    files = list_images(sample.mask) if sample.mask.is_dir() else [sample.mask]
    masks = [_open(file, sample.path, mask_above, size) for file in files]
    pixels = np.any([mask.pixels for mask in masks], axis=0) if masks else np.zeros(size, dtype=bool)
    return Mask(pixels, any(mask.resized for mask in masks), any(mask.turned for mask in masks))


def _open(file: Path, image: Path, mask_above: int, size: tuple[int, int]) -> Mask:
    pixels, turned = _pixels(file, mask_above), False
    if not _has_shape(pixels, size) and _has_shape(pixels.T, size) and (turn := _TURNS.get(_orientation(image))):
        pixels, turned = _transposed(pixels, turn), True
    if pixels.shape == size:
        return Mask(pixels, turned=turned)
    if not _has_shape(pixels, size):
        raise DatasetError(
            f"{file}: the mask has {pixels.shape[1]}×{pixels.shape[0]} pixels and its image {size[1]}×{size[0]}, which "
            "is another shape: mark the image as it is seen, or leave the mask out"
        )
    resized = Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return Mask(np.asarray(resized, dtype=bool), resized=True, turned=turned)


def _pixels(file: Path, mask_above: int) -> NDArray[np.bool_]:
    try:
        with opened(file) as stored:
            image = ImageOps.exif_transpose(stored)
            # A colour or palette mask counts by its brightest channel; transparency says nothing about
            # defects.
            grey = image.mode in ("1", "L") or image.mode.startswith(("I", "F"))
            values = np.asarray(image if grey else image.convert("RGB"))
    except (ImageError, OSError, ValueError, SyntaxError) as error:
        raise DatasetError(
            f"{file}: the mask cannot be read as an image ({error}); repair it or leave it out."
        ) from None
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * 255
    return np.asarray((values.max(axis=2) if values.ndim == 3 else values) > mask_above, dtype=bool)


def _orientation(image: Path) -> int:
    """How the stored pixels of an image are to be turned; 1 where it does not say."""
    try:
        with opened(image) as stored:
            return int(stored.getexif().get(_ORIENTATION, 1))
    except (ImageError, OSError, ValueError, SyntaxError):
        return 1


def _transposed(pixels: NDArray[np.bool_], turn: str) -> NDArray[np.bool_]:
    return np.asarray(Image.fromarray(pixels).transpose(Image.Transpose[turn]), dtype=bool)


def _has_shape(pixels: NDArray[np.bool_], size: tuple[int, int]) -> bool:
    """Whether an array has the proportions of a size, up to the rounding of either side and 2 %."""
    (h, w), (height, width) = pixels.shape, size
    if abs(h * width / height - w) <= 1 or abs(w * height / width - h) <= 1:
        return True
    return bool(abs(h * width / (w * height) - 1) <= 0.02)
