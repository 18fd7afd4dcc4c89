"""Paths of files in object stores: `s3://bucket/parts/007.png` is a `Path` wherever images come from.

The package lists, names, pairs and opens files by their `Path`. A `RemotePath` is one whose questions go to the store,
so only the places that ask the operating system itself have to tell them apart: `entries_of` and `open_remote`.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path, PosixPath
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from patchbank._system import object_store
from patchbank._system.object_store import STORES, NoFolder, NoSuchObject, StoreError
from patchbank.errors import DatasetError

if TYPE_CHECKING:  # an exported model predicts without this package
    from typing_extensions import Self

_HEAD = 32 << 10  # bytes that headers are looked for in
_KEPT = 128 << 20  # bytes of contents that wait for their second use, such as the picture of a result
_FOLDERS = 4096  # whose lists are kept for the time of one command
_ADDRESS = re.compile(rf"({'|'.join(STORES)}):(?:/+(.*))?", re.DOTALL)


class Entry(Protocol):
    """What a folder holds, as `os.DirEntry`."""

    @property
    def name(self) -> str: ...
    def is_dir(self) -> bool: ...
    def is_file(self) -> bool: ...
    def is_symlink(self) -> bool: ...


class RemotePath(PosixPath):
    """A file or folder in an object store. `size`: in bytes, where a list has told it.

    Questions that fail for another reason than that nothing is there raise `DatasetError`; reading raises `StoreError`.
    """

    __slots__ = ("size",)
    size: int | None

    @property
    def scheme(self) -> str:
        """Such as "s3"."""
        return self.parts[0][:-1]

    @property
    def key(self) -> str:
        """Bucket and key, without the scheme."""
        return "/".join(self.parts[1:])

    def __str__(self) -> str:
        text = super().__str__()
        scheme, found, rest = text.partition(":")  # one slash behind it, or none where nothing follows
        return f"{scheme}://{rest.lstrip('/')}" if found and scheme in STORES else text

    def __fspath__(self) -> str:
        return str(self)

    def exists(self, **kwargs: Any) -> bool:
        return self._facts() is not None

    def is_dir(self, **kwargs: Any) -> bool:
        if self._size() is not None:
            return False
        facts = self._facts()
        return facts is not None and facts.size is None

    def is_file(self, **kwargs: Any) -> bool:
        """Asks for the list of its folder: layouts of datasets ask for many files of one folder."""
        if self._size() is not None:
            return True
        try:
            return any(entry.name == self.name and entry.is_file() for entry in _listed(self.parent))
        except (NoSuchObject, NoFolder):
            return False
        except StoreError as error:
            raise DatasetError(f"{self.parent}: {error.strerror}") from None

    def resolve(self, strict: bool = False) -> Self:
        return self

    def iterdir(self) -> Generator[Self, None, None]:
        return (self / entry.name for entry in _listed(self))

    def stat(self, **kwargs: Any) -> os.stat_result:
        """Its size alone. Raises `StoreError`."""
        size = self._size()
        if size is None:
            size = object_store.facts_of(self.scheme, self.key).size or 0
        return os.stat_result((0o100444, 0, 0, 1, 0, 0, size, 0, 0, 0))

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> IO[Any]:  # type: ignore[override]
        """For reading. Raises `StoreError`."""
        binary = cast(IO[bytes], io.BufferedReader(_Lazy(self)))
        if "b" in mode:
            return binary
        buffering = {"buffering"}
        return io.TextIOWrapper(binary, **{k: v for k, v in kwargs.items() if k not in buffering})

    def _size(self) -> int | None:
        return getattr(self, "size", None)

    def _facts(self) -> object_store.Facts | None:
        if len(self.parts) < 2:
            raise DatasetError(f"{self} names no bucket: give it as in {self}bucket/parts/good")
        try:
            if (siblings := _lists.get(self.parent)) is not None:
                return next((object_store.Facts(e.name, e.size) for e in siblings if e.name == self.name), None)
            return object_store.facts_of(self.scheme, self.key)
        except NoSuchObject:
            return None
        except StoreError as error:
            raise DatasetError(f"{self}: {error.strerror}") from None


def located(path: str | os.PathLike[str]) -> Path:
    """A path as the user gave it, as a `RemotePath` where it is the address of an object store.

    `Path("s3://bucket")` has lost a slash before anyone could look; such a path is an address too, unless a file of
    that name exists.
    """
    if isinstance(path, RemotePath):
        return path
    text = os.fspath(path)
    found = _ADDRESS.fullmatch(text) if isinstance(text, str) else None
    if found is None or ("://" not in text and os.path.lexists(text)):
        return Path(path)
    return RemotePath(f"{found[1]}:/{found[2] or ''}")


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path or name is the address of an object store."""
    return isinstance(located(path), RemotePath)


