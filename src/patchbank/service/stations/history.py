"""The record of every inspection in PostgreSQL, written by several stations at once."""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import Select, func, literal, select, text, update
from sqlalchemy.dialects.postgresql import insert

from patchbank.service.records import Record
from patchbank.service.stations.connections import ConnectionLost, Database
from patchbank.service.stations.images import ImageStore
from patchbank.service.stations.schema import RECORDING, TRIMMING, inspections
from patchbank.service.store import HistoryError, Row

_log = logging.getLogger("patchbank.service")
_EVICTED_AT_ONCE = 500
_PARTS = 64  # of the room for images: after so much of it was filled, a station looks whether the oldest must go
_ORPHAN = 3600.0  # seconds after which a file without a row was left behind by a station that died
_t = inspections.c
# Stations take turns, so that ids become visible in their order: a page that asks what came after an id misses none.
# An answer promises a durable record, whatever the default of the database is.
_TURN = text(
    f"SELECT pg_advisory_xact_lock({RECORDING}), set_config('synchronous_commit', "
    "CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, "
    "true)"
)
# a record that is sent again after its connection broke is not written twice
_INSERT = insert(inspections).on_conflict_do_nothing(index_elements=["key"]).returning(_t.key, _t.id)


class SharedHistory:
    """As `HistoryStore` says. `images`: None keeps none; `keep_images` in bytes, of all stations together."""

    def __init__(self, address: str, images: ImageStore | None, keep_images: int):
        self.images, self.keep_images = images if keep_images > 0 else None, keep_images
        self._db = Database(address)
        try:
            self._db.open()
        except BaseException:
            self._db.close()
            raise
        self._unseen = keep_images  # bytes written since the last look whether the oldest images must go
        self._swept, self._sweeping = -math.inf, threading.Lock()

    def close(self) -> None:
        self._db.close()

    # ---- writing -----------------------------------------------------------------------------------------------------

    def record(self, records: Sequence[Record]) -> None:
        """Give each record its id and make all of them durable; what was written may be there without an answer."""
        if (why := self.away()) is not None:
            raise HistoryError(why)
        keys = [uuid.uuid4().hex for _ in records]
        for key, record in zip(keys, records, strict=True):
            record.kept = self._keep(key, record)
        rows = [row_of(record, key) for key, record in zip(keys, records, strict=True)]
        try:
            ids = self._insert(rows)
        except HistoryError as error:
            if self.images is not None and not isinstance(error, ConnectionLost):  # else the rows may be there
                self.images.remove(keys)
            raise
        for key, record in zip(keys, records, strict=True):
            record.id = ids[key]
        self._unseen += sum(record.kept for record in records)

    def _insert(self, rows: Sequence[dict[str, Any]]) -> dict[str, int]:
        """The ids by key. A connection that broke is tried once more: a server that restarts closes all of them."""
        try:
            return self._insert_once(rows)
        except ConnectionLost:
            try:
                return self._insert_once(rows)
            except HistoryError as error:
                raise ConnectionLost(str(error)) from error  # whatever this try met: the first may have been done

    def _insert_once(self, rows: Sequence[dict[str, Any]]) -> dict[str, int]:
        with self._db.writing() as connection:
            connection.execute(_TURN)
            ids = {row.key: int(row.id) for row in connection.execute(_INSERT, rows)}
            if missing := [row["key"] for row in rows if row["key"] not in ids]:
                earlier = select(_t.key, _t.id).where(_t.key.in_(missing))
                ids |= {row.key: int(row.id) for row in connection.execute(earlier)}
        return ids

    def _keep(self, key: str, record: Record) -> int:
        """Write the files of an inspection; the number of their bytes."""
        if self.images is None or not (record.image or record.geometry):
            return 0
        files = {"image": record.image, "geometry": record.geometry, "map.png": record.map_png}
        files = {kind: data for kind, data in files.items() if data or kind == "map.png"}
        try:
            self.images.write(key, files)
        except OSError as error:  # a full disk must not stop inspections whose rows still fit
            _log.warning("an image cannot be kept (%s)", error.strerror)
            self.images.remove([key])
            return 0
        return sum(map(len, files.values()))

    def decide(self, number: int, verdict: str | None, note: str, at: float) -> None:
        decided = None if verdict is None else at
        change = update(inspections).where(_t.id == number)
        with self._db.writing() as connection:
            connection.execute(change.values(verdict=verdict, note=plain(note), decided_at=decided))

    def mark_added(self, numbers: Sequence[int], at: float) -> None:
        with self._db.writing() as connection:
            connection.execute(update(inspections).where(_t.id.in_(numbers)).values(added_at=at))

    def turn(self, model: str) -> AbstractContextManager[bool]:
        return self._db.turn(plain(model))

    def away(self) -> str | None:
        return self._db.broken

    def problem(self) -> str | None:
        if self._db.broken is not None:
            self._db.probe()
        return self._db.broken

    # ---- images that go ----------------------------------------------------------------------------------------------

    def trim(self) -> None:
        """Remove the oldest images until the rest fits, one station at a time; and files that no row has, by the hour.
        Stations together may exceed the room by a 64th of it each."""
        if self.images is None:
            return
        if self._unseen >= self.keep_images / _PARTS:
            self._unseen = 0
            while gone := self._forget_oldest():
                self.images.remove(gone)
        if time.monotonic() - self._swept > _ORPHAN:
            self._swept = time.monotonic()
            threading.Thread(target=self._sweep, name="patchbank-sweep", daemon=True).start()

    def _forget_oldest(self) -> list[str]:
        """The keys of images that are too many, marked as gone."""
        oldest = select(_t.id, _t.key, _t.kept).where(_t.kept > 0).order_by(_t.id).limit(_EVICTED_AT_ONCE)
        with self._db.writing() as connection:
            if not connection.scalar(select(func.pg_try_advisory_xact_lock(TRIMMING))):
                return []
            excess = int(connection.scalar(select(func.sum(_t.kept)).where(_t.kept > 0)) or 0) - self.keep_images
            ids, keys = list[int](), list[str]()
            for number, key, size in connection.execute(oldest) if excess > 0 else ():
                if excess <= 0:
                    break
                ids.append(number)
                keys.append(key)
                excess -= size
            connection.execute(update(inspections).where(_t.id.in_(ids)).values(kept=0))
        return keys

    def _sweep(self) -> None:
        """Remove old files that no row has: of stations that died, and of records that could not be written."""
        assert self.images is not None
        with self._sweeping:
            try:
                for keys in self.images.older_than(_ORPHAN):
                    with self._db.reading() as connection:
                        known = select(_t.key).where(_t.key.in_(keys), _t.kept > 0)
                        there = set(connection.scalars(known))
                    self.images.remove(key for key in keys if key not in there)
            except (HistoryError, OSError) as error:
                _log.warning("images that no inspection has cannot be removed now (%s)", error)

    # ---- reading -----------------------------------------------------------------------------------------------------

    def kept_image(self, number: int) -> bytes | None:
        return self._file(number, "image")

    def kept_geometry(self, number: int) -> bytes | None:
        return self._file(number, "geometry")

    def kept_map(self, number: int) -> bytes | None:
        return self._file(number, "map.png")

    def _file(self, number: int, kind: str) -> bytes | None:
        if self.images is None:
            return None
        with self._db.reading() as connection:
            key = connection.scalar(select(_t.key).where(_t.id == number))
        return None if key is None else self.images.read(key, kind)

    def get(self, number: int) -> Row | None:
        with self._db.reading() as connection:
            return connection.execute(select(inspections).where(_t.id == number)).mappings().first()

    def find(
        self,
        *,
        model: str | None = None,
        anomalous: bool | None = None,
        verdict: str | None = None,
        before: int | None = None,
        after: int | None = None,
        limit: int,
    ) -> Sequence[Row]:
        query = select(inspections).limit(limit)
        if model is not None:
            query = query.where(_t.model == plain(model))
        if anomalous is not None:
            query = query.where(_t.is_anomalous == anomalous)
        if before is not None:
            query = query.where(_t.id < before)
        if after is not None:
            query = query.where(_t.id > after)
        if verdict is not None:
            query = query.where(_t.verdict.is_(None) if verdict == "none" else _t.verdict == verdict)
        if after is not None and before is None:
            return self._rows(query.order_by(_t.id))[::-1]
        return self._rows(query.order_by(_t.id.desc()))

    def accepted_false_alarms(self, model: str, limit: int) -> Sequence[Row]:
        query = select(inspections).where(
            _t.model == plain(model), _t.verdict == "overruled", _t.is_anomalous, _t.kept > 0, _t.added_at.is_(None)
        )
        return self._rows(query.order_by(_t.id.desc()).limit(limit))

    def _rows(self, query: Select[Any]) -> Sequence[Row]:
        with self._db.reading() as connection:
            return connection.execute(query).mappings().all()

    def scores(self, model: str, since: float) -> Iterator[tuple[str, float, int]]:
        day = func.to_char(func.timezone("UTC", func.to_timestamp(_t.at)), literal("YYYY-MM-DD"))
        query = select(day, _t.score, _t.is_anomalous).where(
            _t.model == plain(model), _t.at >= since, _t.score.is_not(None)
        )
        with self._db.streaming() as connection:
            for day, score, is_anomalous in connection.execute(query.order_by(_t.at)):
                yield day, score, int(is_anomalous)

    def last_scores(self, model: str, version: str, count: int) -> list[float]:
        query = select(_t.score).where(_t.model == plain(model), _t.version == version, _t.score.is_not(None))
        with self._db.reading() as connection:
            return [float(score) for score in connection.scalars(query.order_by(_t.id.desc()).limit(count))]


def row_of(record: Record, key: str) -> dict[str, Any]:
    """A record by the names of the columns, as PostgreSQL takes it. NaN is NULL, as SQLite has it."""
    row = {name: plain(value) for name, value in record.row().items() if name != "id"}
    return {**row, "key": key}


def plain(value: Any) -> Any:
    """A value that PostgreSQL can hold: no NaN, and text without NUL and lone surrogates, which clients may send."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    return value
