"""The layouts of the MVTec family: one category is a folder with good parts to train on and one test folder
per defect.

mvtec      train/good/*.png   test/<defect>/*.png       ground_truth/<defect>/<stem>_mask.png
BTAD       train/ok           test/ok, test/ko          ground_truth/ko/<stem>.png
LOCO       train/good         test/<defect>             ground_truth/<defect>/<stem>/*.png
AD 2       train/good         test_public/<defect>      test_public/ground_truth/<defect>/<stem>_mask.png
mvtec3d    train/good/rgb     test/<defect>/rgb         test/<defect>/gt/<stem>.png
"""

from __future__ import annotations

from pathlib import Path

from patchbank.datasets.dataset import GOOD, Dataset, Sample
from patchbank.errors import DatasetError
from patchbank.images.listing import list_images

_GOOD_FOLDERS = ("good", "ok")
_TEST_FOLDERS = ("test", "test_public")
_MASK_FOLDER = "ground_truth"


def matches(root: Path) -> bool:
    """Whether `root` has the train/good (or train/ok) folder of a category with plain images."""
    good = _train_good(root)
    return good is not None and not (good / "rgb").is_dir()


def matches_3d(root: Path) -> bool:
    """Whether `root` is a category of MVTec 3D-AD, with colour images in `rgb` folders."""
    good = _train_good(root)
    return good is not None and (good / "rgb").is_dir()


def half_matches(root: Path) -> bool:
    """Whether `root` has some of the folders of a category: its images are then not all good parts."""
    return any((root / name).is_dir() for name in ("train", *_TEST_FOLDERS, _MASK_FOLDER))


def has_defects_beside_good(root: Path) -> bool:
    """Whether `root` looks like a test folder: one sub-folder of good parts, and others beside it."""
    folders = _subfolders(root)
    return len(folders) > 1 and any(_is_good(folder) for folder in folders)


def read(root: Path) -> Dataset:
    """The category of plain images at `root`. Raises `DatasetError` if it has no good images."""
    train = _train_images(root, below="")
    test: list[Sample] = []
    for folder in _test_folders(root):
        masks = _Masks(*(parent / _MASK_FOLDER / folder.name for parent in (root, folder.parent)))
        test += _samples(folder, folder, masks)
    return Dataset(root.resolve().name, root, "mvtec", train, tuple(test), mask_above=0)


def read_3d(root: Path) -> Dataset:
    """The colour images of the MVTec 3D-AD category at `root`. Raises `DatasetError` if none is good."""
    train = _train_images(root, below="rgb")
    test: list[Sample] = []
    for folder in _test_folders(root):
        test += _samples(folder, folder / "rgb", _Masks(folder / "gt"))
    return Dataset(root.resolve().name, root, "mvtec3d", train, tuple(test), mask_above=0)


class _Masks:
    """The masks below some folders, by their image: its path below its defect's folder, without suffix."""

    def __init__(self, *folders: Path) -> None:
        self._folders = tuple(folder for folder in folders if folder.is_dir())
        self._files = {
            file.relative_to(folder).with_suffix("").as_posix(): file
            for folder in self._folders
            for file in list_images(folder)
        }

    def of(self, image: str) -> Path | None:
        file = self._files.get(f"{image}_mask") or self._files.get(image)
        if file is not None:
            return file
        return next((folder / image for folder in self._folders if (folder / image).is_dir()), None)


def _samples(folder: Path, images: Path, masks: _Masks) -> list[Sample]:
    """The test images of one defect's `folder`, which lie below `images`; an empty folder has none."""
    if not images.is_dir():
        return []
    if _is_good(folder):
        return [Sample(path, GOOD, None) for path in list_images(images)]
    return [
        Sample(path, folder.name, masks.of(path.relative_to(images).with_suffix("").as_posix()))
        for path in list_images(images)
    ]


def _train_images(root: Path, below: str) -> tuple[Path, ...]:
    good = _train_good(root)
    if good is None:
        raise DatasetError(
            f"{root} has no train/good folder, which the mvtec layouts need; "
            "put the good images there, or name another layout."
        )
    images = good / below
    if not images.is_dir():
        raise DatasetError(
            f"{root} has no train/good/{below} folder, which the mvtec3d layout needs; try layout mvtec."
        )
    train = tuple(list_images(images))
    if not train:
        raise DatasetError(f"{images} holds no images; put the good images there.")
    return train


def _train_good(root: Path) -> Path | None:
    return next((folder for folder in _subfolders(root / "train") if _is_good(folder)), None)


def _test_folders(root: Path) -> list[Path]:
    folders = [folder for name in _TEST_FOLDERS for folder in _subfolders(root / name)]
    return [folder for folder in folders if folder.name != _MASK_FOLDER]


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _is_good(folder: Path) -> bool:
    return folder.name.lower() in _GOOD_FOLDERS