# ---- folders ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _RemoteEntry:
    """An object or a folder below a remote one."""

    name: str
    size: int | None

    def is_dir(self) -> bool:
        return self.size is None

    def is_file(self) -> bool:
        return self.size is not None

    def is_symlink(self) -> bool:
        return False


_lists: OrderedDict[RemotePath, list[_RemoteEntry]] = OrderedDict()
_lock = threading.RLock()


def entries_of(folder: Path) -> list[Entry]:
    """What a folder holds, sorted by name. Raises `OSError` where it cannot be listed."""
    if isinstance(folder, RemotePath):
        return list(_listed(folder))
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def entries_beginning(folder: RemotePath, start: str) -> list[Entry]:
    """The objects of a folder whose names begin so, sorted, without a list of all unless there is one already."""
    if folder in _lists:
        return [entry for entry in _listed(folder) if entry.name.startswith(start) and entry.is_file()]
    found = object_store.beginning_with(folder.scheme, folder.key, start)
    return [_RemoteEntry(facts.name, facts.size) for facts in found]


def matches_of(pattern: RemotePath) -> list[RemotePath]:
    """What a pattern matches, sorted. Raises `DatasetError`."""
    try:
        keys = object_store.matching(pattern.scheme, pattern.key)
    except StoreError as error:
        raise DatasetError(f"{pattern}: {error.strerror}") from None
    return [RemotePath(f"{pattern.scheme}:/{key}") for key in keys]


def child_of(folder: Path, entry: Entry) -> Path:
    """The path of an entry, which knows its size where the list has told it."""
    path = folder / entry.name
    if isinstance(path, RemotePath) and isinstance(entry, _RemoteEntry):
        path.size = entry.size
    return path


def forget() -> None:
    """What a store holds may have changed since the last command: drop lists and contents."""
    with _lock:
        _lists.clear()
    _contents.clear()


def _listed(folder: RemotePath) -> list[_RemoteEntry]:
    with _lock:
        if folder not in _lists:
            found = object_store.listed(folder.scheme, folder.key)
            _lists[folder] = [_RemoteEntry(facts.name, facts.size) for facts in found]
            if len(_lists) > _FOLDERS:
                _lists.popitem(last=False)
        return _lists[folder]


# ---- contents --------------------------------------------------------------------------------------------------------


class _Contents:
    """Contents that were read once and may be needed a second time within the same command: the picture of a result
    after its inspection, the thumbnail after the fit. Each goes with its second use. What comes when all room is taken
    is not kept: a second pass in the same order then finds the first ones, where the latest ones would all be gone."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[RemotePath, bytes]] = {}  # by the identity of the path
        self._bytes = 0
        self._lock = threading.Lock()

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def take(self, path: RemotePath, *, and_drop: bool) -> bytes | None:
        with self._lock:
            if id(path) not in self._kept:
                return None
            data = self._kept[id(path)][1]
            if and_drop:
                del self._kept[id(path)]
                self._bytes -= len(data)
            return data

    def keep(self, path: RemotePath, data: bytes) -> None:
        with self._lock:
            if id(path) not in self._kept and self._bytes + len(data) <= _KEPT:
                self._kept[id(path)] = path, data
                self._bytes += len(data)


_contents = _Contents()


def read_remote(path: RemotePath) -> bytes:
    """All of an object, in one request. Raises `StoreError`."""
    data = _contents.take(path, and_drop=True)
    if data is None:
        data = object_store.content(path.scheme, path.key)
        _contents.keep(path, data)
    return data


def open_remote(path: RemotePath, *, header: bool = False) -> IO[bytes]:
    """An object as a binary file; `header`: its first bytes are likely to be enough. Raises `StoreError`."""
    return cast(IO[bytes], io.BufferedReader(_Lazy(path))) if header else io.BytesIO(read_remote(path))


class _Lazy(io.RawIOBase):
    """An object of which only the first bytes are fetched until somebody wants more."""

    def __init__(self, path: RemotePath) -> None:
        self._path, self._at = path, 0
        kept = _contents.take(path, and_drop=False)
        self._data = object_store.content(path.scheme, path.key, _HEAD) if kept is None else kept
        self._is_whole = kept is not None or len(self._data) < _HEAD
        if kept is None and self._is_whole:
            _contents.keep(path, self._data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        if self._at + len(view) > len(self._data):
            self._fetch_all()
        piece = self._data[self._at : self._at + len(view)]
        view[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            self._fetch_all()
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._data)}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def _fetch_all(self) -> None:
        if not self._is_whole:
            self._data, self._is_whole = read_remote(self._path), True
