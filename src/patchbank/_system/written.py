"""What a command wrote into a folder of results: the next run removes it, and nothing ever inspects it.

A hidden file in the folder, one JSON string a line, lists the files of the last run, each before it is written. So a
folder belongs to one run, also after kill -9, and no file goes that patchbank did not write.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path, PurePath
from typing import TextIO

from patchbank._system.remote import located

PREFIX = ".patchbank-wrote-"  # and the command
_LONGEST = 240  # bytes of a name to which an ending is added: a file system takes 255


class Results:
    """A folder for the results of one run of a command. The files of the run before are removed by `begin`."""

    def __init__(self, folder: Path, command: str) -> None:
        self.folder = folder
        self._list = folder / f"{PREFIX}{command}"
        self._open: TextIO | None = None

    def begin(self, *names: str) -> None:
        """Remove what the run before listed, and the files of these `names`."""
        for path in [*_listed(self._list), *(self.folder / name for name in names), self._list]:
            with contextlib.suppress(OSError):
                path.unlink()
                _remove_empty(path.parent, self.folder)

    def path(self, name: PurePath | str) -> Path:
        """Where a file of this run goes. Lists it first; raises `OSError` where that is not possible."""
        if self._open is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._open = self._list.open("a", encoding="ascii")
        self._open.write(json.dumps(str(name)) + "\n")
        self._open.flush()
        return self.folder / name

    def close(self) -> None:
        """No more files come."""
        if self._open is not None:
            with contextlib.suppress(OSError):
                self._open.close()
            self._open = None


def written_into(folder: str | Path, files: list[str]) -> set[str]:
    """The paths that commands wrote into a folder or below it, given the names of its files."""
    root = located(folder)
    lists = [root / name for name in files if name.startswith(PREFIX)]
    return {str(path) for each in lists for path in _listed(each)}


def _listed(file: Path) -> list[Path]:
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):  # the power failed in the middle of a line
            name = json.loads(line)
            if isinstance(name, str) and name and not os.path.isabs(name) and ".." not in PurePath(name).parts:
                found.append(file.parent / name)
    return found


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove folders below `root` that have nothing in them any more."""
    while folder != root and folder.is_relative_to(root):
        folder.rmdir()  # raises where there is something
        folder = folder.parent


def output_names(roots: list[Path], paths: list[str]) -> dict[str, Path]:
    """Where each image's results go: its path below the folder that was given; a number is added to names taken
    already, and a name so long that no ending can be added is shortened."""
    folders = [root for root in map(located, roots) if root.is_dir()]
    names: dict[str, Path] = {}
    taken: set[Path] = set()
    for path in map(located, paths):
        folder = next((f for f in folders if path.is_relative_to(f)), path.parent)
        name = path.relative_to(folder)
        name = name.with_name(_shortened(name.name))
        unique, number = name, 2
        while unique in taken:
            unique, number = name.with_name(f"{name.stem}-{number}{name.suffix}"), number + 1
        taken.add(unique)
        names[str(path)] = unique
    return names


def _shortened(name: str) -> str:
    """The name, or its beginning and a digest of all of it."""
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:16]
    kept = name
    while len(os.fsencode(kept)) > _LONGEST - 17:
        kept = kept[:-1]
    return f"{kept}-{digest}"
