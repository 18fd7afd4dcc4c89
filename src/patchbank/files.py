"""Safe writes: a file is complete under its final name, or not there."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(path: str | PathLike[str]) -> Iterator[Path]:
    """A temporary path in the same folder, renamed to `path` when the block ends, removed where it fails.

    An interruption, even kill -9, can leave the temporary file behind, never half a file under the final name.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{final.name}.", suffix=".tmp", dir=final.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp's files are for the owner alone
        os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: str | PathLike[str]) -> Iterator[Path]:
    """As `replacing`, for a folder and all that the block writes into it; what was at `path` goes when all is there."""
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    whole = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".tmp", dir=final.parent))
    temporary, before = whole / "new", whole / "before"
    temporary.mkdir()  # not of mkdtemp, whose folders are for the owner alone
    try:
        yield temporary
        if final.exists():
            os.replace(final, before)
        os.replace(temporary, final)
    except BaseException:
        if before.exists() and not final.exists():
            os.replace(before, final)
        raise
    finally:
        shutil.rmtree(whole, ignore_errors=True)


def keep_copy(path: str | PathLike[str]) -> Path:
    """A copy of a file beside it, under the first free of NAME.bak, NAME.bak2, …"""
    original = Path(path)
    numbers = ("" if i == 1 else str(i) for i in itertools.count(1))
    copy = next(c for n in numbers if not (c := original.with_name(f"{original.name}.bak{n}")).exists())
    with replacing(copy) as temporary:
        shutil.copyfile(original, temporary)
    return copy


def write_text(path: str | PathLike[str], text: str) -> None:
    """Write UTF-8 text under its final name at once."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: str | PathLike[str], columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table under its final name at once; keys of a row that are no column are left out."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def file_digest(path: str | PathLike[str]) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
