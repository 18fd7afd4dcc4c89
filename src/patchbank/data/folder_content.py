"""Whether all images below a folder are of one kind, by the names of its sub-folders."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from patchbank.data.folder_names import ANNOTATIONS, Kind, is_good, is_neutral, joined_name, kind_of
from patchbank.errors import DatasetError

Holds: TypeAlias = Literal["good", "defects"]

_OF_ANOTHER_KIND = {"good": (Kind.BAD, Kind.TEST, Kind.MASK), "defects": (Kind.GOOD, Kind.TRAIN, Kind.MASK)}
_MASK_ENDING = re.compile(r"[_\-. ](mask|gt|ground_?truth)$", re.IGNORECASE)


_LABEL_ENDING = re.compile(r"[_\-. ]labels?$", re.IGNORECASE)


@dataclass(frozen=True)
class Mixed:
    """Why not all images of a folder are of one kind; `example`: where it shows; `instead`: which folder to give."""

    words: str
    example: Path
    instead: Path | None


def check_content(root: Path, files: Iterable[Path], holds: Holds) -> None:
    """Raise `DatasetError` where the images below `root` are not all good (or all defective), by their folders."""
    mixed = find_mixed(root, files, holds)
    if mixed is None:
        return
    kind = "good" if holds == "good" else "defective"
    instead = f", such as {mixed.instead}" if mixed.instead else ""
    raise DatasetError(
        f"{root}: holds {mixed.words} ({mixed.example}), so not all of its images are {kind} parts: give the folder of "
        f"{kind} images alone{instead}, or a list of files"
    )


def find_mixed(root: Path, files: Iterable[Path], holds: Holds) -> Mixed | None:
    """What shows that not all images below `root` are good (or all defective), None where nothing does."""
    files = list(files)
    folders = sorted({file.parent.relative_to(root) for file in files})
    found = _of_another_kind(folders, holds)
    if found is None and holds == "good":
        found = _beside_good(folders) or _masks_among(files, root)
    if found is None:
        return None
    words, example = found
    return Mixed(words, root / example, _instead(root, folders, holds))


def _of_another_kind(folders: list[Path], holds: Holds) -> tuple[str, Path] | None:
    for kind in _OF_ANOTHER_KIND[holds]:
        for folder in folders:
            for i, name in enumerate(folder.parts):
                if kind_of(name, strictly=kind is Kind.GOOD) is kind:
                    return kind.value, Path(*folder.parts[: i + 1])
    return None


def _beside_good(folders: list[Path]) -> tuple[str, Path] | None:
    """A folder of good parts with another one beside it: these are kinds of defects."""
    children: dict[tuple[str, ...], set[str]] = {}
    for folder in folders:
        for i, name in enumerate(folder.parts):
            children.setdefault(folder.parts[:i], set()).add(name)
    for parent, names in sorted(children.items()):
        others = sorted(name for name in names if kind_of(name) is not Kind.GOOD)
        if others and any(is_good(name) for name in names):
            return "folders beside the one of good parts", Path(*parent, others[0])
    return None


def _masks_among(files: list[Path], root: Path) -> tuple[str, Path] | None:
    """A file such as `000_mask.png` beside `000.png`, or `label/000.png` beside a folder with such an image."""
    stems: dict[tuple[Path, str], set[str]] = {}
    for file in files:
        stems.setdefault((file.parent, file.stem.casefold()), set()).add(file.suffix.casefold())
    apart = {(file.parent.parent, file.stem.casefold()) for file in files if not _is_label(file)}
    for file in files:
        base = _MASK_ENDING.sub("", file.stem).casefold()
        if is_mask_of(file.stem) and (file.parent, base) in stems:
            return "masks", file.relative_to(root)
        if _is_label(file) and file.parent != root:
            base = _LABEL_ENDING.sub("", base)
            if (file.parent.parent, base) in stems or (file.parent.parent, base) in apart:
                return "masks", file.relative_to(root)
        # Kolektor's Part0.jpg and Part0_label.bmp; in one format they may be the part and the label that it bears
        base = _LABEL_ENDING.sub("", file.stem).casefold()
        if base != file.stem.casefold() and stems.get((file.parent, base), set()) - {file.suffix.casefold()}:
            return "masks", file.relative_to(root)
    return None


def _is_label(file: Path) -> bool:
    return joined_name(file.parent.name) in ANNOTATIONS


def is_mask_of(stem: str) -> bool:
    """Whether a file name ends as those of masks do."""
    return _MASK_ENDING.search(stem) is not None


def _instead(root: Path, folders: list[Path], holds: Holds) -> Path | None:
    """The folder to give: one that its name tells, of training images where there is one."""
    wanted = [f for f in folders if _is_all(f, holds)]
    wanted.sort(key=lambda f: (not any(kind_of(name) is Kind.TRAIN for name in f.parts), len(f.parts), f))
    if wanted:
        parts = wanted[0].parts
        last = max(i for i, name in enumerate(parts) if _says(name, holds))
        return root / Path(*parts[: last + 1])
    train = {Path(*f.parts[: i + 1]) for f in folders for i, name in enumerate(f.parts) if kind_of(name) is Kind.TRAIN}
    if holds == "defects" or len(train) != 1:
        return None
    (folder,) = train
    below = [name for f in folders if f.is_relative_to(folder) for name in f.relative_to(folder).parts]
    return root / folder if all(map(is_neutral, below)) else None


def _says(name: str, holds: Holds) -> bool:
    return is_good(name) if holds == "good" else kind_of(name) is Kind.BAD


def _is_all(folder: Path, holds: Holds) -> bool:
    others = {Kind.BAD, Kind.MASK} if holds == "good" else {Kind.GOOD, Kind.MASK}
    return any(_says(name, holds) for name in folder.parts) and not any(kind_of(n) in others for n in folder.parts)
