"""Opening a dataset: which layout a folder has, and what it holds."""

from __future__ import annotations

from pathlib import Path

from patchbank.datasets import mtd, mvtec, visa
from patchbank.datasets.dataset import Dataset
from patchbank.errors import DatasetError
from patchbank.images.listing import list_images

# In the order in which a folder is tried; "folder" takes any folder, so only as the last resort.
_MATCHES = {"mtd": mtd.matches, "mvtec3d": mvtec.matches_3d, "mvtec": mvtec.matches, "visa": visa.matches}
LAYOUTS = ("folder", "mvtec", "mvtec3d", "mtd", "visa")


def open_dataset(
    root: str | Path,
    *,
    layout: str = "auto",
    seed: int = 0,
    split: str | Path | None = None,
    train_list: str = "train",
) -> Dataset:
    """The one dataset (or category) in the folder `root`.

    `layout` is one of `LAYOUTS`, or "auto" to recognise it. `seed` draws the training images of layouts
    without a fixed split (mtd); `split` is a JSON file that lists them instead, and `train_list` the list of
    that file to train on.

    Raises `DatasetError` where the folder is missing, has no images, holds several categories, or is not of
    that layout.
    """
    root = _existing(root)
    if layout == "auto":
        layout = _recognise(root)
    elif layout not in LAYOUTS:
        raise DatasetError(f"There is no dataset layout {layout!r}; choose one of auto, {', '.join(LAYOUTS)}.")
    if split is None and train_list != "train":
        raise DatasetError(f"{train_list!r} is a list of a split file; name that file too.")
    if layout == "mtd":
        return mtd.read(root, seed=seed, split=Path(split) if split is not None else None, train_list=train_list)
    if split is not None:
        raise DatasetError(f"{root} has the {layout} layout, which takes no split file ({split}); only mtd does.")
    if layout == "mvtec":
        return mvtec.read(root)
    if layout == "mvtec3d":
        return mvtec.read_3d(root)
    if layout == "visa":
        return visa.read(root)
    return _read_folder(root)


def open_datasets(
    root: str | Path,
    *,
    layout: str = "auto",
    seed: int = 0,
    split: str | Path | None = None,
    train_list: str = "train",
) -> list[Dataset]:
    """The datasets in the folder `root`: one per category where it holds categories, else just the one.

    Sub-folders that are no category (or not of `layout`) are passed over. Arguments and errors as for
    `open_dataset`.
    """
    root = _existing(root)
    if layout == "folder" or _layout_of(root) is not None:
        folders = [root]
    else:
        folders = [folder for folder in _categories(root) if layout in ("auto", _layout_of(folder))] or [root]
    return [open_dataset(folder, layout=layout, seed=seed, split=split, train_list=train_list) for folder in folders]


def _read_folder(root: Path) -> Dataset:
    train = tuple(list_images(root))
    if not train:
        raise DatasetError(f"{root} holds no images, also not in its sub-folders.")
    return Dataset(root.resolve().name, root, "folder", train, (), mask_above=0)


def _existing(root: str | Path) -> Path:
    root = Path(root)
    if not root.exists():
        raise DatasetError(f"{root} does not exist; name the folder of the images.")
    if not root.is_dir():
        raise DatasetError(f"{root} is a file; name the folder of the images.")
    return root


def _recognise(root: Path) -> str:
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
    if mvtec.half_matches(root) or mvtec.has_defects_beside_good(root):
        raise DatasetError(
            f"{root} has no train/good folder, which the mvtec layout needs; "
            "name layout folder to take every image below it as a good part."
        )
    return "folder"


def _layout_of(root: Path) -> str | None:
    return next((layout for layout, matches in _MATCHES.items() if matches(root)), None)


def _categories(root: Path) -> list[Path]:
    """The sub-folders of `root` that are datasets; half a category beside them is an error."""
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    categories = [folder for folder in folders if _layout_of(folder) is not None]
    broken = [folder for folder in folders if folder not in categories and mvtec.half_matches(folder)]
    if categories and broken:
        raise DatasetError(
            f"{broken[0]} has no train/good folder, which the mvtec layout needs; complete or remove it."
        )
    return categories
