"""Opening a dataset: which layout a folder has, and what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from patchbank._system.remote import RemotePath, forget, located
from patchbank.data.datasets import mtd, mvtec, visa
from patchbank.data.datasets.dataset import Dataset
from patchbank.data.datasets.found import Found
from patchbank.data.folder_content import find_mixed
from patchbank.data.listing import PassedOver, Reason, list_folder
from patchbank.data.pairing import Pairing
from patchbank.data.sources import OnError, without_images
from patchbank.errors import DatasetError, notify

_NO_CATEGORY: Reason = ("folder of images that is no category", "folders of images that are no categories")
# In the order in which a folder is tried; "folder" takes any folder, so only as the last resort.
_MATCHES = {"mtd": mtd.matches, "mvtec3d": mvtec.matches_3d, "mvtec": mvtec.matches, "visa": visa.matches}
LAYOUTS = ("folder", "mvtec", "mvtec3d", "mtd", "visa")
Needs: TypeAlias = Literal["train", "test", "both"]


def open_dataset(
    root: str | Path,
    *,
    layout: str = "auto",
    seed: int = 0,
    split: str | Path | None = None,
    train_list: str = "train",
    on_error: OnError | None = None,
    quiet: bool = False,
    needs: Needs = "train",
) -> Dataset:
    """The one dataset (or category) in the folder `root`.

    Args:
        root: the folder.
        layout: one of `LAYOUTS`, or "auto" to recognise it.
        seed: draws the training images of layouts without a fixed split (mtd).
        split: a JSON file that lists the training images instead.
        train_list: the list of that file to train on.
        on_error: called with (name, error) for what should have been trained on and cannot be, such as a folder that
            may not be opened. What else is not trained on is said in a `PatchbankWarning`.
        quiet: say neither; `Dataset.train_found` has both.
        needs: which images the caller uses. With "test", a folder without training images is taken too; with "train",
            an error says how to learn from every image.

    Raises:
        DatasetError: the folder is missing, has no images, holds several categories, or is not of that layout.
    """
    dataset = _read(_existing(root), layout, seed, split, train_list, needs)
    if quiet:
        return dataset
    if words := dataset.train_found.sentence(dataset.root, "training"):
        notify(words)
    if on_error is not None:
        for failed in dataset.train_found.failed:
            on_error(str(failed.path), failed.error)
    return dataset


def _read(root: Path, layout: str, seed: int, split: str | Path | None, train_list: str, needs: Needs) -> Dataset:
    if needs == "test" and split is None and _is_test_set(root, layout):
        return mvtec.read_test_set(root)
    if layout == "auto":
        layout = _recognise(root, needs)
    elif layout not in LAYOUTS:
        raise DatasetError(f"There is no dataset layout {layout!r}; choose one of auto, {', '.join(LAYOUTS)}.")
    if split is None and train_list != "train":
        raise DatasetError(f"{train_list!r} is a list of a split file; name that file too.")
    if split is not None and layout != "mtd":
        raise DatasetError(f"{root} has the {layout} layout, which takes no split file ({split}); only mtd does.")
    if layout == "mtd":
        return mtd.read(root, seed=seed, split=Path(split) if split is not None else None, train_list=train_list)
    return _READERS[layout](root)


def open_datasets(
    root: str | Path,
    *,
    layout: str = "auto",
    seed: int = 0,
    split: str | Path | None = None,
    train_list: str = "train",
    on_error: OnError | None = None,
    needs: Needs = "train",
) -> list[Dataset]:
    """The datasets in the folder `root`: one per category where it holds categories, else just the one.

    Sub-folders that are no category (or not of `layout`) are passed over, and said. Arguments and errors as for
    `open_dataset`.
    """
    root = _existing(root)
    if layout == "folder" or _layout_of(root) is not None:
        folders = [root]
    else:
        folders = [folder for folder in _categories(root) if layout in ("auto", _layout_of(folder))] or [root]
    if folders != [root]:
        others = [folder for folder in mvtec.subfolders(root) if folder not in folders and list_folder(folder).files]
        if others:
            notify(f"{root}: passed over {PassedOver(_NO_CATEGORY, len(others), others[0])}")
    return [
        open_dataset(
            folder, layout=layout, seed=seed, split=split, train_list=train_list, on_error=on_error, needs=needs
        )
        for folder in folders
    ]


def check_tested(dataset: Dataset, needs: Needs = "test") -> None:
    """Raise `DatasetError` where a dataset has no test images."""
    if dataset.test:
        return
    wanted = _WANTED_TO_MEASURE if needs == "both" else _WANTED_TO_TEST
    raise DatasetError(f"{dataset.root}: has no test images ({dataset.layout} layout); {wanted}")


_WANTED_TO_MEASURE = "name a folder DATASET with DATASET/train/good, DATASET/test/good and DATASET/test/<defect>"
_WANTED_TO_TEST = (
    "name a folder DATASET with DATASET/test/good and DATASET/test/<defect>, or one with `good` beside folders of "
    "defects"
)


def _read_folder(root: Path) -> Dataset:
    listing = list_folder(root)
    samples = Pairing().samples(listing.files, listing.points)
    listing = listing.taken({path for sample in samples for path in sample.channels.values()})
    if not samples:
        raise DatasetError(f"{without_images(listing)}; {root} holds no images, also not in its sub-folders.")
    files = tuple(file for sample in samples if (file := sample.file))
    return Dataset(root.resolve().name, root, "folder", files, (), 0, Found.of([listing]))


_READERS = {"folder": _read_folder, "mvtec": mvtec.read, "mvtec3d": mvtec.read_3d, "visa": visa.read}


def _existing(root: str | Path) -> Path:
    root = located(root)
    if isinstance(root, RemotePath):
        forget()
    if not root.exists():
        raise DatasetError(f"{root} does not exist; name the folder of the images.")
    if not root.is_dir():
        raise DatasetError(f"{root} is a file; name the folder of the images.")
    return root


def _is_test_set(root: Path, layout: str) -> bool:
    """Whether `root` has test images alone, and is read as such under that layout."""
    if layout == "auto":
        return _layout_of(root) is None and mvtec.is_test_set(root)
    return layout in ("mvtec", "mvtec3d") and not _MATCHES[layout](root) and mvtec.is_test_set(root)


def _recognise(root: Path, needs: Needs) -> str:
    """The layout of `root`; an error where it is none but shows signs of holding defective parts too."""
    layout = _layout_of(root)
    if layout is not None:
        return layout
    categories = [folder.name for folder in _categories(root)]
    if categories:
        names = ", ".join(categories[:3]) + (", …" if len(categories) > 3 else "")
        raise DatasetError(
            f"{root} holds {len(categories)} categories ({names}) where one is needed; name one of them."
        )
    mixed = find_mixed(root, list_folder(root).files, "good")
    if mixed is not None or mvtec.half_matches(root):
        holds = f", and holds {mixed.words} ({mixed.example})" if mixed else ""
        instead = f", such as {mixed.instead}" if mixed and mixed.instead else ""
        if needs == "test":
            raise DatasetError(f"{root} has no folders of test images{holds}: {_WANTED_TO_TEST}.")
        if needs == "both":
            raise DatasetError(
                f"{root} has no train/good folder, which the mvtec layout needs{holds}: {_WANTED_TO_MEASURE}."
            )
        raise DatasetError(
            f"{root} has no train/good folder, which the mvtec layout needs{holds}: name the folder of good images"
            f"{instead}, or give --layout folder to take every image below it as a good part."
        )
    return "folder"


def _layout_of(root: Path) -> str | None:
    return next((layout for layout, matches in _MATCHES.items() if matches(root)), None)


def _categories(root: Path) -> list[Path]:
    """The sub-folders of `root` that are datasets; half a category beside them is an error."""
    folders = mvtec.subfolders(root)
    categories = [folder for folder in folders if _layout_of(folder) is not None]
    broken = [folder for folder in folders if folder not in categories and mvtec.half_matches(folder)]
    if categories and broken:
        raise DatasetError(
            f"{broken[0]} has no train/good folder, which the mvtec layout needs; complete or remove it."
        )
    return categories
