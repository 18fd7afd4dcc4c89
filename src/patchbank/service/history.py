"""The record of every inspection: SQLite in WAL mode, and the images in a folder beside it.

`record` returns when the rows are on the disk (one fsync for all of them). Images are written before their rows but not
synced: where the power fails a row may outlive its image; where only the process dies nothing is lost.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from patchbank.errors import OptionError
from patchbank.service.records import INSERT, SCHEMA, SCHEMA_VERSION, UPGRADE, Record
from patchbank.service.store import HistoryError

_EVICTED_AT_ONCE = 50


class History:
    """One process writes it; everything may be called from any thread."""

    def __init__(self, path: Path, keep_images: int):
        path = Path(os.path.realpath(path))  # SQLite follows a link too, and two names are one history
        self.path, self.keep_images = path, keep_images
        self.folder = path.with_name(f"{path.name}.images")
        self._lock = threading.Lock()
        self.broken: str | None = None  # why the last write failed
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._alone = claim(path)
            self.folder.mkdir(exist_ok=True)
            self._writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._open()
        except (sqlite3.Error, OSError) as error:
            raise OptionError(f"{path}: cannot be used as the history ({error}); name another file") from error
        ((last,),) = self._writer.execute("SELECT coalesce(max(id), 0) FROM inspections")
        self._last: int = last
        self._sweep()

    def _open(self) -> None:
        db = self._writer
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        ((version,),) = db.execute("PRAGMA user_version")
        if version > SCHEMA_VERSION:
            raise OptionError(f"{self.path}: was written by a newer patchbank (schema {version}): upgrade patchbank")
        if version == 0 and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise OptionError(f"{self.path}: is a database of something else; name another file")
        if version < SCHEMA_VERSION:
            change = UPGRADE if version else SCHEMA
            db.executescript(f"BEGIN; {change} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")

    def _sweep(self) -> None:
        """Remove the images whose rows never came to be, and add up the others."""
        kept = dict(self._writer.execute("SELECT id, kept FROM inspections WHERE kept > 0"))
        for file in self.folder.iterdir():
            number = file.name.partition(".")[0]
            if number.isdigit() and int(number) not in kept:
                file.unlink(missing_ok=True)
        self._bytes = sum(kept.values())

    def close(self) -> None:
        with self._lock:
            self._writer.close()
            if self._alone is not None:
                self._alone.close()

    # ---- writing -----------------------------------------------------------------------------------------------------

    def record(self, records: Sequence[Record]) -> None:
        """Give each record its id and make all of them durable. Raises `HistoryError` where that fails."""
        with self._lock:
            for number, record in enumerate(records, self._last + 1):
                record.id = number
                record.kept = self._keep(record)
            try:
                self._transact([(INSERT, record.row()) for record in records])
            except sqlite3.Error as error:
                for record in records:
                    self._unlink(record.id)
                raise HistoryError(str(error)) from error
            self._last += len(records)
            self._bytes += sum(record.kept for record in records)

    def _keep(self, record: Record) -> int:
        if not (record.image or record.geometry) or self.keep_images <= 0:
            return 0
        try:
            if record.image:
                self.image_file(record.id).write_bytes(record.image)
            if record.geometry:
                self.geometry_file(record.id).write_bytes(record.geometry)
            self.map_file(record.id).write_bytes(record.map_png)
        except OSError:  # a full disk must not stop inspections whose rows still fit
            self._unlink(record.id)
            return 0
        return len(record.image) + len(record.geometry) + len(record.map_png)

    def trim(self) -> None:
        """Remove the oldest images until the rest fits."""
        while self._bytes > self.keep_images:
            with self._lock:
                query = "SELECT id, kept FROM inspections WHERE kept > 0 ORDER BY id LIMIT ?"
                oldest = self._writer.execute(query, (_EVICTED_AT_ONCE,)).fetchall()
                gone, excess = [], self._bytes - self.keep_images
                for number, size in oldest:
                    if excess <= 0:
                        break
                    gone.append(number)
                    excess -= size
                self._transact([("UPDATE inspections SET kept = 0 WHERE id = ?", (number,)) for number in gone])
                self._bytes = excess + self.keep_images
            for number in gone:
                self._unlink(number)
            if not gone:
                return

    def _unlink(self, number: int) -> None:
        for file in (self.image_file(number), self.geometry_file(number), self.map_file(number)):
            with contextlib.suppress(OSError):
                file.unlink()

    def decide(self, number: int, verdict: str | None, note: str, at: float) -> None:
        """What a person says about an inspection."""
        decided = None if verdict is None else at
        update = "UPDATE inspections SET verdict = ?, note = ?, decided_at = ? WHERE id = ?"
        with self._lock:
            self._transact([(update, (verdict, note, decided, number))])

    def mark_added(self, numbers: Sequence[int], at: float) -> None:
        """The model learned from these."""
        with self._lock:
            self._transact([("UPDATE inspections SET added_at = ? WHERE id = ?", (at, number)) for number in numbers])

    def turn(self, model: str) -> contextlib.AbstractContextManager[bool]:
        """Always true: this history has one writer, and one thread of it changes models."""
        return contextlib.nullcontext(True)

    def away(self) -> str | None:
        """Always None: each inspection tries to write."""
        return None

    def problem(self) -> str | None:
        """Why nothing can be written; after a failure this is tried anew."""
        if self.broken is not None:
            with self._lock, contextlib.suppress(sqlite3.Error):
                self._transact([(f"PRAGMA user_version={SCHEMA_VERSION}", ())])  # what it is: a small write
        return self.broken

    def _transact(self, statements: Sequence[tuple[str, tuple[Any, ...] | dict[str, Any]]]) -> None:
        db = self._writer
        try:
            db.execute("BEGIN IMMEDIATE")
            for statement, values in statements:
                db.execute(statement, values)
            db.execute("COMMIT")
        except sqlite3.Error as error:
            self.broken = str(error)
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise
        self.broken = None

    # ---- reading -----------------------------------------------------------------------------------------------------

    def image_file(self, number: int) -> Path:
        return self.folder / f"{number}.image"

    def geometry_file(self, number: int) -> Path:
        return self.folder / f"{number}.geometry"

    def map_file(self, number: int) -> Path:
        return self.folder / f"{number}.map.png"

    def kept_image(self, number: int) -> bytes | None:
        return _bytes_of(self.image_file(number))

    def kept_geometry(self, number: int) -> bytes | None:
        return _bytes_of(self.geometry_file(number))

    def kept_map(self, number: int) -> bytes | None:
        return _bytes_of(self.map_file(number))

    @contextlib.contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.path, timeout=10)) as db:
            db.execute("PRAGMA query_only=ON")
            db.row_factory = sqlite3.Row
            yield db

    def get(self, number: int) -> sqlite3.Row | None:
        with self._reader() as db:
            row: sqlite3.Row | None = db.execute("SELECT * FROM inspections WHERE id = ?", (number,)).fetchone()
            return row

    def find(
        self,
        *,
        model: str | None = None,
        anomalous: bool | None = None,
        verdict: str | None = None,
        before: int | None = None,
        after: int | None = None,
        limit: int,
    ) -> list[sqlite3.Row]:
        """Newest first; with `after` alone the ones that come right after it. `verdict`: "none" for undecided."""
        conditions, values = ["1"], list[Any]()
        for condition, value in (
            ("model = ?", model),
            ("is_anomalous = ?", anomalous),
            ("id < ?", before),
            ("id > ?", after),
            ("verdict = ?", None if verdict == "none" else verdict),
        ):
            if value is not None:
                conditions.append(condition)
                values.append(value)
        if verdict == "none":
            conditions.append("verdict IS NULL")
        order = "ASC" if after is not None and before is None else "DESC"
        query = f"SELECT * FROM inspections WHERE {' AND '.join(conditions)} ORDER BY id {order} LIMIT ?"
        with self._reader() as db:
            rows = db.execute(query, (*values, limit)).fetchall()
        return rows[::-1] if order == "ASC" else rows

    def accepted_false_alarms(self, model: str, limit: int) -> list[sqlite3.Row]:
        """Rejected, overruled, the image kept, not learned from yet; newest first."""
        query = (
            "SELECT * FROM inspections WHERE model = ? AND verdict = 'overruled' AND is_anomalous AND kept > 0 "
            "AND added_at IS NULL ORDER BY id DESC LIMIT ?"
        )
        with self._reader() as db:
            return db.execute(query, (model, limit)).fetchall()

    def scores(self, model: str, since: float) -> Iterator[tuple[str, float, int]]:
        """(UTC day, score, whether rejected) of each inspection since a time, oldest first; as they are read."""
        query = (
            "SELECT date(at, 'unixepoch'), score, is_anomalous FROM inspections "
            "WHERE model = ? AND at >= ? AND score IS NOT NULL ORDER BY at"
        )
        with self._reader() as db:
            for row in db.execute(query, (model, since)):
                yield tuple(row)

    def last_scores(self, model: str, version: str, count: int) -> list[float]:
        """Of the newest inspections by one version of a model's file."""
        query = (
            "SELECT score FROM inspections WHERE model = ? AND version = ? AND score IS NOT NULL "
            "ORDER BY id DESC LIMIT ?"
        )
        with self._reader() as db:
            return [row[0] for row in db.execute(query, (model, version, count))]


def _bytes_of(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None


def claim(path: Path) -> Any:
    """An open file that says this history has its writer: ids are given out by one process. None where the system has
    no such locks."""
    try:
        import fcntl
    except ImportError:
        return None
    file = path.with_name(f"{path.name}.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise OptionError(f"{path}: another `patchbank serve` writes this history; name another file") from None
    return file
