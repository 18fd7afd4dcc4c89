"""Histories of SQLite, moved into PostgreSQL."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from patchbank.cli import app
from patchbank.errors import OptionError
from patchbank.service.history import History
from patchbank.service.stations.images import FolderImages
from tests.service.stations.conftest import Open
from tests.service.stations.server import Server
from tests.service.stations.test_shared_history import as_dicts, filled
from tests.service.test_history import record

_NEEDED = "patchbank.service.stations.moving"
move = pytest.importorskip(_NEEDED, reason="needs `pip install patchbank[postgres]`").move
# as the first release wrote it
FIRST_SCHEMA = """
CREATE TABLE inspections (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, model TEXT NOT NULL, version TEXT NOT NULL,
    name TEXT NOT NULL, score REAL, p_value REAL, threshold REAL, map_threshold REAL, is_anomalous INTEGER NOT NULL,
    height INTEGER NOT NULL, width INTEGER NOT NULL, regions TEXT NOT NULL, timings TEXT NOT NULL,
    kept INTEGER NOT NULL, verdict TEXT, note TEXT NOT NULL DEFAULT '', decided_at REAL, added_at REAL
);
INSERT INTO inspections VALUES
(7, 1e9, 'm', 'v', 'old', 1.5, 0.5, 2.0, 2.0, 1, 4, 6, '[]', '{}', 0, NULL, '', NULL, NULL);
PRAGMA user_version = 1;
"""


def migrate(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["history", "migrate", *map(str, arguments)])
    assert result.exit_code == 0, f"{result.output}{result.exception}"
    return result.output


def test_the_history_of_today_moves_with_its_ids_verdicts_and_images(
    server: Server, database: str, shared: Open, tmp_path: Path
) -> None:
    path = tmp_path / "h.sqlite"
    before = filled(History(path, 10**6))
    rows = as_dicts(before.find(limit=100))
    files = {row["id"]: (before.kept_image(row["id"]), before.kept_map(row["id"])) for row in rows}
    before.close()
    bytes_before = path.read_bytes()
    said = migrate(f"sqlite:{path}", server.address(database), "--images", tmp_path / "images")
    assert said == f"moved 9 inspections, 8 with their images, to {server.address(database)}\n"
    assert path.read_bytes() == bytes_before
    after = shared()
    assert as_dicts(after.find(limit=100)) == rows
    assert {number: (after.kept_image(number), after.kept_map(number)) for number in files} == files
    assert after.kept_geometry(7) == b"1234567"
    new = record()
    after.record([new])
    assert new.id == 10


def test_images_may_stay_behind(server: Server, database: str, shared: Open, tmp_path: Path) -> None:
    filled(History(tmp_path / "h.sqlite", 10**6)).close()
    assert "0 with their images" in migrate(tmp_path / "h.sqlite", server.address(database))
    assert {row["kept"] for row in shared().find(limit=100)} == {0}


def test_several_histories_are_merged_by_time(server: Server, database: str, shared: Open, tmp_path: Path) -> None:
    for name, start in (("a", 1e9), ("b", 1e9 + 1)):
        history = History(tmp_path / name, 10**6)
        history.record([record(at=start + 2 * i, name=f"{name}{i}", image=name.encode()) for i in range(3)])
        history.close()
    assert move([tmp_path / "a", tmp_path / "b"], server.address(database), FolderImages(tmp_path / "images")) == (6, 6)
    history = shared()
    rows = history.find(limit=9)[::-1]
    assert [(row["id"], row["name"]) for row in rows] == list(enumerate(["a0", "b0", "a1", "b1", "a2", "b2"], 1))
    assert [history.kept_image(number) for number in range(1, 7)] == [b"a", b"b"] * 3
    new = record()
    history.record([new])
    assert new.id == 7


def test_the_first_schema_moves_too(server: Server, database: str, shared: Open, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "old") as db:
        db.executescript(FIRST_SCHEMA)
    move([tmp_path / "old"], server.address(database), None)
    row = shared().get(7)
    assert row is not None
    assert (row["name"], row["channels"], row["geometry"], row["is_anomalous"]) == ("old", "{}", 0, True)


def test_a_move_that_fails_leaves_nothing_and_can_be_repeated(
    server: Server, database: str, shared: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(History(tmp_path / "h.sqlite", 10**6)).close()
    images = FolderImages(tmp_path / "images")
    written, write = list[str](), images.write

    def full(key: str, files: dict[str, bytes]) -> None:
        if len(written) == 5:
            raise OSError(28, "No space left on device")
        written.append(key)
        write(key, files)

    with monkeypatch.context() as patched:
        patched.setattr(images, "write", full)
        with pytest.raises(OptionError, match=r"inspection 6: .*No space left on device.*nothing was moved"):
            move([tmp_path / "h.sqlite"], server.address(database), images)
    assert shared().find(limit=9) == []
    assert move([tmp_path / "h.sqlite"], server.address(database), images) == (9, 8)
    assert len(list((tmp_path / "images").rglob("*.map.png"))) == 8


def test_what_cannot_be_moved_is_refused(server: Server, database: str, tmp_path: Path) -> None:
    history = History(tmp_path / "h.sqlite", 0)
    history.record([record()])
    address = server.address(database)
    with pytest.raises(OptionError, match="another `patchbank serve`"):
        move([tmp_path / "h.sqlite"], address, None)
    history.close()
    (tmp_path / "text").write_text("no database " * 100)
    sqlite3.connect(tmp_path / "other").executescript("CREATE TABLE t (x)")
    for name, words in (("none", "no such history"), ("text", "not a database"), ("other", "is not a history")):
        with pytest.raises(OptionError, match=words):
            move([tmp_path / name], address, None)
    assert move([tmp_path / "h.sqlite"], address, None) == (1, 0)
    with pytest.raises(OptionError, match="holds inspections already"):
        move([tmp_path / "h.sqlite"], address, None)
    for wrong in (["a.sqlite"], ["postgresql://h/a", "postgresql://h/b"], ["a", "b"]):
        result = CliRunner().invoke(app, ["history", "migrate", *wrong])
        assert isinstance(result.exception, OptionError)
