"""The layout of the Magnetic Tile Defects: MT_Free and one MT_<Defect> per kind, each with Imgs/*.jpg and
masks *.png.

It comes without a split. The papers train on 80 % of the good images: drawn here by a seed, or listed in a
JSON file:

    {"train": ["MT_Free/Imgs/a.jpg", …], "test_good": [… ], "test_defect": {"Blowhole": [… ], …}}

with paths relative to the root. Further lists of training images may stand beside `train`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from patchbank._system.remote import child_of, entries_of
from patchbank.data.datasets.dataset import GOOD, Dataset, LabelledImage
from patchbank.data.datasets.found import Found
from patchbank.data.listing import Listing, Reason, list_folder
from patchbank.errors import DatasetError

_PREFIX = "MT_"
_FREE = "MT_Free"
_TRAIN_SHARE = 0.8
_UNUSED_MASK: Reason = ("mask that belongs to no image", "masks that belong to no image")
_NO_MASK: Reason = ("defective image without a mask", "defective images without a mask")
_MASK_ABOVE = 127  # the masks are JPEG-like grey at their edges


def matches(root: Path) -> bool:
    """Whether `root` has the MT_Free folder."""
    return (root / _FREE).is_dir()


def read(root: Path, *, seed: int = 0, split: Path | None = None, train_list: str = "train") -> Dataset:
    """The dataset at `root`, split by `seed` or by the JSON file `split` (training on its list `train_list`).

    Raises `DatasetError` where images or listed files are missing, or an image is listed both for training
    and for testing.
    """
    if not matches(root):
        raise DatasetError(f"{root} has no {_FREE} folder, which the mtd layout needs; name another layout.")
    below = [entry for entry in entries_of(root) if entry.name.startswith(_PREFIX) and entry.is_dir()]
    folders = {entry.name: list_folder(child_of(root, entry)) for entry in below}
    train, test_good, defective = _draw(root, folders, seed) if split is None else _listed(root, split, train_list)
    test = [LabelledImage(path, GOOD, None) for path in test_good]
    test += [LabelledImage(path, kind, _mask_of(path)) for kind, paths in defective.items() for path in paths]
    test.sort(key=lambda sample: sample.path)
    bare = [sample.path for sample in test if sample.defect != GOOD and sample.mask is None]
    lost = [file for listing in folders.values() for file in _masks_alone(listing)]
    found = Found.of(folders.values()).without(_UNUSED_MASK, lost).without(_NO_MASK, bare)
    of_train = Found.of([folders[_FREE]])
    return Dataset(root.resolve().name, root, "mtd", tuple(sorted(train)), tuple(test), _MASK_ABOVE, of_train, found)


_Parts = tuple[list[Path], list[Path], dict[str, list[Path]]]  # train, test good, test defective by kind


def _draw(root: Path, folders: dict[str, Listing], seed: int) -> _Parts:
    good = _images(folders[_FREE])
    n_train = int(_TRAIN_SHARE * len(good))
    if n_train == 0:
        raise DatasetError(
            f"{root / _FREE} holds {len(good)} images; the mtd layout needs at least 2 good ones to split."
        )
    order = np.random.default_rng(seed).permutation(len(good))
    return (
        [good[i] for i in order[:n_train]],
        [good[i] for i in order[n_train:]],
        {name.removeprefix(_PREFIX).lower(): _images(folder) for name, folder in folders.items() if name != _FREE},
    )


def _listed(root: Path, split: Path, train_list: str) -> _Parts:
    lists = _load(split)
    train = _paths(lists, train_list, split)
    test_good = _paths(lists, "test_good", split)
    by_kind = lists.get("test_defect", {})
    if not isinstance(by_kind, dict):
        raise DatasetError(f"{split}: test_defect must map each kind of defect to a list of paths.")
    defective = {kind.removeprefix(_PREFIX).lower(): _paths(by_kind, kind, split) for kind in by_kind}
    everything = [train, test_good, *defective.values()]
    missing = [path for paths in everything for path in paths if not (root / path).is_file()]
    if missing:
        raise DatasetError(f"{split} lists {len(missing)} files that are not below {root}, the first is {missing[0]}.")
    both = set(train) & {path for paths in everything[1:] for path in paths}
    if both:
        raise DatasetError(
            f"{split} lists {min(both)} both for training and for testing; an image must be in one of them."
        )
    return (
        [root / path for path in train],
        [root / path for path in test_good],
        {kind: [root / path for path in paths] for kind, paths in defective.items()},
    )


def _load(split: Path) -> dict[str, Any]:
    try:
        lists = json.loads(split.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{split}: the split cannot be read as a JSON file ({error}).") from None
    if not isinstance(lists, dict):
        raise DatasetError(f"{split}: a split must be a JSON object with lists of paths.")
    return lists


def _paths(lists: dict[str, Any], name: str, split: Path) -> list[str]:
    paths = lists.get(name)
    if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths):
        usable = ", ".join(sorted(key for key, value in lists.items() if isinstance(value, list) and value))
        raise DatasetError(f"{split} has no list of paths called {name!r}; its lists are: {usable or 'none'}.")
    return paths


def _images(folder: Listing) -> list[Path]:
    """The images of one MT_ folder: a PNG there is a mask, in MT_Free too."""
    return [path for path in folder.files if path.suffix.lower() != ".png"]


def _masks_alone(folder: Listing) -> list[Path]:
    """Masks in one MT_ folder that belong to no image."""
    images = {path.with_suffix("") for path in _images(folder)}
    return [path for path in folder.files if path.suffix.lower() == ".png" and path.with_suffix("") not in images]


def _mask_of(path: Path) -> Path | None:
    return next((mask for mask in (path.with_suffix(".png"), path.with_suffix(".PNG")) if mask.is_file()), None)
