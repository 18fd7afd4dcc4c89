"""Where a fit may learn from and write to: names of clients become paths here, and nowhere else."""

from __future__ import annotations

import os
import re
from pathlib import Path

from patchbank._system.files import shown
from patchbank.data.datasets import open_dataset
from patchbank.data.folder_names import Kind, joined_name, kind_of
from patchbank.data.listing import IMAGE_SUFFIXES, POINTS_SUFFIXES, is_system_folder
from patchbank.data.pairing import COLOURS, GEOMETRIES, Pairing
from patchbank.errors import DatasetError, OptionError, PatchbankError
from patchbank.service.config import Config

_MOST_FOLDERS = 2000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def folders_below(root: Path) -> dict[str, int]:
    """Folders of `root` by their names below it, and how many images each has at any depth, sorted. The root itself is
    "."; hidden folders, those of the system, masks (`ground_truth`) and links to folders are passed over."""
    counts: dict[str, int] = {}
    for parent, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not _is_passed_over(name))
        folders[:] = [name for name in folders if shown(name) == name]  # others cannot be named in JSON
        if any(joined_name(name) in COLOURS for name in folders):  # geometry beside pictures belongs to them
            folders[:] = [name for name in folders if joined_name(name) not in GEOMETRIES]
        suffixes = [Path(file).suffix.lower() for file in files if not file.startswith(".")]
        images = sum(suffix in IMAGE_SUFFIXES for suffix in suffixes)
        images = images or sum(suffix in POINTS_SUFFIXES for suffix in suffixes)  # parts of geometry alone
        folder = Path(parent).relative_to(root)
        for above in (folder, *folder.parents) if images else ():
            counts[above.as_posix()] = counts.get(above.as_posix(), 0) + images
        if len(counts) > _MOST_FOLDERS:
            break
    return dict(sorted(counts.items()))


def _is_passed_over(folder: str) -> bool:
    return folder.startswith(".") or is_system_folder(folder) or kind_of(folder) is Kind.MASK


def images_to_learn(root: Path, name: str) -> tuple[list[Path], list[str]]:
    """The good images of a folder below `root` (of a dataset, its training split), as paths from the root, and what is
    to be said about the rest. Raises `DatasetError` for a name that leads out of the root, by itself or by a link, and
    for fewer than two images."""
    folder = inside(root, name)
    if folder is None or not os.path.isdir(folder):  # is_dir() raises for a name that is too long
        raise DatasetError(f"{name}: is not a folder of the listing (GET /v1/fits/folders)")
    try:
        dataset = open_dataset(folder, quiet=True)
    except PatchbankError as error:
        raise DatasetError(shown(str(error).replace(f"{root}{os.sep}", ""))) from None
    pairing = Pairing()
    # a part is learned from with all of its files
    of_part = {path: pairing.sample(path).channels.values() for path in dataset.train}
    images = [
        path.relative_to(root)
        for path, files in of_part.items()
        if all(isinstance(file, Path) and file.resolve().is_relative_to(root) for file in files)
    ]
    outside = len(dataset.train) - len(images)
    found = dataset.train_found.sentence(folder, "training")
    failed = [str(failed.error) for failed in dataset.train_found.failed]
    notes = [f"{name}: passed over {outside} images that are links to other folders"] if outside else []
    notes = [shown(n.replace(f"{root}{os.sep}", "")) for n in (*([found] if found else []), *notes, *failed)]
    if len(images) < 2:
        raise DatasetError(f"{name}: holds {len(images)} images to learn from; at least two are needed")
    return images, notes


def inside(root: Path, name: str) -> Path | None:
    """The path of a name below `root`, which is resolved; None where it is none, or leads elsewhere."""
    if "\0" in name or "\\" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        return None
    try:
        path = (root / name).resolve()
    except (OSError, RuntimeError, ValueError):  # a name too long, a loop of links, a lone surrogate
        return None
    return path if path.is_relative_to(root) else None


def model_path(config: Config, name: str) -> Path:
    """The file of a new model: in the folder of models, or else beside the first one."""
    if not _NAME.fullmatch(name):
        raise OptionError(f"{name}: a model's name has letters, digits, dots, dashes and underscores")
    folder = config.models_dir or config.models[0].parent
    return folder.absolute() / f"{name}.patchbank"


def is_free(path: Path) -> bool:
    """Whether nothing has this name, a broken link included."""
    return not os.path.lexists(path)


def publish(made: Path, final: Path) -> None:
    """Give a complete file its final name. Raises `OptionError` where that is taken by now: nothing is replaced."""
    try:
        os.link(made, final)
    except FileExistsError:
        raise OptionError(f"there is a file {final.name} already: choose another name") from None
    except OSError:  # a file system without links
        if not is_free(final):
            raise OptionError(f"there is a file {final.name} already: choose another name") from None
        made.rename(final)
