"""Safe writes: a file is complete under its final name, or not there."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import itertools
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

_SHOWN = 40  # characters of a file's name in that of its temporary file: a name may have 255 bytes


@contextlib.contextmanager
def replacing(path: str | PathLike[str]) -> Iterator[Path]:
    """A temporary path in the same folder, renamed to `path` when the block ends, removed where it fails.

    An interruption, even kill -9, can leave the temporary file behind, never half a file under the final name. Where
    `path` is a link, the file that it leads to is replaced. The new file keeps the mode and the owner of the old one.

    Raises:
        OSError: the file cannot be written; `filename` is `path`.
    """
    final = _target(path)
    with _about(path):
        final.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_prefix(final), suffix=".tmp", dir=final.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            _dress(temporary, final)
            os.replace(temporary, final)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: str | PathLike[str]) -> Iterator[Path]:
    """As `replacing`, for a folder and all that the block writes into it; what was at `path` goes when all is there."""
    final = _target(path)
    with _about(path):
        final.parent.mkdir(parents=True, exist_ok=True)
        whole = Path(tempfile.mkdtemp(prefix=_prefix(final), suffix=".tmp", dir=final.parent))
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
    """A copy of a file beside it, under the first free of NAME.bak, NAME.bak2, …; of a link, beside its target."""
    original = _target(path)
    numbers = ("" if i == 1 else str(i) for i in itertools.count(1))
    copy = next(c for n in numbers if not (c := original.with_name(f"{original.name}.bak{n}")).exists())
    with replacing(copy) as temporary:
        shutil.copyfile(original, temporary)
    shutil.copymode(original, copy)
    return copy


def write_text(path: str | PathLike[str], text: str) -> None:
    """Write UTF-8 text under its final name at once; bytes of file names that are not UTF-8 are escaped."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_csv(path: str | PathLike[str], columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table under its final name at once; keys of a row that are no column are left out. Bytes of file names
    that are not UTF-8 are escaped as in JSON: \\udcfc."""
    with replacing(path) as temporary, open_csv(temporary) as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def open_csv(path: Path) -> Any:
    """A new text file for `csv`, as `write_csv` writes it."""
    return path.open("w", newline="", encoding="utf-8", errors="backslashreplace")


def file_digest(path: str | PathLike[str]) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# ---- before the work -------------------------------------------------------------------------------------------------


def why_not_file(path: str | PathLike[str]) -> str | None:
    """Why no file can be written at `path`, in words; None where it can. Leaves nothing behind."""
    try:
        target = Path(path)
        if target.is_dir():
            return "is a folder"
        if os.path.lexists(_target(path)) and not stat.S_ISREG(os.stat(_target(path)).st_mode):
            return "is no regular file"
        return _why_not_below(_target(path))
    except (OSError, ValueError) as error:
        return f"cannot be written ({reason(error)})"


def why_not_folder(path: str | PathLike[str]) -> str | None:
    """Why no files can be written into a folder `path`, in words; None where they can. Leaves nothing behind."""
    try:
        target = _target(path)
        if target.exists() and not target.is_dir():
            return "is a file"
        return _why_not_below(target / "x")
    except (OSError, ValueError) as error:
        return f"cannot be written ({reason(error)})"


def _why_not_below(target: Path) -> str | None:
    """Try the nearest folder above `target` that exists, and the names of those that do not."""
    _stat_missing(target)
    above = next(folder for folder in target.parents if os.path.lexists(folder))
    if not above.is_dir():
        return f"cannot be written ({above} is no folder)"
    for part in target.relative_to(above).parts:  # a name that is too long is refused wherever it is asked for
        _stat_missing(above / part)
    with tempfile.TemporaryFile(dir=above):
        return None


def _stat_missing(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.stat()


def reserve(path: Path, size: int) -> None:
    """Raise `OSError` where a file of `size` bytes does not fit; for writers that do not say so themselves."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)


def reason(error: BaseException) -> str:
    """What went wrong, without the file's name; what a library in Rust says of the system, as the system says it."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    if found:
        return os.strerror(int(found[1]))
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


# ---- names that are not UTF-8 ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def spelled(path: str | PathLike[str]) -> Iterator[Path]:
    """The same file or folder under a name that libraries not written in Python can open: they take UTF-8 only."""
    whole = Path(path)
    if _is_utf8(str(whole)):
        yield whole
        return
    through_folder = _is_utf8(whole.name)  # so that a library can write beside it
    handle = os.open(whole.parent if through_folder else whole, os.O_RDONLY)
    try:
        yield Path(f"/dev/fd/{handle}", whole.name if through_folder else "")
    finally:
        os.close(handle)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(path: str | PathLike[str]) -> str:
    """A path in one line of text, whatever its name is made of; as bytes that are not UTF-8 look in JSON."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in os.fspath(path))


# ---- helpers ---------------------------------------------------------------------------------------------------------


def _prefix(final: Path) -> str:
    """How the name of a temporary file for `final` begins: short, and in ASCII, which every library can open."""
    return f".{final.name[:_SHOWN].encode('ascii', 'replace').decode().replace('?', '_')}."


def _target(path: str | PathLike[str]) -> Path:
    """Where a path leads, through links."""
    return Path(os.path.realpath(path))


@contextlib.contextmanager
def _about(path: str | PathLike[str]) -> Iterator[None]:
    """Have the errors of the block name `path`, not a temporary file or nothing."""
    try:
        yield
    except OSError as error:
        if error.errno is None or (error.filename is not None and ".tmp" not in os.fsdecode(error.filename)):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def _dress(temporary: Path, final: Path) -> None:
    """Give a file of mkstemp, which is for its owner alone, the mode and the owner that `final` has or would have."""
    try:
        old = final.stat()
    except OSError:
        temporary.chmod(0o666 & ~_umask())
        return
    temporary.chmod(stat.S_IMODE(old.st_mode))
    new = temporary.stat()
    if hasattr(os, "chown") and (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        with contextlib.suppress(OSError):  # only root gives files away
            os.chown(temporary, old.st_uid, old.st_gid)
            temporary.chmod(stat.S_IMODE(old.st_mode))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_FULL = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}


def is_full(error: OSError) -> bool:
    """Whether a disk or a quota is full."""
    return error.errno in _FULL
