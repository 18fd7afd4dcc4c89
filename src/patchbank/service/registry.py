"""A folder of models with all their versions, which stations share: `FOLDER/NAME/VERSIONS` says which one is served.

`VERSIONS` is a small JSON file that is replaced by renaming, so every station sees the old state or the new one. The
model files beside it are named by the first 12 digits of their SHA-256, the version that every inspection carries, and
stay as they are. A rollback needs no file to be written again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from patchbank._system.files import file_digest, replacing, shown, write_text
from patchbank.errors import ModelFileError, OptionError

VERSIONS = "VERSIONS"
_FORMAT = 1
_DIGITS = 12
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VERSION = re.compile(rf"[0-9a-f]{{{_DIGITS}}}")


@dataclass(frozen=True)
class Change:
    """One switch: `action` is add, switch, rollback or learn; `at` in seconds since 1970."""

    at: float
    action: str
    version: str


@dataclass(frozen=True)
class State:
    """What `VERSIONS` says. `served`: the versions that were switched to, the last one is served now; a rollback drops
    it. `changes`: all that was ever done, oldest first."""

    served: tuple[str, ...] = ()
    changes: tuple[Change, ...] = field(default=())

    @property
    def current(self) -> str:
        return self.served[-1]


class VersionedModel:
    """One model of a registry: `folder` is `FOLDER/NAME`."""

    def __init__(self, folder: Path):
        self.folder, self.name = folder, folder.name

    @property
    def versions_file(self) -> Path:
        return self.folder / VERSIONS

    def file_of(self, version: str) -> Path:
        return self.folder / f"{version}.patchbank"

    def current(self) -> Path:
        """The file that is served now. Raises `ModelFileError`."""
        return self.file_of(self.state().current)

    def state(self) -> State:
        """What `VERSIONS` says. Raises `ModelFileError`."""
        try:
            return _parsed(json.loads(self.versions_file.read_text(encoding="utf-8")))
        except OSError as error:
            raise ModelFileError(f"{self.versions_file}: cannot be read ({error.strerror})") from None
        except (ValueError, TypeError, KeyError) as error:
            raise ModelFileError(
                f"{self.versions_file}: is not a list of versions ({error}); restore it from a backup"
            ) from None

    def versions(self) -> list[str]:
        """All that lie in the folder, the oldest file first."""
        files = [f for f in self.folder.glob("*.patchbank") if _VERSION.fullmatch(f.stem)]
        return [file.stem for file in sorted(files, key=lambda file: (file.stat().st_mtime_ns, file.stem))]

    # ---- changes -----------------------------------------------------------------------------------------------------

    def add(self, file: Path, action: str = "add", *, is_new: bool = False, after: str | None = None) -> str:
        """Copy a model file in and switch to it; its version. `is_new`: refuse a name that the registry has. `after`:
        the version that the file was made from; refuse if another one is served by now.

        Raises:
            OptionError: the name cannot be used or is taken, or another version is served.
            OSError: the file cannot be read, or its copy not written.
        """
        _check_name(self.name)
        self.folder.mkdir(parents=True, exist_ok=True)
        version = file_digest(file)[:_DIGITS]
        with self._changing() as state:
            if is_new and state.served:
                raise OptionError(f"there is a model named {self.name} already: choose another name")
            if after is not None and state.current != after:
                raise OptionError(f"{self.name}: was switched to version {state.current} meanwhile; try again")
            if not self.file_of(version).exists():
                with replacing(self.file_of(version)) as temporary:
                    shutil.copyfile(file, temporary)
            self._write(state, action, version)
        return version

    def switch(self, version: str, check: Callable[[Path], object]) -> str:
        """Serve a version, named by its first digits; `check` raises for a file that cannot be served.

        Raises:
            OptionError: no version begins so, or several do.
        """
        found = [known for known in self.versions() if known.startswith(version)]
        if len(found) != 1:
            words = "several versions begin so" if found else "there is no such version"
            raise OptionError(f"{self.name}: {version}: {words}; `patchbank models list` shows them")
        check(self.file_of(found[0]))
        with self._changing() as state:
            self._write(state, "switch", found[0])
        return found[0]

    def rollback(self, check: Callable[[Path], object]) -> str:
        """Serve the version before the present one; again: the one before that."""
        with self._changing() as state:
            if len(state.served) < 2:
                raise OptionError(f"{self.name}: there is no version before this one to go back to")
            before = state.served[-2]
            check(self.file_of(before))
            self._write(state, "rollback", before)
        return before

    def _write(self, state: State, action: str, version: str) -> None:
        """Make a version the one that is served, at once for every reader."""
        if action == "rollback":
            served = state.served[:-1]
        else:
            served = state.served if state.served[-1:] == (version,) else (*state.served, version)
        new = replace(state, served=served, changes=(*state.changes, Change(time.time(), action, version)))
        document = {
            "format": _FORMAT,
            "served": list(new.served),
            "changes": [{"at": c.at, "action": c.action, "version": c.version} for c in new.changes],
        }
        write_text(self.versions_file, json.dumps(document, indent=1) + "\n")

    @contextlib.contextmanager
    def _changing(self) -> Iterator[State]:
        """The state, while nobody else changes it (where the file system has locks)."""
        if not self.folder.is_dir():
            raise OptionError(f"{self.folder}: there is no such model; `patchbank models list` shows them")
        with (self.folder / ".lock").open("w") as lock:
            with contextlib.suppress(ImportError, OSError):
                import fcntl

                fcntl.flock(lock, fcntl.LOCK_EX)
            yield self.state() if self.versions_file.exists() else State()


def models_below(folder: Path) -> list[VersionedModel]:
    """The models of a registry, by name."""
    files = sorted(folder.glob(f"*/{VERSIONS}"))
    return [VersionedModel(file.parent) for file in files if _NAME.fullmatch(file.parent.name)]


def model_of(folder: Path, name: str) -> VersionedModel:
    """A model by name, which need not be there yet. Raises `OptionError` for a name that leads elsewhere."""
    _check_name(name)
    return VersionedModel(folder / name)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise OptionError(f"{shown(name)}: a model's name has at most 64 letters, digits, dots, dashes and underscores")


def _parsed(document: dict[str, Any]) -> State:
    """Raises `ValueError`, `TypeError` or `KeyError` for what is no such document."""
    if document["format"] != _FORMAT:
        raise ValueError(f"format {document['format']}: was written by a newer patchbank")
    served = tuple(document["served"])
    if not served or not all(isinstance(v, str) and _VERSION.fullmatch(v) for v in served):
        raise ValueError("it names no version")
    changes = (Change(float(c["at"]), str(c["action"]), str(c["version"])) for c in document["changes"])
    return State(served, tuple(changes))


def last_change(model: VersionedModel) -> tuple[int, ...]:
    """A stamp of `VERSIONS` that differs after each change; empty while it cannot be read."""
    try:
        stat = os.stat(model.versions_file)
    except OSError:
        return ()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
