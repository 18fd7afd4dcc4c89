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

from patchbank.errors import DatasetError, OptionError, notify
from patchbank.written import written_into

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm"})

ImageLike: TypeAlias = "str | os.PathLike[str] | NDArray[Any] | Image.Image"
Images: TypeAlias = "ImageLike | Iterable[ImageLike]"


@dataclass(frozen=True)
class Source:
    """One image that has not been read yet: its name for people, a path, an array or a PIL image, and the angle in
    degrees that it is to be turned by."""

    name: str
    data: Path | NDArray[Any] | Image.Image
    angle: float = 0.0


def list_images(folder: Path) -> list[Path]:
    """All image files anywhere below `folder`, sorted by path; hidden files and folders are skipped, and pictures that
    a command of ours wrote there, unless `folder` is where they lie."""
    found, ours = [], set[str]()
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                found.append(Path(parent, name))
        ours |= written_into(parent, files)
    kept = [path for path in found if str(path) not in ours] if ours else found
    if len(kept) < len(found):
        notify(f"{folder}: pictures that patchbank wrote there are passed over")
    return sorted(kept)


def gather(images: Images) -> list[Source]:
    """Paths, folders (recursive, sorted), arrays and PIL images, alone or in a sequence, as one list of sources.

    Raises `DatasetError` for a path that does not exist, a folder without images, or nothing at all.
    """
    if isinstance(images, (str, os.PathLike, np.ndarray, Image.Image)):
        images = [images]
    sources: list[Source] = []
    for item in images:
        if isinstance(item, (np.ndarray, Image.Image)):
            name = str(getattr(item, "filename", "") or f"image {len(sources)}")
            sources.append(Source(name, item))
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
