"""The files of inspections that several stations share.

`ImageStore` is what the history asks of them; a folder is the one kind so far.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from patchbank.errors import OptionError

KINDS = ("image", "geometry", "map.png")


class ImageStore(Protocol):
    """Files by the key of an inspection, 32 hexadecimal digits, and one of `KINDS`. Raises `OSError`."""

    def write(self, key: str, files: Mapping[str, bytes]) -> None:
        """Write the files of an inspection; those of an earlier try are replaced."""

    def read(self, key: str, kind: str) -> bytes | None:
        """Return the bytes of a file, or None if it is not there."""

    def remove(self, keys: Iterable[str]) -> None:
        """Remove all files of some inspections. What cannot be removed stays."""

    def older_than(self, seconds: float) -> Iterator[list[str]]:
        """Yield the keys whose files have that age, in groups."""


class FolderImages:
    """A folder that every station sees, such as a network share, with 256 folders in it by the first two digits."""

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(f"{folder}: cannot hold images ({error.strerror}); name another with --images") from None

    def _file(self, key: str, kind: str) -> Path:
        return self.folder / key[:2] / f"{key}.{kind}"

    def write(self, key: str, files: Mapping[str, bytes]) -> None:
        (self.folder / key[:2]).mkdir(exist_ok=True)
        for kind, data in files.items():
            self._file(key, kind).write_bytes(data)

    def read(self, key: str, kind: str) -> bytes | None:
        try:
            return self._file(key, kind).read_bytes()
        except OSError:
            return None

    def remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            for kind in KINDS:
                with contextlib.suppress(OSError):
                    self._file(key, kind).unlink()

    def older_than(self, seconds: float) -> Iterator[list[str]]:
        until = time.time() - seconds
        for part in sorted(self.folder.glob("[0-9a-f][0-9a-f]")):
            keys = set()
            for file in part.iterdir():
                key, _, kind = file.name.partition(".")
                with contextlib.suppress(OSError):  # another station may have removed it
                    if kind in KINDS and len(key) == 32 and file.stat().st_mtime < until:
                        keys.add(key)
            if keys:
                yield sorted(keys)
