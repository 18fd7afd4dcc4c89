"""Files, arrays and PIL images of every ordinary kind → RGB arrays.

An RGB array is H×W×3, uint8; or float32 in 0..255 where the source has more than eight bits, so that a 12-bit camera
loses nothing. EXIF orientation is honoured. Alpha is dropped, grey is repeated, palettes and CMYK are converted.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from patchbank.errors import ImageError
from patchbank.images.sources import Source
from patchbank.images.turning import turn

RGB: TypeAlias = "NDArray[np.uint8] | NDArray[np.float32]"

_EXIF_ORIENTATION = 0x0112


def read_image(source: Source) -> RGB:
    """The RGB array of a source, turned. Raises `ImageError`, one sentence, for anything that cannot be read."""
    rgb = _read(source)
    return turn(rgb, source.angle) if source.angle else rgb


def _read(source: Source) -> RGB:
    try:
        if isinstance(source.data, np.ndarray):
            return _from_array(source.data)
        if isinstance(source.data, Image.Image):
            return _from_pil(source.data)
        with _open(source.data) as image:
            return _from_pil(image)
    except ImageError as error:
        raise ImageError(f"{source.name}: {error}") from None
    except Exception as error:  # Pillow's decoders raise all sorts: OSError, SyntaxError, ValueError, struct.error
        raise ImageError(f"{source.name}: cannot be read as an image ({_reason(error)})") from error


def image_size(source: Source) -> tuple[int, int]:
    """(height, width) of the RGB array `read_image` would give, from the header alone. Raises `ImageError`."""
    if isinstance(source.data, np.ndarray):
        if source.data.ndim < 2:
            raise ImageError(f"{source.name}: {_SHAPES}, not {source.data.shape}")
        return source.data.shape[0], source.data.shape[1]
    try:
        if isinstance(source.data, Image.Image):
            return _oriented_size(source.data)
        with _open(source.data) as image:
            return _oriented_size(image)
    except Exception as error:
        raise ImageError(f"{source.name}: cannot be read as an image ({_reason(error)})") from error


_SHAPES = "an array must be H×W or H×W×C with C = 1, 3 or 4"


def _open(data: Path | bytes) -> Image.Image:
    with warnings.catch_warnings():  # Pillow warns at 89 megapixels and refuses at 178: the warning helps nobody here
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(data) if isinstance(data, bytes) else data)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image file, whatever its name says"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _oriented_size(image: Image.Image) -> tuple[int, int]:
    turned = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


def _from_pil(image: Image.Image) -> RGB:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        return _from_deep_integers(np.asarray(image))
    if image.mode == "F":
        return _from_array(np.asarray(image))
    return np.asarray(image.convert("RGB"))


def _from_deep_integers(values: NDArray[Any]) -> RGB:
    # Pillow opens some 16-bit greys as 32-bit integers
    if values.min() < 0 or values.max() > 65535:
        raise ImageError("its integer values lie outside 0..65535; convert it to 8 or 16 bits")
    return _from_array(values.astype(np.uint16))


def _from_array(values: NDArray[Any]) -> RGB:
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4) or 0 in values.shape:
        raise ImageError(f"{_SHAPES}, not {values.shape}")
    values = values[:, :, :3]
    if values.shape[2] == 1:
        values = np.repeat(values, 3, axis=2)
    if values.dtype == np.uint8:
        return np.asarray(np.ascontiguousarray(values), dtype=np.uint8)
    if values.dtype == bool:
        return np.asarray(values * np.uint8(255), dtype=np.uint8)
    if values.dtype == np.uint16:
        return np.asarray(values * np.float32(255 / 65535), dtype=np.float32)
    if np.issubdtype(values.dtype, np.floating):
        if not (values.min() >= 0 and values.max() <= 1):  # written so that NaN fails too
            raise ImageError("its floating-point values must lie in 0..1; divide by the camera's full scale")
        return np.asarray(values * np.float32(255), dtype=np.float32)
    raise ImageError(f"its type is {values.dtype}; use uint8, uint16, or float in 0..1")
