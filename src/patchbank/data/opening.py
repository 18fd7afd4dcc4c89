"""The one way to open an image file: regular files only, and only formats whose decoders start no other program."""

from __future__ import annotations

import importlib
import io
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from PIL import Image, ImageFile

from patchbank._system.object_store import StoreError
from patchbank._system.remote import RemotePath, open_remote
from patchbank.data.tiff import count_pages, damaged, is_tiff, several
from patchbank.errors import ImageError

# Decoders that work on the bytes alone. Not in the list: EPS, which starts Ghostscript; formats that are handed to a
# handler of another package (BUFR, GRIB, HDF5, WMF); formats that no camera writes. TGA comes last: it has no
# signature.
FORMATS = (
    "PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "PPM", "DIB", "JPEG2000", "AVIF", "PCX", "SGI", "QOI", "TGA",
)  # fmt: skip
_PLUGINS = {
    "TIFF": "Tiff", "WEBP": "WebP", "JPEG2000": "Jpeg2K", "AVIF": "Avif", "PCX": "Pcx", "SGI": "Sgi", "QOI": "Qoi",
    "TGA": "Tga", "DIB": "Bmp",
}  # fmt: skip
_NOT_FILES = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_STARTS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the picture: run `git lfs pull`"),
    (b"%!PS", "is a PostScript file, which is never opened: convert it to PNG"),
    (b"\xc5\xd0\xd3\xc6", "is a PostScript file, which is never opened: convert it to PNG"),
    (b"%PDF", "is a PDF file: convert its pages to PNG"),
    (b"PK\x03\x04", "is a ZIP archive: unpack it"),
    (b"\x1f\x8b", "is a gzip archive: unpack it"),
    (b"SIMPLE  =", "is a FITS file: convert it to TIFF"),
    (b"\x89HDF", "is an HDF5 file: convert it to TIFF"),
    (b"8BPS", "is a Photoshop file: convert it to TIFF or PNG"),
    (b"\x76\x2f\x31\x01", "is an OpenEXR file: convert it to a floating-point TIFF"),
)
_SIGNATURES = (
    (b"\x89PNG", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"BM", "BMP"), (b"GIF8", "GIF"), (b"RIFF", "WebP"),
)  # fmt: skip
_HEIF = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


@contextmanager
def open_file(data: Path | bytes, *, header: bool = False) -> Iterator[IO[bytes]]:
    """The bytes of an image as a binary file; `header`: its first bytes are likely to be enough. Raises `ImageError`
    for a path that is no regular file, without waiting for a pipe or a device, and for what a store does not give;
    `OSError` for a file that cannot be opened."""
    if isinstance(data, bytes):
        yield io.BytesIO(data)
        return
    if isinstance(data, RemotePath):
        with fetching(), open_remote(data, header=header) as file:
            yield file
        return
    _check_regular(os.stat(data).st_mode)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(data, flags), "rb") as file:
        _check_regular(os.fstat(file.fileno()).st_mode)  # the name may mean another file by now
        yield file


@contextmanager
def fetching() -> Iterator[None]:
    """Within the block, what a store does not give becomes an `ImageError`."""
    try:
        yield
    except StoreError as error:
        raise ImageError(f"cannot be fetched: {error.strerror}") from None


def _check_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        what = next((words for test, words in _NOT_FILES if test(mode)), "something else")
        raise ImageError(f"is {what}, not an image file: only regular files are opened")


@contextmanager
def opened(data: Path | bytes, *, header: bool = False) -> Iterator[Image.Image]:
    """The Pillow image of a file or its bytes, header read, not decoded, without a limit on its size. Raises
    `ImageError` for what is no image or has several pages."""
    with open_file(data, header=header) as file:
        image = identify(file)
        if image is None:
            raise ImageError("is a kind of TIFF that is not supported here: convert it to an 8-bit PNG")
        check_pages(image)
        yield image


def identify(file: IO[bytes]) -> Image.Image | None:
    """As `PIL.Image.open`, for `FORMATS` alone and any number of pixels; None for a TIFF or PFM of a kind that Pillow
    does not know. Raises `ImageError` for what is no image.

    `PIL.Image.open` warns or refuses by a limit that the whole process shares; the plugins themselves have none.
    """
    prefix = file.read(16)
    if not prefix:
        raise ImageError("is empty (0 bytes)")
    Image.preinit()
    for name in FORMATS:
        if name not in Image.OPEN and name in _PLUGINS:
            with suppress(ImportError):  # older versions of Pillow have fewer plugins
                importlib.import_module(f"PIL.{_PLUGINS[name]}ImagePlugin")
        if name not in Image.OPEN:
            continue
        factory, accept = Image.OPEN[name]
        try:
            if accept and accept(prefix) is not True:  # a string is the reason why this Pillow cannot read the format
                continue
            file.seek(0)
            return factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):  # as `PIL.Image.open`: not of this format
            continue
    if is_tiff(prefix) or prefix.startswith(b"PF"):
        return None
    file.seek(0)
    raise ImageError(_what_it_is(file.read(4096)))


def is_eight_bit_start(start: bytes) -> bool:
    """Whether a file that begins so is sure to have at most eight bits a channel."""
    if start.startswith(b"\x89PNG"):
        return len(start) > 24 and start[24] <= 8
    return start.startswith((b"\xff\xd8\xff", b"BM", b"GIF8"))


def check_pages(image: Image.Image) -> None:
    """Raise `ImageError` for a file of several pages or frames. The further pictures of a JPEG (a preview or a depth
    map, as phones store them) and the reduced copies in a TIFF are no pages."""
    if (pages := count(image)) > 1:
        raise ImageError(several(pages))


def count(image: Image.Image) -> int:
    """Pages or frames of an opened image."""
    if image.format == "TIFF" and isinstance(image, ImageFile.ImageFile):
        return count_pages(image.fp) if image.fp and image.tag_v2.next else 1  # type: ignore[attr-defined]
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return 1
    return int(getattr(image, "n_frames", 1))


def _what_it_is(start: bytes) -> str:
    """A sentence about a file that is no image, from its first bytes."""
    for signature, words in _STARTS:
        if start.startswith(signature):
            return words
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF:
        return "is a HEIF picture, which is not supported: convert it to JPEG or PNG"
    if not start.strip(b"\0"):
        return "begins with zero bytes: it was not written completely"
    for signature, name in _SIGNATURES:
        if start.startswith(signature):
            return damaged(name)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "is an HTML page, not an image file: fetch the picture again"
    if text.startswith((b"<svg", b"<?xml")):
        return "is an XML or SVG file, not an image file: convert it to PNG"
    if all(byte in b"\t\r\n\f" or 32 <= byte < 127 for byte in start):
        return "is a text file, not an image file, whatever its name says"
    return "is not an image file, whatever its name says"
