"""Which file holds the geometry of the part that a picture shows: found by where it lies and what it is called.

    parts/rgb/007.png     parts/xyz/007.tiff        folders beside each other (MVTec 3D-AD), also z/, depth/, height/ …
    parts/007.jpg         parts/007.tiff            one folder, one name, and the second file is no ordinary picture
                                                    (an array: as large as the picture)
    parts/007.png         parts/007_depth.png       one folder, and the name says it

So a sample on disk is known by the path of its picture alone, and whatever lists or names pictures need not know.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from patchbank._system.remote import Entry, RemotePath, child_of, entries_beginning, entries_of
from patchbank.data.folder_names import Kind, joined_name, kind_of, words
from patchbank.data.listing import POINTS_SUFFIXES
from patchbank.data.opening import open_file
from patchbank.data.read import image_size
from patchbank.data.tiff import is_tiff, read_kind
from patchbank.errors import ImageError
from patchbank.sample import GEOMETRY_CHANNEL, PLAIN, RGB_CHANNEL, Sample

COLOURS = words("rgb color colour colors colours texture")  # names of folders of pictures, beside one of geometry
GEOMETRIES = words(
    "xyz z depth depths height heights heightmap heightmaps depthmap depthmaps points pointcloud pointclouds cloud "
    "clouds pcd ply range"
)
ALIASES = words("xyz z depth height points cloud pcd ply range")  # of the channel, in a mapping
_MAYBE_GEOMETRY = words(".tif .tiff .png .pfm .pgm")
_ENDINGS = ("xyz", "depth", "height", "z", "points", "cloud")  # 007_depth.png
_BY_ENDING = POINTS_SUFFIXES | words(".csv .pfm")
_PNG = b"\x89PNG\r\n\x1a\n"
_FEW = 8  # images of one remote folder whose partners are asked for one by one, before all of it is listed
_PICTURES = ("", "_rgb", "_color", "_colour", "_image", "-rgb", "-color")


class Pairing:
    """Finds partners; each folder is listed once."""

    def __init__(self) -> None:
        self._listed: dict[Path, dict[str, list[Path]]] = {}
        self._asked: Counter[Path] = Counter()  # remote folders, how often for the files of one stem
        self._folders: dict[Path, list[str]] = {}

    def sample(self, path: Path) -> Sample:
        """A picture with its geometry, where it has one; the file alone otherwise."""
        name = str(path)
        if joined_name(path.parent.name) in COLOURS and (folders := self._geometry_folders(path.parent.parent)):
            found = [f for folder in folders for f in self._files(folder, path.stem).get(path.stem, [])]
            more = {GEOMETRY_CHANNEL: found[0]} if found else {}
            return Sample(name, {RGB_CHANNEL: path, **more})
        if is_surely_geometry(path) or self._beside_colours(path):
            return Sample(name, {GEOMETRY_CHANNEL: path})
        if (partner := self._beside(path)) is not None:
            return Sample(name, {RGB_CHANNEL: path, GEOMETRY_CHANNEL: partner})
        return Sample(name, {PLAIN: path})

    def samples(self, paths: Sequence[Path], points: Sequence[Path] = ()) -> list[Sample]:
        """One sample for each part. A geometry whose picture is missing is a sample of its own, which a detector that
        needs the picture refuses.

        Args:
            paths: image files, sorted.
            points: files that hold points or numbers by their ending. Where there are pictures, those without one are
                left out, but in a folder of geometry beside one of pictures.
        """
        found = [self.sample(path) for path in paths]
        partners = {s.channels[GEOMETRY_CHANNEL] for s in found if len(s.channels) > 1}
        kept = [s for s in found if s.file not in partners]
        alone = [p for p in points if p not in partners and (not paths or self._beside_colours(p))]
        kept += [Sample(str(path), {GEOMETRY_CHANNEL: path}) for path in alone]
        return sorted(kept, key=lambda sample: str(sample.file)) if alone else kept

    def is_mask(self, path: Path) -> bool:
        """Whether a file lies in a folder of masks beside one of pictures, as MVTec 3D-AD has them: rgb/, xyz/, gt/."""
        return kind_of(path.parent.name) is Kind.MASK and self._has_colours(path.parent.parent)

    def _beside_colours(self, path: Path) -> bool:
        """Whether a file lies in a folder of geometry beside one of pictures."""
        return joined_name(path.parent.name) in GEOMETRIES and self._has_colours(path.parent.parent)

    def _has_colours(self, folder: Path) -> bool:
        return any(joined_name(name) in COLOURS for name in self._folders_of(folder))

    def _beside(self, path: Path) -> Path | None:
        """The geometry in the same folder."""
        stem = next((path.stem.removesuffix(end) for end in _PICTURES if end and path.stem.endswith(end)), path.stem)
        files = self._files(path.parent, stem)
        for candidate in (stem, *(f"{stem}{dash}{end}" for end in _ENDINGS for dash in "_-.")):
            for file in files.get(candidate, []):
                if file != path and (_belongs(file, path) if candidate == stem else is_geometry(file)):
                    return file
        return None

    def _files(self, folder: Path, start: str) -> dict[str, list[Path]]:
        """The files of a folder that may hold geometry, by their stems: those that begin with `start`, or all."""
        if folder not in self._listed:
            if isinstance(folder, RemotePath) and self._asked[folder] < _FEW:  # a list of all may take many requests
                self._asked[folder] += 1
                return _by_stem(folder, lambda: entries_beginning(folder, start))
            self._listed[folder] = _by_stem(folder, lambda: entries_of(folder))
        return self._listed[folder]

    def _geometry_folders(self, folder: Path) -> list[Path]:
        return [folder / name for name in self._folders_of(folder) if joined_name(name) in GEOMETRIES]

    def _folders_of(self, folder: Path) -> list[str]:
        if folder not in self._folders:
            try:
                self._folders[folder] = [entry.name for entry in entries_of(folder) if entry.is_dir()]
            except OSError:
                self._folders[folder] = []
        return self._folders[folder]


def _by_stem(folder: Path, entries: Callable[[], list[Entry]]) -> dict[str, list[Path]]:
    by_stem: dict[str, list[Path]] = {}
    try:
        found = [entry for entry in entries() if not entry.name.startswith(".")]
    except OSError:
        return by_stem
    for entry in found:
        stem, suffix = os.path.splitext(entry.name)
        if suffix.lower() in POINTS_SUFFIXES | _MAYBE_GEOMETRY:
            by_stem.setdefault(stem, []).append(child_of(folder, entry))
    return by_stem


def is_surely_geometry(path: Path) -> bool:
    """Whether a file cannot be a picture, by its ending."""
    return path.suffix.lower() in POINTS_SUFFIXES


def in_geometry_folder(path: Path) -> bool:
    """Whether a file may hold geometry by its header, and its folder is called so."""
    return joined_name(path.parent.name) in GEOMETRIES and is_geometry(path)


def is_geometry(path: Path) -> bool:
    """Whether a file holds geometry: by its ending alone for kinds that are no pictures, and by the header of a PNG or
    TIFF: one channel of 16 bits, or floating-point values. False for what cannot be read.

    An ordinary grey picture of 16 bits looks the same: whether it is one, only the caller knows, by its folder or by
    the picture that it belongs to.
    """
    if path.suffix.lower() in _BY_ENDING:
        return True
    if path.suffix.lower() not in (".png", ".tif", ".tiff"):
        return False
    try:
        with open_file(path, header=True) as file:
            start = file.read(32)
            if start.startswith(_PNG):
                return start[24:26] == b"\x10\0"  # 16 bits, grey
            if not is_tiff(start):
                return False
            kind = read_kind(file)
    except (OSError, ImageError, ValueError):
        return False
    return kind.form == 3 or (kind.channels == 1 and max(kind.bits) >= 16)


def _belongs(file: Path, picture: Path) -> bool:
    """Whether a file of the same name as a picture is its geometry, not another picture, and no array of something
    else, such as features or a mask."""
    if file.suffix.lower() == ".npy":
        return _holds_depths(file, picture)
    return is_geometry(file) and not is_geometry(picture)


def _holds_depths(file: Path, picture: Path) -> bool:
    """Whether an array has a depth or a point for each pixel of a picture, from both headers."""
    try:
        with open_file(file, header=True) as stored:
            version = np.lib.format.read_magic(stored)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, kind = read(stored)
        size = image_size(Sample.of(str(picture), picture))
    except (OSError, ValueError, ImageError):
        return False
    return kind.itemsize > 1 and not kind.hasobject and shape in (size, (*size, 3))
