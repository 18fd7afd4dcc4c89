"""Files, arrays and PIL images of every ordinary kind → RGB arrays.

An RGB array is H×W×3, uint8; or float32 in 0..255 where the source has more than eight bits, so that a 12-bit camera
loses nothing. EXIF orientation is honoured. Alpha is dropped, grey is repeated, palettes and CMYK are converted.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from patchbank.data.channels import READERS, made_of
from patchbank.data.deep import decode_deep, deep_size, full_scale_of, is_for_opencv, png_orientation
from patchbank.data.opening import check_pages, count, identify, is_eight_bit_start, open_file
from patchbank.data.tiff import kind_of
from patchbank.data.turning import turn
from patchbank.data.values import RGB, Tell, ValueRange
from patchbank.errors import ImageError, MemoryBudgetError
from patchbank.sample import Sample

_MANY = 500  # images: the sizes of so many say how large those of a set are
_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BAND = 32_000_000  # pixels above which an image is copied out of Pillow in bands: a whole copy needs its memory twice
_SHAPES = "an array must be H×W or H×W×C with C = 1, 3 or 4"
_PLAIN = ValueRange()


@dataclass(frozen=True)
class Raw:
    """An image as it was stored, H×W or H×W×3 of any numeric type; `full_scale`: what its file says about that."""

    values: NDArray[Any]
    full_scale: float | None = None


def read_image(source: Sample, values: ValueRange = _PLAIN, tell: Tell | None = None) -> RGB:
    """The RGB array of a source, turned. `values`: what its numbers mean to a model; `tell` hears a sentence where that
    is doubtful. Raises `ImageError`, one sentence, for anything that cannot be read."""
    if (made := made_of(source)) is not None:
        picture = made.picture(source, values)
        return turn(picture, source.angle) if source.angle else picture
    raw = read_raw(source, tell)
    try:
        rgb = values.scaled(raw.values, source.name, raw.full_scale, tell)
        return turn(rgb, source.angle) if source.angle else rgb
    except ImageError as error:
        raise ImageError(f"{source.name}: {error}") from None
    except MemoryError as error:
        raise no_memory(source, error) from None


def read_raw(source: Sample, tell: Tell | None = None) -> Raw:
    """An image as it was stored, in colours or grey, upright. Raises as `read_image`."""
    try:
        if source.channel in READERS:
            return Raw(_of_array(READERS[source.channel](source.data)))
        if isinstance(source.data, np.ndarray):
            return Raw(_of_array(source.data))
        if isinstance(source.data, Image.Image):
            _check_open(source.data)
            if tell and source.data.tell() == 0 and (pages := count(source.data)) > 1:
                tell(f"{source.name}: has {pages} pages or frames, of which the first is inspected")
            return _of_pil(source.data)
        with open_file(source.data) as file:
            image = _identified(file)
            if image is None:
                return Raw(decode_deep(file))
            check_pages(image)
            return _of_pil(image)
    except ImageError as error:
        raise ImageError(f"{source.name}: {error}") from None
    except MemoryError as error:
        raise no_memory(source, error) from None
    except Exception as error:  # Pillow's decoders raise all sorts: OSError, SyntaxError, ValueError, struct.error
        if isinstance(error, OSError) and (error.errno == errno.ENOMEM or "out of memory" in str(error)):
            raise no_memory(source, MemoryError()) from None
        raise ImageError(f"{source.name}: cannot be read as an image ({_reason(error)})") from error


def is_eight_bit(source: Sample) -> bool:
    """Whether an image has eight bits or fewer, from its header alone. Raises `ImageError`."""
    if source.channel in READERS:
        return False
    if made_of(source) is not None:  # its picture
        return True
    try:
        if isinstance(source.data, np.ndarray):
            return bool(source.data.dtype in (np.uint8, bool))
        if isinstance(source.data, Image.Image):
            return _is_eight_bit(source.data)
        with open_file(source.data, header=True) as file:
            if is_eight_bit_start(file.read(32)):
                return True
            file.seek(0)
            image = _identified(file)
            return image is not None and _is_eight_bit(image)
    except ImageError as error:
        raise ImageError(f"{source.name}: {error}") from None
    except Exception as error:
        raise ImageError(f"{source.name}: cannot be read as an image ({_reason(error)})") from error


def _is_eight_bit(image: Image.Image) -> bool:
    return not image.mode.startswith(("I", "F")) and not is_for_opencv(image)


def image_size(source: Sample, values: ValueRange = _PLAIN) -> tuple[int, int]:
    """(height, width) of the RGB array `read_image` would give, from the header alone. Raises `ImageError`."""
    if source.channel in READERS:
        read = read_raw(source).values
        return read.shape[0], read.shape[1]
    if (made := made_of(source)) is not None:
        return made.size(source, values)
    try:
        if isinstance(source.data, np.ndarray):
            return _shaped(source.data).shape[:2]
        if isinstance(source.data, Image.Image):
            _check_open(source.data)
            return _oriented_size(source.data)
        with open_file(source.data, header=True) as file:
            image = _identified(file)
            if image is None:
                return deep_size(file)
            check_pages(image)
            return _oriented_size(image)
    except ImageError as error:
        raise ImageError(f"{source.name}: {error}") from None
    except Exception as error:
        raise ImageError(f"{source.name}: cannot be read as an image ({_reason(error)})") from error


def shorter_sides(sources: Sequence[Sample], values: ValueRange = _PLAIN) -> Iterator[int]:
    """The shorter side of each image whose header can be read, in pixels; of many, evenly spread ones."""
    for source in sources[:: max(len(sources) // _MANY, 1)]:
        with contextlib.suppress(ImageError):  # told when it is read
            yield min(image_size(source, values))


def _identified(file: IO[bytes]) -> Image.Image | None:
    """The Pillow image of a file; None where only OpenCV can read it."""
    try:
        return identify(file)
    except Image.DecompressionBombError:  # Pillow has a limit of its own for WebP
        return None


def no_memory(source: Sample, error: MemoryError) -> MemoryBudgetError:
    """What to raise where an image does not fit into memory: it is no unreadable image, and the next ones will not
    fit either."""
    if isinstance(error, MemoryBudgetError):
        return error
    try:
        height, width = image_size(source)
        size = f" of {width}×{height} pixels"
    except (ImageError, MemoryError):
        size = ""
    return MemoryBudgetError(
        f"{source.name}: there is not enough memory for this image{size}: end other programs, cut such images into "
        "parts, or use a machine with more memory"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _check_open(image: Image.Image) -> None:
    """Raise `ImageError` for a Pillow image that was closed before its pixels were read, or after."""
    if isinstance(image, ImageFile.ImageFile) and image.tile:
        is_closed = image.fp is None or bool(getattr(image.fp, "closed", False))
    else:
        try:
            image.getpixel((0, 0))
            is_closed = False
        except IndexError:
            is_closed = False
        except (ValueError, AssertionError, AttributeError):
            is_closed = True
    if is_closed:
        raise ImageError("is a PIL image that was closed: keep it open, or call its load() before it is closed")


def _orientation(image: Image.Image) -> int:
    found = None
    if image.format == "PNG" and isinstance(image, ImageFile.ImageFile) and image.tile and image.fp is not None:
        found = png_orientation(image.fp)  # Pillow would decode the pixels
    return int(image.getexif().get(_EXIF_ORIENTATION, 1)) if found is None else found


def _oriented_size(image: Image.Image) -> tuple[int, int]:
    if isinstance(image, TiffImageFile) and image.tile:
        if is_for_opencv(image) and image.fp is not None:
            return deep_size(image.fp)
        return kind_of(image.tag_v2).upright_size  # Pillow's size is upright already, which others are not
    turned = _orientation(image) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


def _of_pil(image: Image.Image) -> Raw:
    if isinstance(image, ImageFile.ImageFile) and image.fp is not None and is_for_opencv(image):
        return Raw(decode_deep(image.fp), full_scale_of(image))
    image.load()  # before its orientation is asked for, which may stand behind the pixels
    if (method := _TURNS.get(_orientation(image))) is not None:
        image = image.transpose(method)
    if image.mode.startswith("I;16"):
        return Raw(np.asarray(image).astype(np.uint16, copy=False))
    if image.mode == "I":
        return Raw(_as_sixteen_bits(np.asarray(image)))
    if image.mode in ("F", "L"):
        return Raw(np.asarray(image))
    return Raw(_copied(image if image.mode == "RGB" else image.convert("RGB")))


def _as_sixteen_bits(values: NDArray[np.int32]) -> NDArray[Any]:
    """Older versions of Pillow open some 16-bit greys as 32-bit integers."""
    return values.astype(np.uint16) if values.min() >= 0 and values.max() <= 65535 else values


def _copied(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels of an RGB image."""
    if image.width * image.height <= _BAND:
        return np.asarray(image)
    whole = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, _BAND // 4 // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        whole[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return whole


def _shaped(values: NDArray[Any]) -> NDArray[Any]:
    """An array as H×W or H×W×3."""
    channels = values.shape[2] if values.ndim == 3 else 1
    if values.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in values.shape:
        turned = values.ndim == 3 and values.shape[0] in (1, 3, 4) and 0 not in values.shape
        hint = ": bring the channels to the end with array.transpose(1, 2, 0)" if turned else ""
        raise ImageError(f"{_SHAPES}, not {values.shape}{hint}")
    if values.dtype.kind not in "buif":
        raise ImageError(f"its type is {values.dtype}; use uint8, uint16, other integers or floating-point numbers")
    return values[:, :, :3] if channels > 1 else values.reshape(values.shape[:2])


def _of_array(values: NDArray[Any]) -> NDArray[Any]:
    values = _shaped(values)
    return values.astype(values.dtype.newbyteorder("="), copy=False)
