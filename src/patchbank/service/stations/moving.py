"""Histories of SQLite, moved into PostgreSQL: all of them or nothing."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import func, insert, select, text

from patchbank._system.files import reason
from patchbank.errors import OptionError
from patchbank.service.history import claim
from patchbank.service.records import SCHEMA_VERSION
from patchbank.service.stations.connections import Database
from patchbank.service.stations.history import plain
from patchbank.service.stations.images import KINDS, ImageStore
from patchbank.service.stations.schema import RECORDING, inspections
from patchbank.service.store import HistoryError

_TOGETHER = 500  # rows in one statement
_DAY = 86_400.0  # seconds that a move may take


def move(
    sources: Sequence[Path], address: str, images: ImageStore | None, progress: Callable[[int], None] = lambda n: None
) -> tuple[int, int]:
    """Copy every inspection of some SQLite histories, and its files, into an empty shared history.

    One history keeps its ids. Several are merged by time, and get new ids in that order. The rows become visible in one
    transaction at the end; a move that was interrupted is begun again, and overwrites the files of the first try.
    `images`: None copies no files. `progress` is called with the number of rows so far.

    Returns:
        The number of inspections, and of those whose image was copied.

    Raises:
        OptionError: a source cannot be read or is in use, or the shared history is not empty.
    """
    database = Database(address)
    try:
        database.open()
        with contextlib.ExitStack() as stack:
            found = [_rows(path, stack.enter_context(_reading(path))) for path in sources]
            rows = found[0] if len(found) == 1 else heapq.merge(*found, key=_in_time)
            return _write(database, rows, images, keeps_ids=len(found) == 1, progress=progress)
    except HistoryError as error:
        raise OptionError(f"{database.name}: nothing was moved ({error})") from error
    finally:
        database.close()


def _write(
    database: Database,
    rows: Iterable[tuple[Path, dict[str, Any]]],
    images: ImageStore | None,
    *,
    keeps_ids: bool,
    progress: Callable[[int], None],
) -> tuple[int, int]:
    moved = copied = 0
    with database.writing(seconds=_DAY) as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"))
        connection.execute(select(func.pg_advisory_xact_lock(RECORDING)))
        if connection.scalar(select(func.count()).select_from(select(inspections.c.id).limit(1).subquery())):
            raise OptionError(f"{database.name}: holds inspections already; move into an empty database")
        remaining = iter(rows)
        while group := list(itertools.islice(remaining, _TOGETHER)):
            found = [_converted(path, row, images, keeps_ids) for path, row in group]
            connection.execute(insert(inspections), found)
            moved += len(found)
            copied += sum(row["kept"] > 0 for row in found)
            progress(moved)
        if moved and keeps_ids:
            last = select(func.max(inspections.c.id)).scalar_subquery()
            connection.execute(select(func.setval(func.pg_get_serial_sequence("inspections", "id"), last)))
    return moved, copied


def _converted(path: Path, row: dict[str, Any], images: ImageStore | None, keeps_ids: bool) -> dict[str, Any]:
    """A row as the shared history has it, its files copied."""
    number = row.pop("id")
    # the same for each try
    key = uuid.uuid5(uuid.NAMESPACE_URL, f"{path.resolve()} {number} {row['at']!r} {row['name']}").hex
    row["kept"] = _copy_files(path, number, key, images) if row["kept"] else 0
    new = {name: plain(value) for name, value in row.items()}
    return {**new, "key": key, "is_anomalous": bool(row["is_anomalous"]), **({"id": number} if keeps_ids else {})}


def _copy_files(path: Path, number: int, key: str, images: ImageStore | None) -> int:
    """The bytes that were copied; 0 where the files are gone, or are not wanted."""
    if images is None:
        return 0
    files: dict[str, bytes] = {}
    for kind in KINDS:
        with contextlib.suppress(FileNotFoundError):
            files[kind] = path.with_name(f"{path.name}.images").joinpath(f"{number}.{kind}").read_bytes()
    if "image" not in files and "geometry" not in files:
        return 0
    try:
        images.write(key, files)
    except OSError as error:
        raise OptionError(
            f"inspection {number}: its image cannot be copied ({reason(error)}); nothing was moved: make room, then "
            "move again"
        ) from error
    return sum(map(len, files.values()))


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A history that no service writes meanwhile; it is not changed."""
    path = path.resolve()
    if not path.is_file():
        raise OptionError(f"{path}: no such history")
    try:
        lock = claim(path)
        try:
            with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
                db.row_factory = sqlite3.Row
                ((version,),) = db.execute("PRAGMA user_version")
                if not 1 <= version <= SCHEMA_VERSION:
                    raise OptionError(f"{path}: is not a history of `patchbank serve`, or of a newer patchbank")
                yield db
        finally:
            if lock is not None:
                lock.close()
    except (sqlite3.Error, OSError) as error:
        raise OptionError(f"{path}: cannot be moved ({reason(error)})") from error


def _rows(path: Path, db: sqlite3.Connection) -> Iterator[tuple[Path, dict[str, Any]]]:
    """In the order of ids, as they are read. The first schema knew pictures alone."""
    for row in db.execute("SELECT * FROM inspections ORDER BY id"):
        yield path, {"channels": "{}", "geometry": 0, **dict(row)}


def _in_time(found: tuple[Path, dict[str, Any]]) -> float:
    at: float = found[1]["at"]
    return at
