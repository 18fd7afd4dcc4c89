"""The layouts of the MVTec family: one category is a folder with good parts to train on and one test folder
per defect.

mvtec      train/good/*.png   test/<defect>/*.png       ground_truth/<defect>/<stem>_mask.png
BTAD       train/ok           test/ok, test/ko          ground_truth/ko/<stem>.png
LOCO       train/good         test/<defect>             ground_truth/<defect>/<stem>/*.png
AD 2       train/good         test_public/<defect>      test_public/ground_truth/<defect>/<stem>_mask.png
mvtec3d    train/good/rgb     test/<defect>/rgb         test/<defect>/gt/<stem>.png

Names of folders are taken in any case and as other tools write them (`patchbank.data.folder_names`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from patchbank._system.remote import child_of, entries_of
from patchbank.data.datasets.dataset import GOOD, Dataset, LabelledImage
from patchbank.data.datasets.found import NOTHING, Found
from patchbank.data.datasets.masks import Masks, is_usual
from patchbank.data.folder_content import is_mask_of
from patchbank.data.folder_names import ANNOTATIONS, Kind, is_good, is_neutral, joined_name, kind_of
from patchbank.data.listing import IMAGE_SUFFIXES, Listing, Reason, list_folder
from patchbank.errors import DatasetError

_TEST = frozenset(("test", "testing", "testpublic"))  # other folders of test images have no labels

_STRAY_TRAIN: Reason = ("training image that no folder calls good", "training images that no folder calls good")
_BAD_TRAIN: Reason = ("defective training image", "defective training images")
_MASK_TRAIN: Reason = ("mask of training images", "masks of training images")
_STRAY_TEST: Reason = ("test image in no folder of its kind", "test images in no folder of their kind")
_NO_ROLE: Reason = ("image in a folder that is not used", "images in folders that are not used")
_UNUSED_MASK: Reason = ("mask that belongs to no image", "masks that belong to no image")
_NO_MASK: Reason = ("defective image without a mask", "defective images without a mask")


def matches(root: Path) -> bool:
    """Whether `root` has the train/good (or train/ok, train/normal, …) folder of a category with plain images."""
    good = _good_of(root)
    return bool(good) and not any(_below(folder, "rgb") for folder in good)


def matches_3d(root: Path) -> bool:
    """Whether `root` is a category of MVTec 3D-AD, with colour images in `rgb` folders."""
    return any(_below(folder, "rgb") for folder in _good_of(root))


def half_matches(root: Path) -> bool:
    """Whether `root` has some of the folders of a category: its images are then not all good parts."""
    return any(kind_of(folder.name) in (Kind.TRAIN, Kind.TEST, Kind.MASK) for folder in subfolders(root))


def is_test_set(root: Path) -> bool:
    """Whether `root` is for testing alone: it has a folder of test images, or is one: good parts beside defects."""
    folders = subfolders(root)
    if any(joined_name(folder.name) in _TEST for folder in folders):
        return True
    parts = [folder for folder in folders if not _holds_masks(folder)]
    return any(_is_good_part(folder) for folder in parts) and any(
        not _is_good_part(folder) and _images_in(folder, deep=True) for folder in parts
    )


def read_test_set(root: Path) -> Dataset:
    """The test images at `root`, which has no training images or needs none.

    Masks lie in `root`, or beside it where it is the test folder of a category.
    """
    tests = [folder for folder in subfolders(root) if joined_name(folder.name) in _TEST]
    is_category = bool(tests)
    tests = tests or [root]
    below = "rgb" if any(_below(folder, "rgb") for test in tests for folder in subfolders(test)) else ""
    tested = _Tested(below)
    beside = [root] if is_category or joined_name(root.resolve().name) not in _TEST else [root, root.resolve().parent]
    masks = [folder for place in beside for folder in subfolders(place) if _holds_masks(folder)]
    for test in tests:
        listing = list_folder(test)
        files = tuple(file for file in listing.files if not any(file.is_relative_to(folder) for folder in masks))
        tested.take(replace(listing, files=files))
    masks.sort(key=lambda folder: kind_of(folder.name) is not Kind.MASK)  # folders of labels are the second choice
    for folder in masks:
        if kind_of(folder.name) is Kind.MASK or not tested.masks.everything:
            tested.take_masks(list_folder(folder))
    return Dataset(
        root.resolve().name, root, "mvtec3d" if below else "mvtec", (), tested.samples(), 0, NOTHING, tested.found
    )


def _holds_masks(folder: Path) -> bool:
    return kind_of(folder.name) is Kind.MASK or joined_name(folder.name) in ANNOTATIONS


def _is_good_part(folder: Path) -> bool:
    return kind_of(folder.name) is Kind.GOOD


def read(root: Path) -> Dataset:
    """The category of plain images at `root`. Raises `DatasetError` if it has no good images."""
    return _read(root, "mvtec", below="")


def read_3d(root: Path) -> Dataset:
    """The colour images of the MVTec 3D-AD category at `root`; `data.pairing` finds their points.

    Raises `DatasetError` if none is good.
    """
    return _read(root, "mvtec3d", below="rgb")


def _read(root: Path, layout: str, below: str) -> Dataset:
    train, train_found = _train(root, below)
    tested = _Tested(below)
    labels = []
    for folder in subfolders(root):
        if joined_name(folder.name) in _TEST:
            tested.take(list_folder(folder))
        elif kind_of(folder.name) is Kind.MASK:
            tested.take_masks(list_folder(folder))
        elif joined_name(folder.name) in ANNOTATIONS:
            labels.append(folder)
        elif kind_of(folder.name) is not Kind.TRAIN:
            train_found = train_found.joined(_not_used(list_folder(folder)))
    if not tested.masks.everything:
        for folder in labels:
            tested.take_masks(list_folder(folder))
    train_found = train_found.without(_NO_ROLE, _images_in(root))
    samples = tested.samples()
    return Dataset(root.resolve().name, root, layout, train, samples, 0, train_found, tested.found)


def _train(root: Path, below: str) -> tuple[tuple[Path, ...], Found]:
    good = _good_of(root)
    if not good:
        raise DatasetError(
            f"{root} has no train/good folder, which the mvtec layouts need; "
            "put the good images there, or name another layout."
        )
    if below and not any(_below(folder, below) for folder in good):
        raise DatasetError(
            f"{root} has no train/good/{below} folder, which the mvtec3d layout needs; try layout mvtec."
        )
    train: list[Path] = []
    left: dict[Reason, list[Path]] = {_STRAY_TRAIN: [], _BAD_TRAIN: [], _MASK_TRAIN: []}
    listings = [list_folder(folder) for folder in _train_folders(root)]
    for listing in listings:
        for file in listing.files:
            folders = file.parent.relative_to(listing.root).parts
            kinds = {kind_of(name) for name in folders}
            if Kind.MASK in kinds or ANNOTATIONS & {joined_name(name) for name in folders}:
                left[_MASK_TRAIN].append(file)
            elif Kind.BAD in kinds:
                left[_BAD_TRAIN].append(file)
            elif not any(file.is_relative_to(folder) for folder in good):
                left[_STRAY_TRAIN].append(file)
            elif not below or _is_below(folders, below):
                train.append(file)
    if not train:
        raise DatasetError(f"{good[0] / below} holds no images; put the good images there.")
    found = Found.of(listings)
    for reason, files in left.items():
        found = found.without(reason, files)
    return tuple(sorted(train)), found


@dataclass
class _Tested:
    """The test images and masks of a category. `below`: the folder in that of a defect that its images lie in."""

    below: str
    masks: Masks = field(default_factory=Masks)
    found: Found = NOTHING
    _images: list[tuple[Path, tuple[str, ...], str]] = field(default_factory=list)  # file, key parts, defect

    def take(self, listing: Listing) -> None:
        """A folder of test images, one folder for each kind."""
        parts = {file: file.relative_to(listing.root).parts for file in listing.files}
        first = {p[0] for p in parts.values() if len(p) > 1}
        good = {name for name in first if is_good(name)} or {name for name in first if kind_of(name) is Kind.GOOD}
        stray = []
        for file, p in parts.items():
            if any(kind_of(name) is Kind.MASK for name in p[:-1]):
                self.masks.add([*(name for name in p[:-1] if kind_of(name) is not Kind.MASK), p[-1]], file)
            elif len(p) < 2:
                stray.append(file)
            elif not self.below or _is_below(p[:-1], self.below):
                key = (*(name for name in p[:-1] if name.casefold() != self.below), p[-1]) if self.below else p
                self._images.append((file, key, GOOD if p[0] in good else p[0]))
        self.found = self.found.joined(Found(listing.passed_over, listing.failed)).without(_STRAY_TEST, stray)

    def take_masks(self, listing: Listing) -> None:
        """A folder of masks, in folders of the defects' names or without."""
        for file in listing.files:
            parts = file.relative_to(listing.root).parts
            self.masks.add([*(n for n in parts[:-1] if kind_of(n) not in (Kind.TEST, Kind.MASK)), parts[-1]], file)
        self.found = self.found.joined(Found(listing.passed_over, listing.failed))

    def samples(self) -> tuple[LabelledImage, ...]:
        """The labelled images, sorted by path, each with its mask; what has no partner is counted."""
        assigned = self.masks.assign((file, key) for file, key, _ in self._images)
        assigned |= self._masks_beside(assigned)
        masks = set(assigned.values())
        samples = [LabelledImage(f, defect, assigned.get(f)) for f, _, defect in self._images if f not in masks]
        odd = [mask for file, mask in assigned.items() if not is_usual(mask, file)]
        if odd:
            remark = f"{len(odd)} masks are found by names that differ from IMAGE_mask (such as {odd[0]})"
            self.found = self.found.joined(Found(remarks=(remark,)))
        bare = [sample.path for sample in samples if sample.defect != GOOD and sample.mask is None]
        self.found = self.found.without(_UNUSED_MASK, self.masks.unused()).without(_NO_MASK, bare)
        return tuple(sorted(samples, key=lambda sample: sample.path))

    def _masks_beside(self, assigned: dict[Path, Path]) -> dict[Path, Path]:
        """Masks such as 000_mask.png in the folder of 000.png itself, where that has no other mask."""
        candidates = Masks()
        for file, _, defect in self._images:
            if is_mask_of(file.stem) and defect != GOOD and file not in assigned:
                candidates.add((str(file.parent), file.name), file)
        others = [
            (file, (str(file.parent), file.name))
            for file, _, defect in self._images
            if defect != GOOD and file not in assigned and file not in candidates.everything
        ]
        return candidates.assign(others)


