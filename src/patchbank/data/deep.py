"""Images of more than eight bits a channel that Pillow reads with eight, or not at all, decoded with OpenCV."""

from __future__ import annotations

import math
from typing import IO, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from patchbank.data.tiff import TiffKind, count_pages, is_tiff, kind_of, read_kind, several
from patchbank.errors import ImageError

_EXIF_ORIENTATION = 0x0112
_EXIF_TEXTS = (b"Raw profile type exif", b"XML:com.adobe.xmp")
_MOST = 2**30  # pixels that OpenCV decodes unless its environment variable says otherwise


def is_for_opencv(image: Image.Image) -> bool:
    """Whether Pillow would decode an opened image with fewer bits than it has, with other values, or not at all."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile or image.fp is None or image.tell():
        return False
    if image.format == "PNG":
        return ";16" in str(image.tile[0][3]) and not image.mode.startswith("I")
    if image.format == "TIFF":
        kind = kind_of(image.tag_v2)  # type: ignore[attr-defined]
        limit = Image.MAX_IMAGE_PIXELS  # of the whole process: above it Pillow warns or refuses to decode a TIFF
        is_large = limit is not None and image.width * image.height > limit
        return (is_large and kind.for_opencv) or not kind.for_pillow
    return _largest_of_ppm(image) > 255


def full_scale_of(image: Image.Image) -> float | None:
    """What the header of a PGM or PPM of more than eight bits says about that; 65535 is what most programs write."""
    largest = _largest_of_ppm(image)
    return float(largest) if 255 < largest < 65535 else None


def _largest_of_ppm(image: Image.Image) -> int:
    """The largest value that the header of a PGM or PPM allows where Pillow would scale it; 0 for other files."""
    if image.format != "PPM" or not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return 0
    codec, arguments = image.tile[0][0], image.tile[0][3]
    if not str(codec).startswith("ppm") or not isinstance(arguments, tuple) or not isinstance(arguments[-1], int):
        return 0
    return arguments[-1]


def decode_deep(file: IO[bytes]) -> NDArray[Any]:
    """H×W or H×W×3 of the file's own type, upright. Raises `ImageError` for a kind that is not supported."""
    data = _bytes_of(file)
    orientation, pixels = 1, 0  # OpenCV turns a TIFF itself
    if is_tiff(data[:4]):
        pixels = math.prod(_check_kind(file).size)
    else:
        orientation = png_orientation(file) or 1
    try:
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from None
        raise ImageError(f"cannot be read as an image ({error.err or 'OpenCV cannot decode it'})") from None
    if found is None:
        np.empty((pixels, 16), np.uint8)  # OpenCV does not say so where it lacked memory; this does
        raise ImageError("cannot be read as an image (it is damaged or cut off)")
    del data  # both may be large
    if found.ndim == 3 and found.shape[2] < 3:
        found = found[:, :, 0]
    elif found.ndim == 3:
        found = found[:, :, :3]  # blue, green, red
        blue = found[:, :, 0].copy()
        found[:, :, 0], found[:, :, 2] = found[:, :, 2], blue
    return upright(found, orientation)


def deep_size(file: IO[bytes]) -> tuple[int, int]:
    """(height, width) of what `decode_deep` gives, from the header of a TIFF, PFM or WebP."""
    file.seek(0)
    start = file.read(64)
    if is_tiff(start):
        return _check_kind(file).upright_size
    if start.startswith(b"PF"):
        width, height = map(int, start.split()[1:3])
        return height, width
    return _webp_size(start)


def png_orientation(file: IO[bytes]) -> int | None:
    """The EXIF orientation of a PNG, whose pixels need not be decoded for it; None where it may stand in a text chunk
    or the file is no PNG."""
    before = file.tell()
    try:
        file.seek(0)
        if file.read(8) != b"\x89PNG\r\n\x1a\n":
            return None
        at = 8
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind == b"eXIf":
                exif = Image.Exif()
                exif.load(b"Exif\0\0" + file.read(length))
                return int(exif.get(_EXIF_ORIENTATION, 1))
            if kind in (b"tEXt", b"zTXt", b"iTXt") and file.read(min(length, 24)).startswith(_EXIF_TEXTS):
                return None
            at += length + 12
            file.seek(at)
        return 1
    finally:
        file.seek(before)


def upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo what the EXIF orientation says was done to an image."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return np.ascontiguousarray(values)


def _bytes_of(file: IO[bytes]) -> bytes:
    before = file.tell()
    file.seek(0)
    try:
        return file.read()
    finally:
        file.seek(before)


def _check_kind(file: IO[bytes]) -> TiffKind:
    """Of a TIFF for OpenCV. Raises `ImageError` for one that it does not read right."""
    kind = read_kind(file)
    if (pages := count_pages(file)) > 1:
        raise ImageError(several(pages))
    if not kind.for_opencv:
        raise ImageError(
            f"is a kind of TIFF that is not supported ({kind}): save it with one or three channels of 8 or 16 bits, or "
            "of 32-bit floating point"
        )
    if kind.size[0] * kind.size[1] > _MOST:
        raise ImageError(f"has {kind.size[1]}×{kind.size[0]} pixels, too many for a TIFF: cut it into parts")
    return kind


def _webp_size(start: bytes) -> tuple[int, int]:
    if start[12:16] == b"VP8X":
        return 1 + int.from_bytes(start[27:30], "little"), 1 + int.from_bytes(start[24:27], "little")
    if start[12:16] == b"VP8L":
        bits = int.from_bytes(start[21:25], "little")
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    sides = (int.from_bytes(start[at : at + 2], "little") & 0x3FFF for at in (28, 26))
    return next(sides), next(sides)
