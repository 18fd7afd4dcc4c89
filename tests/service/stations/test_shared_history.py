"""A history in PostgreSQL: the same answers as SQLite's, several writers, and what happens while it is away."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from patchbank.errors import MissingPackageError, OptionError
from patchbank.service.config import Config
from patchbank.service.history import History
from patchbank.service.stations import address
from patchbank.service.store import HistoryError, HistoryStore, history_of
from tests.service.stations.conftest import Open
from tests.service.stations.server import Proxy, Server
from tests.service.test_history import record

_REASON = "needs `pip install patchbank[postgres]`"
shared_history = pytest.importorskip("patchbank.service.stations.history", reason=_REASON)
connections = pytest.importorskip("patchbank.service.stations.connections", reason=_REASON)
_COLUMNS = (
    "id", "at", "model", "version", "name", "score", "p_value", "threshold", "map_threshold", "is_anomalous", "height",
    "width", "regions", "timings", "kept", "verdict", "note", "decided_at", "added_at", "channels", "geometry",
)  # fmt: skip


def as_dicts(rows: Any) -> list[dict[str, Any]]:
    return [{name: row[name] for name in _COLUMNS} for row in rows]


def filled(history: HistoryStore) -> HistoryStore:
    """Two models, days apart, odd numbers and names, verdicts."""
    history.record([record(at=1e9 + 40_000 * i, score=i / 3, is_anomalous=i % 2 == 0) for i in range(6)])
    history.record([record(model="other", score=math.nan, threshold=math.inf, name="Schraube ✓", geometry=b"1234567")])
    history.record([record(image=b""), record(model="other", is_anomalous=True, regions=[{"box": [1, 2, 3, 4]}])])
    history.decide(1, "overruled", "dust", 5.0)
    history.decide(3, "overruled", "", 6.0)
    history.decide(5, "confirmed", "", 7.0)
    history.decide(5, None, "not sure", 8.0)
    history.mark_added([3], 9.0)
    return history


@pytest.fixture
def both(shared: Open, tmp_path: Path) -> Iterator[tuple[HistoryStore, HistoryStore]]:
    sqlite = filled(History(tmp_path / "h.sqlite", 10**6))
    yield sqlite, filled(shared())
    sqlite.close()


def test_it_answers_as_sqlite_does(both: tuple[HistoryStore, HistoryStore]) -> None:
    questions: list[dict[str, Any]] = [
        {"limit": 100}, {"limit": 2}, {"model": "other", "limit": 9}, {"anomalous": True, "limit": 9},
        {"verdict": "none", "limit": 9}, {"verdict": "overruled", "limit": 9}, {"before": 5, "limit": 2},
        {"after": 2, "limit": 3}, {"after": 2, "before": 6, "limit": 9}, {"model": "\0", "limit": 9},
        {"before": 2**63 - 1, "limit": 1},
    ]  # fmt: skip
    sqlite, shared = both
    for question in questions:
        assert as_dicts(shared.find(**question)) == as_dicts(sqlite.find(**question)), question
    for number in range(1, 11):
        mine, theirs = shared.get(number), sqlite.get(number)
        assert (mine is None) == (theirs is None)
        assert shared.kept_image(number) == sqlite.kept_image(number)
        assert shared.kept_map(number) == sqlite.kept_map(number)
        assert shared.kept_geometry(number) == sqlite.kept_geometry(number)
    for model in ("m", "other", "none"):
        assert as_dicts(shared.accepted_false_alarms(model, 9)) == as_dicts(sqlite.accepted_false_alarms(model, 9))
        assert list(shared.scores(model, 1e9 + 1)) == list(sqlite.scores(model, 1e9 + 1))
        assert shared.last_scores(model, "v", 4) == sqlite.last_scores(model, "v", 4)


def test_text_that_postgresql_cannot_hold_is_kept_as_far_as_it_can(shared: Open) -> None:
    history = shared()
    history.record([record(name="a\0b\ud800")])
    history.decide(1, "overruled", "nul \0", 1.0)
    row = history.get(1)
    assert row is not None
    assert (row["name"], row["note"]) == ("a\ufffdb?", "nul \ufffd")


def test_a_record_is_durable_before_record_returns(shared: Open, server: Server, database: str) -> None:
    """Also where the database's default promises less; seen by another connection at once."""
    server.execute(database, f"ALTER DATABASE {database} SET synchronous_commit = off")
    history = shared()
    with history._db.writing() as connection:
        connection.execute(shared_history._TURN)
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    records = [record(score=float(i)) for i in range(3)]
    history.record(records)
    found = server.execute(database, "SELECT id, score FROM inspections ORDER BY id")
    assert found == [(one.id, one.score) for one in records]


