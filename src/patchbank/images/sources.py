"""What a user may hand over as images, and the one list it becomes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchbank.errors import DatasetError, OptionError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm"})

ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | NDArray[Any] | Image.Image | Source"
Images: TypeAlias = "ImageLike | Iterable[ImageLike]"


@dataclass(frozen=True)
class Source:
    """One image that has not been read yet: its name for people, a path, the bytes of a file, an array or a PIL image,
    the angle in degrees that it is to be turned by, and the label of the part that it shows ("": a part of its own)."""

    name: str
    data: Path | bytes | NDArray[Any] | Image.Image
    angle: float = 0.0
    group: str = ""


def list_images(folder: Path) -> list[Path]:
    """All image files anywhere below `folder`, sorted by path; hidden files and folders are skipped."""
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                found.append(Path(parent, name))
    return sorted(found)


def gather(images: Images) -> list[Source]:
    """Paths, folders (recursive, sorted), the bytes of files, arrays, PIL images and sources, alone or in a sequence,
    as one list of sources.

    Raises `DatasetError` for a path that does not exist, a folder without images, or nothing at all.
    """
    if isinstance(images, (str, os.PathLike, np.ndarray, Image.Image, bytes, Source)):
        images = [images]
    sources: list[Source] = []
    for item in images:
        if isinstance(item, Source):
            sources.append(item)
        elif isinstance(item, (np.ndarray, Image.Image)):
            name = str(getattr(item, "filename", "") or f"image {len(sources)}")
            sources.append(Source(name, item))
        elif isinstance(item, bytes):
            sources.append(Source(f"image {len(sources)}", item))
        elif isinstance(item, (str, os.PathLike)):
            sources.extend(_from_path(Path(item)))
        else:
            raise OptionError(
                f"an image must be a path, a folder, a numpy array or a PIL image, not {type(item).__name__}"
            )
    if not sources:
        raise DatasetError("no images were given")
    return sources


def _from_path(path: Path) -> list[Source]:
    if path.is_dir():
        found = list_images(path)
        if not found:
            raise DatasetError(f"{path}: no images in this folder (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
        return [Source(str(p), p) for p in found]
    if not path.exists():
        raise DatasetError(f"{path}: no such file or folder")
    return [Source(str(path), path)]
