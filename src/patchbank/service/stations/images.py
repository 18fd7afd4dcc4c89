"""The files of inspections that several stations share: in a folder that all see, or in an object store."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from patchbank._system import object_store
from patchbank._system.object_store import StoreError
from patchbank._system.remote import RemotePath, located
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
            if keys := _keys_before(until, _times_of(part)):
                yield keys


class StoredImages:
    """A folder in an object store, such as s3://bucket/line, with 256 folders in it by the first two digits."""

    def __init__(self, folder: RemotePath):
        self._scheme, self._root = folder.scheme, folder.key
        bucket = self._root.partition("/")[0]
        try:
            if not bucket:
                raise StoreError(f"names no bucket: give it as in {folder}bucket/line")
            object_store.facts_of(self._scheme, bucket)
        except StoreError as error:
            raise OptionError(f"{folder}: cannot hold images: {error.strerror}; name another with --images") from None

    def _key(self, key: str, kind: str) -> str:
        return f"{self._root}/{key[:2]}/{key}.{kind}"

    def write(self, key: str, files: Mapping[str, bytes]) -> None:
        for kind, data in files.items():
            object_store.put(self._scheme, self._key(key, kind), data)

    def read(self, key: str, kind: str) -> bytes | None:
        try:
            return object_store.content(self._scheme, self._key(key, kind))
        except StoreError:
            return None

    def remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            for kind in KINDS:
                with contextlib.suppress(StoreError):
                    object_store.remove(self._scheme, self._key(key, kind))

    def older_than(self, seconds: float) -> Iterator[list[str]]:
        until = time.time() - seconds
        for part in range(256):
            if keys := _keys_before(until, object_store.times_of(self._scheme, f"{self._root}/{part:02x}")):
                yield keys


def _times_of(folder: Path) -> Iterator[tuple[str, float]]:
    """The names of all files of a folder, and the seconds since 1970 at which each was written."""
    for file in folder.iterdir():
        with contextlib.suppress(OSError):  # another station may have removed it
            yield file.name, file.stat().st_mtime


def _keys_before(until: float, files: Iterable[tuple[str, float]]) -> list[str]:
    """The keys of files of inspections that were written before a time."""
    parts = [(*name.partition("."), written) for name, written in files]
    return sorted({key for key, _, kind, written in parts if kind in KINDS and len(key) == 32 and written < until})


def images_in(place: Path) -> ImageStore:
    """Those in a folder, or at the address of one in an object store. Raises `OptionError`."""
    found = located(place)
    return StoredImages(found) if isinstance(found, RemotePath) else FolderImages(found)
