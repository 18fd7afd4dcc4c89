"""Images known by what they show, not by their names: digests, and copies among the images of a fit."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchbank._system.files import file_digest
from patchbank._system.remote import RemotePath, read_remote
from patchbank.data.channels import made_of
from patchbank.data.read import image_size, read_image
from patchbank.data.values import RGB, ValueRange
from patchbank.errors import ImageError, notify
from patchbank.sample import MADE_OF, Sample

_SAMPLE = 4096  # bytes at the start, the middle and the end of a file that are compared before all of it is read


def pixel_digest(values: RGB | NDArray[Any]) -> str:
    """128 bits of a hash of an H×W×3 or H×W array: its size, type and numbers. A file and an array of one picture
    agree."""
    digest = hashlib.blake2b(f"{values.shape} {values.dtype}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def digest_of(source: Sample, values: ValueRange) -> str:
    """The digest of an image's pixels, read in the range of a model; "" where it cannot be read, which the one that
    inspects it tells."""
    try:
        made = made_of(source)
        return pixel_digest(read_image(source, values) if made is None else made.stored(source, values))
    except ImageError:
        return ""


def without_copies(
    sources: Sequence[Sample], channels: Sequence[str] = ()
) -> tuple[list[Sample], list[tuple[str, str]]]:
    """The images without exact copies (equal files, equal arrays), each used where it comes first; and for each copy
    its name and that of the image it repeats. Says so in one sentence where there are any.

    Args:
        sources: samples, each seen in the channel that is looked at.
        channels: in all of which a copy must be equal; by default in the one that each is seen in.
    """
    sizes: dict[Hashable, list[int]] = {}
    seen = [_seen(source, channels) for source in sources]
    for i, of_channels in enumerate(seen):
        found = tuple(_size(each) for each in of_channels)
        sizes.setdefault(None if None in found else found, []).append(i)
    copy_of: dict[int, int] = {}
    for size, alike in sizes.items():
        if size is not None and len(alike) > 1:
            copy_of |= _repeats(seen, alike)
    if not copy_of:
        return list(sources), []
    copies = [(sources[i].name, sources[first].name) for i, first in sorted(copy_of.items())]
    notify(
        f"{len(copies)} of {len(sources)} images are exact copies of others and are used once, such as {copies[0][0]} "
        f"of {copies[0][1]}"
    )
    return [source for i, source in enumerate(sources) if i not in copy_of], copies


def _seen(source: Sample, channels: Sequence[str]) -> list[Sample]:
    """The sample seen in each of the channels, once where several are made of one."""
    seen = {MADE_OF.get(channel, channel): source.seen_in(channel) for channel in channels}
    return list(seen.values()) or [source]


def _repeats(sources: Sequence[list[Sample]], numbers: Iterable[int]) -> dict[int, int]:
    """For each of some images, each seen in several channels, that repeats an earlier one of them, the number of that
    one."""
    by_sample: dict[Hashable, list[int]] = {}
    for i in numbers:
        by_sample.setdefault(_digests(sources[i], whole=False), []).append(i)
    repeats: dict[int, int] = {}
    for sample, alike in by_sample.items():
        first: dict[Hashable, int] = {}
        for i in alike if sample is not None and len(alike) > 1 else ():
            digest = _digests(sources[i], whole=True)
            if digest is not None and first.setdefault(digest, i) != i:
                repeats[i] = first[digest]
    broken = {
        i for i in set(repeats.values()) if not all(map(_is_image, sources[i]))
    }  # each of these is named as unreadable
    return {i: original for i, original in repeats.items() if original not in broken}


def _is_image(source: Sample) -> bool:
    try:
        image_size(source)
    except ImageError:
        return False
    return True


def _file(source: Sample) -> Path | None:
    """The file that a source is, or was opened from."""
    if isinstance(source.path, RemotePath):
        return source.path
    name = source.path or getattr(source.data, "filename", None)
    return Path(name) if name and os.path.isfile(name) else None


def _size(source: Sample) -> Hashable:
    """What copies have in common at once; None for what is not compared."""
    try:
        if (path := _file(source)) is not None:
            return "file", path.stat().st_size
    except (OSError, ImageError):  # told by the one that reads the image
        return None
    if isinstance(source.data, bytes):
        return "bytes", len(source.data)
    if isinstance(source.data, np.ndarray):
        return "array", source.data.shape, str(source.data.dtype)
    return ("picture", source.data.size, source.data.mode) if isinstance(source.data, Image.Image) else None


def _digests(seen: Sequence[Sample], *, whole: bool) -> Hashable:
    """Those of all channels of an image, None where one has none."""
    found = tuple(_digest(source, whole=whole) for source in seen)
    return None if None in found else found


def _digest(source: Sample, *, whole: bool) -> Hashable:
    """Of the content of an image, or of a sample of its file."""
    try:
        if (path := _file(source)) is not None:
            if isinstance(path, RemotePath):
                return hashlib.sha256(read_remote(path)).hexdigest()
            return file_digest(path) if whole else _sampled(path)
        if isinstance(source.data, bytes):
            return hashlib.sha256(source.data).digest()
        if isinstance(source.data, np.ndarray):
            return (
                hashlib.sha256(np.ascontiguousarray(source.data).data).digest() if source.data.dtype != object else None
            )
        return hashlib.sha256(source.data.tobytes()).digest() if isinstance(source.data, Image.Image) else None
    except (OSError, ValueError):
        return None


def _sampled(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as file:
        parts = []
        for start in (0, size // 2, max(size - _SAMPLE, 0)):
            file.seek(start)
            parts.append(file.read(_SAMPLE))
    return hashlib.sha256(b"".join(parts)).digest()