def _not_used(listing: Listing) -> Found:
    """A folder of a category that is neither for training nor for testing."""
    return Found().without(_NO_ROLE, listing.files)


def _good_of(root: Path) -> list[Path]:
    """The folders of good training images: those that are called good, else the training folder itself where nothing
    in it is called anything else."""
    found = []
    for train in _train_folders(root):
        folders = subfolders(train)
        good = [folder for folder in folders if is_good(folder.name)]
        if not good:
            good = [folder for folder in folders if kind_of(folder.name) is Kind.GOOD]
        if not good and _images_in(train, deep=True) and all(is_neutral(folder.name) for folder in folders):
            good = [train]
        found += good
    return found


def _train_folders(root: Path) -> list[Path]:
    return [folder for folder in subfolders(root) if kind_of(folder.name) is Kind.TRAIN]


def _below(folder: Path, name: str) -> bool:
    return any(child.name.casefold() == name for child in subfolders(folder))


def _is_below(folders: Iterable[str], name: str) -> bool:
    return any(folder.casefold() == name for folder in folders)


def _images_in(folder: Path, *, deep: bool = False) -> list[Path]:
    """The images that lie directly in a folder; `deep`: also below it."""
    if deep:
        return list(list_folder(folder).files)
    entries = [entry for entry in entries_of(folder) if entry.is_file() and not entry.name.startswith(".")]
    return [child_of(folder, e) for e in entries if os.path.splitext(e.name)[1].lower() in IMAGE_SUFFIXES]


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder that are not hidden, sorted; none where it cannot be opened."""
    try:
        return [child_of(folder, e) for e in entries_of(folder) if e.is_dir() and e.name and not e.name.startswith(".")]
    except OSError:
        return []