def test_ids_become_visible_in_their_order(shared: Open, server: Server, database: str) -> None:
    """Who asks what came after an id, while two stations write, misses nothing."""
    stations = [shared(), shared()]
    stop, seen = threading.Event(), list[int]()

    def follow() -> None:
        last = 0
        while not stop.is_set() or stations[0].find(after=last, limit=1):
            rows = stations[0].find(after=last, limit=50)  # newest first
            seen.extend(row["id"] for row in rows[::-1])
            last = seen[-1] if seen else 0

    def write(station: HistoryStore) -> None:
        for _ in range(25):
            station.record([record(image=b"") for _ in range(3)])

    with ThreadPoolExecutor(5) as pool:
        following = pool.submit(follow)
        for done in [pool.submit(write, stations[i % 2]) for i in range(4)]:
            done.result()
        stop.set()
        following.result()
    assert seen == [number for (number,) in server.execute(database, "SELECT id FROM inspections ORDER BY id")]
    assert len(seen) == 4 * 25 * 3


def test_a_record_sent_twice_is_one(shared: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit was done, and its answer was lost."""
    history, tries = shared(), list[int]()
    once = history._insert_once

    def lossy(rows: Any) -> dict[str, int]:
        ids = once(rows)
        tries.append(1)
        if len(tries) == 1:
            raise connections.ConnectionLost("the answer never came")
        return ids

    monkeypatch.setattr(history, "_insert_once", lossy)
    records = [record(), record()]
    history.record(records)
    assert len(tries) == 2
    assert [row["id"] for row in history.find(limit=9)] == [records[1].id, records[0].id] == [2, 1]
    assert history.kept_image(2) == b"12345"


def test_the_oldest_images_go_whoever_wrote_them(shared: Open, tmp_path: Path) -> None:
    one, other = shared(keep_images=80), shared(keep_images=80)
    for i in range(30):
        station = (one, other)[i % 2]
        station.record([record()])  # 8 bytes
        station.trim()
    assert len(list((tmp_path / "images").rglob("*.image"))) == 10
    assert one.kept_image(21) == other.kept_image(21) == b"12345"
    assert one.kept_image(20) is None
    row = one.get(20)
    assert row is not None
    assert row["kept"] == 0


def test_old_files_without_a_row_go(shared: Open, tmp_path: Path) -> None:
    history = shared()
    history.record([record()])
    (key,) = {file.name.partition(".")[0] for file in (tmp_path / "images").rglob("*.image")}
    lost, fresh = "ab" * 16, "cd" * 16
    history.images.write(lost, {"image": b"1", "map.png": b"2"})  # type: ignore[union-attr]
    history.images.write(fresh, {"image": b"of a record under way"})  # type: ignore[union-attr]
    for file in (tmp_path / "images").rglob("*.*"):
        if fresh not in file.name:
            os.utime(file, (1e9, 1e9))
    (tmp_path / "images" / "ab" / "note.txt").write_text("not ours")
    history._sweep()
    left = {file.name for file in (tmp_path / "images").rglob("*.*")}
    assert left == {f"{key}.image", f"{key}.map.png", f"{fresh}.image", "note.txt"}


def test_a_full_disk_for_images_does_not_stop_rows(shared: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    history = shared()

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    history.record([record()])
    row = history.get(1)
    assert row is not None
    assert row["kept"] == 0
    assert not [file for file in history.images.folder.rglob("*") if file.is_file()]  # type: ignore[union-attr]


FULL = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON inspections EXECUTE FUNCTION full_disk();
"""


def test_a_full_disk_of_the_database_leaves_no_images_and_passes(shared: Open, server: Server, database: str) -> None:
    history = shared()
    server.execute(database, FULL)
    with pytest.raises(HistoryError, match="No space left"):
        history.record([record()])
    assert not [file for file in history.images.folder.rglob("*") if file.is_file()]  # type: ignore[union-attr]
    server.execute(database, "DROP TRIGGER full_disk ON inspections")
    assert history.problem() is None  # it tried again
    history.record([record()])


@pytest.mark.parametrize("mode", ["cut", "hold"])
def test_a_cut_network_is_noticed_and_mended(
    shared: Open, server: Server, database: str, proxy: Proxy, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patchbank.service.stations.connections._DEADLINE", 0.5)
    monkeypatch.setattr("patchbank.service.stations.address.CONNECT_SECONDS", 1)
    history = shared(server.address(database, proxy.port))
    history.record([record()])
    proxy.set(mode)
    with pytest.raises(HistoryError):
        history.record([record(name="unanswered")])
    assert history.away() is not None
    with pytest.raises(HistoryError):
        history.record([record(name="refused at once")])
    with pytest.raises(HistoryError):
        history.get(1)
    proxy.set("pass")
    until = time.monotonic() + 20
    while history.away() is not None:
        assert time.monotonic() < until
        time.sleep(0.02)
    one = record(name="again")
    history.record([one])
    names = [row["name"] for row in history.find(limit=9)]
    assert names[0] == "again"
    assert "refused at once" not in names
    assert history.kept_image(one.id) == b"12345"


def test_a_station_that_stops_inside_a_commit_does_not_hold_up_the_others(shared: Open) -> None:
    """The server ends its transaction, so the next station has its turn before its own time is over."""
    stuck, other = shared(), shared()
    with stuck._db._engine.connect() as connection:
        connection.execute(shared_history._TURN)
        other.record([record()])
        assert other.away() is None
        connection.invalidate()


def test_stations_take_turns_at_a_model(shared: Open) -> None:
    one, other = shared(), shared()
    with one.turn("parts") as is_ours:
        assert is_ours
        with other.turn("parts") as theirs, other.turn("gears") as gears:
            assert not theirs
            assert gears
    with other.turn("parts") as theirs:
        assert theirs


def test_databases_of_others_are_refused(server: Server, database: str, shared: Open) -> None:
    server.execute(database, "CREATE TABLE inspections (x int)")
    with pytest.raises(OptionError, match="something else"):
        shared()
    server.execute(database, "DROP TABLE inspections")
    shared()
    assert server.execute(database, "SELECT version_num FROM patchbank_schema") == [("0001",)]
    server.execute(database, "UPDATE patchbank_schema SET version_num = '9999'")
    with pytest.raises(OptionError, match="newer patchbank"):
        shared()


def test_stations_that_start_together_make_one_schema(server: Server, database: str) -> None:
    stations = [connections.Database(server.address(database)) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(one.open) for one in stations]:
            done.result()
    for one in stations:
        one.close()


def test_the_changes_make_the_tables_of_the_schema(server: Server, database: str, shared: Open) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from sqlalchemy import create_engine

    from patchbank.service.stations.schema import VERSION_TABLE, metadata

    shared()
    engine = create_engine(address.parsed(server.address(database)))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_addresses_are_checked_and_shown_without_passwords(server: Server) -> None:
    assert address.shown_address("postgres://a:secret@h:1/d") == "postgresql://a:***@h:1/d"
    assert (
        address.shown_address("postgresql://h/d?password=secret&sslmode=require") == "postgresql://h/d?sslmode=require"
    )
    with pytest.raises(OptionError, match="no kind of history"):
        history_of("mysql://h/d")
    assert history_of("sqlite:///a/b.sqlite") == Path("a/b.sqlite")
    assert history_of("sqlite:b") == history_of("b") == Path("b")
    with pytest.raises(OptionError, match="--images"):
        Config(models=(Path("m"),), history="postgresql://h/d")
    with pytest.raises(OptionError, match="SQLite keeps images beside"):
        Config(models=(Path("m"),), history=Path("h"), images=Path("i"))
    with pytest.raises(OptionError, match="cannot be used as the history") as refused:
        shared_history.SharedHistory("postgresql://line:secret@127.0.0.1:1/d", None, 0)
    assert "secret" not in str(refused.value)
    with pytest.raises(OptionError, match="does not exist"):
        shared_history.SharedHistory(server.address("nowhere"), None, 0)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "_PACKAGES", ("no_such_package",))
    with pytest.raises(MissingPackageError, match=r"pip install patchbank\[postgres\]"):
        address.require_packages()


def test_sqlite_needs_none_of_these_packages(tmp_path: Path) -> None:
    """Neither the package, nor the command line, nor a history in SQLite imports them."""
    code = (
        "import sys, pathlib, patchbank, patchbank.cli, patchbank.service.history as h, patchbank.service.config\n"
        f"h.History(pathlib.Path({str(tmp_path / 'h')!r}), 0).close()\n"
        "print(sorted({'sqlalchemy', 'psycopg', 'alembic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
