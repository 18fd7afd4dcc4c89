"""Which mask belongs to which test image, under the names that other tools give them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TypeAlias

from patchbank.data.listing import IMAGE_SUFFIXES

Key: TypeAlias = tuple[str, ...]  # folders below those of the split or the masks, and the stem, in lower case

_WORDS = (
    "mask", "masks", "gt", "label", "labels", "ground_truth", "groundtruth", "seg", "segmentation", "annotation",
)  # fmt: skip
_BETWEEN = ("_", "-", "", ".", " ")


def key_of(parts: Sequence[str]) -> Key:
    """The key of a file by its path below the folder of its split or of the masks."""
    return (*(part.casefold() for part in parts[:-1]), Path(parts[-1]).stem.casefold())


@dataclass
class Masks:
    """The masks of a dataset by their keys. `used`: those that an image has been given."""

    files: dict[Key, Path] = field(default_factory=dict)
    folders: dict[Key, list[Path]] = field(default_factory=dict)
    everything: list[Path] = field(default_factory=list)
    used: set[Path] = field(default_factory=set)

    def add(self, parts: Sequence[str], file: Path) -> None:
        """A mask file; `parts`: its path below the folder of masks."""
        key = key_of(parts)
        self.files.setdefault(key, file)
        self.folders.setdefault(key[:-1], []).append(file)
        self.everything.append(file)

    def assign(self, images: Iterable[tuple[Path, Sequence[str]]]) -> dict[Path, Path]:
        """Image → its mask, a file or a folder of files, for images with their paths below the folder of the split.

        A mask in a folder of its defect's name goes first. Where the masks lie in another arrangement, one is taken
        that has the name of a single image.
        """
        found: dict[Path, Path] = {}
        left: list[tuple[Path, Key]] = []
        for image, parts in images:
            mask = self._at(key_of(parts), image.name.casefold())
            if mask is None:
                left.append((image, key_of(parts)))
            else:
                found[image] = mask
        for depth in (2, 1):
            taken = set(found.values())
            claims = {image: self._at(key[-depth:], image.name.casefold()) for image, key in left if image not in found}
            claimed = Counter(claims.values())
            found |= {
                image: mask for image, mask in claims.items() if mask and claimed[mask] == 1 and mask not in taken
            }
        folders = {files[0].parent: files for files in self.folders.values()}
        for mask in found.values():
            self.used.update(folders.get(mask, (mask,)))
        return found

    def unused(self) -> list[Path]:
        """Mask files that belong to no image."""
        return [file for file in self.everything if file not in self.used]

    def _at(self, key: Key, name: str) -> Path | None:
        folder = key[:-1]
        for stem in names_of(key[-1], name):
            if (file := self.files.get((*folder, stem))) is not None:
                return file
        inside = self.folders.get(key)
        return inside[0].parent if inside else None


def is_usual(mask: Path, image: Path) -> bool:
    """Whether a mask has the name of its image, with `_mask` or without."""
    stem = image.stem.casefold()
    return mask.stem.casefold() in (stem, f"{stem}_mask")


def names_of(stem: str, name: str) -> Iterator[str]:
    """The stems of mask files of an image, in lower case, the most usual first."""
    yield from (f"{stem}_mask", stem)
    for base in (stem, name):
        for between, word in product(_BETWEEN, _WORDS):
            yield f"{base}{between}{word}"
            yield f"{word}{between}{base}"
    yield name
    yield from (f"{stem}{suffix}" for suffix in sorted(IMAGE_SUFFIXES))
