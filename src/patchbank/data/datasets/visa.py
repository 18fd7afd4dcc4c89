"""The layout of VisA: categories side by side, and one table beside them that says what each image is.

`split_csv/1cls.csv` has the columns object, split (train or test), label (normal or anomaly), image and mask,
the last two as paths relative to the folder that holds the categories.
"""

from __future__ import annotations

import csv
from pathlib import Path

from patchbank.data.datasets.dataset import GOOD, Dataset, LabelledImage
from patchbank.data.datasets.found import Found
from patchbank.data.folder_names import is_good
from patchbank.data.listing import Reason, list_folder
from patchbank.errors import DatasetError

_TABLE = Path("split_csv") / "1cls.csv"
_UNLISTED: Reason = ("image that the table does not list", "images that the table does not list")
_BAD_TRAIN: Reason = ("defective training image", "defective training images")
_NO_MASK: Reason = ("defective image without a mask", "defective images without a mask")
_COLUMNS = ("object", "split", "label", "image", "mask")


def matches(root: Path) -> bool:
    """Whether `root` is a category with the table of VisA beside it."""
    return _table_of(root).is_file() and (root / "Data").is_dir()


def read(root: Path) -> Dataset:
    """The category at `root`. Raises `DatasetError` where the table or files that it names are missing."""
    table = _table_of(root)
    name = root.resolve().name
    rows = [row for row in _rows(table) if row["object"] == name]
    of_train = [row for row in rows if row["split"] == "train"]
    train = [_file(root, row["image"]) for row in of_train if is_good(row["label"])]
    bad = [_file(root, row["image"]) for row in of_train if not is_good(row["label"])]
    test = [_sample(root, row) for row in rows if row["split"] == "test"]
    if not train:
        raise DatasetError(f"{table} lists no normal training images of {name!r}; name a category of that table.")
    missing = [path for path in (*train, *(sample.path for sample in test)) if not path.is_file()]
    if missing:
        raise DatasetError(f"{table} lists {len(missing)} files that are not there, the first is {missing[0]}.")
    test.sort(key=lambda sample: sample.path)
    listing = list_folder(root)
    listed = {*train, *bad, *(s.path for s in test), *(_file(root, row["mask"]) for row in rows if row["mask"])}
    others = [file for file in listing.files if file not in listed]
    bare = [sample.path for sample in test if sample.defect != GOOD and sample.mask is None]
    found = Found.of([listing]).without(_UNLISTED, others)
    return Dataset(
        name, root, "visa", tuple(sorted(train)), tuple(test), 0, found.without(_BAD_TRAIN, bad),
        Found(failed=found.failed).without(_NO_MASK, bare),
    )  # fmt: skip


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
            rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise DatasetError(f"{table}: the visa layout needs this table and it cannot be read ({error}).") from None
    if missing:
        raise DatasetError(f"{table} has no column {missing[0]!r}; the visa layout needs {', '.join(_COLUMNS)}.")
    return rows


def _sample(root: Path, row: dict[str, str]) -> LabelledImage:
    defect = GOOD if is_good(row["label"]) else row["label"]
    return LabelledImage(_file(root, row["image"]), defect, _file(root, row["mask"]) if row["mask"] else None)


def _table_of(root: Path) -> Path:
    return root.resolve().parent / _TABLE


def _file(root: Path, listed: str) -> Path:
    """A path of the table below `root` itself, so that it reads as the user named the category."""
    path = Path(listed)
    name = root.resolve().name
    return root.joinpath(*path.parts[1:]) if path.parts[:1] == (name,) else root.resolve().parent / path
