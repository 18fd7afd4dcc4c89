"""What stands beside a result, and how result files become tables."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from pathlib import Path

import pytest
from benchmarks import record
from benchmarks.pages import __main__ as pages
from benchmarks.pages import compared, table


def test_a_run_records_date_commit_command_and_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/pytest", "/data/secret/mtd", "--shots", "5"])
    found = record.environment()
    assert found["date"] == datetime.now(timezone.utc).date().isoformat()
    assert found["commit"] is None or re.fullmatch(r"[0-9a-f]{10,}\+?", found["commit"])
    assert found["command"].endswith(" mtd --shots 5")
    assert "/data" not in found["command"]
    assert found["processor"]


def test_outside_a_repository_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "_ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert record.commit() is None


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (table, compared):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(table, "_USED", set())
    return tmp_path


def test_a_table_says_where_it_comes_from(results: Path) -> None:
    machine = {"processor": "P", "cores": 2, "threads": 1, "gpu": None, "python": "3.12.1", "torch": "2.9"}
    known = machine | {"date": "2026-11-27", "commit": "0123456789", "command": "python -m benchmarks.x"}
    (results / "new.json").write_text(json.dumps({"rows": [], "environment": known}))
    (results / "old.json").write_text(json.dumps({"set/method/0": {"environment": machine}}))
    (results / "bare.json").write_text("[]")
    text = table.Table(["a"], [["1 000 ± 2"]], ["new.json", "old.json", "bare.json"], "make x").markdown()
    new, old, bare = re.findall(r"<sub>(.*)</sub>", text)
    assert "date: 2026-11-27; commit: 0123456789; machine: P, 2 cores, 1 threads, Python 3.12.1, torch 2.9" in new
    assert "command: `python -m benchmarks.x`" in new
    assert "date: not recorded; commit: not recorded; machine: P, 2 cores" in old
    assert "command: `make x`" in old
    assert "machine: not recorded" in bare
    assert "1\u00a0000\u00a0±\u00a02" in text


def test_runs_of_different_days_are_all_said(results: Path) -> None:
    runs = {"a": {"x": 1}, "b": {"environment": {"date": "2026-11-28"}}, "c": {"environment": {"date": "2026-11-27"}}}
    (results / "runs.json").write_text(json.dumps(runs))
    text = table.Table(["a"], [["1"]], ["runs.json"], "make x").markdown()
    assert "date: 2026-11-27 and 2026-11-28 and not recorded; commit: not recorded; machine: not recorded;" in text


def test_a_result_that_no_table_knows_is_shown(results: Path) -> None:
    (results / "list.json").write_text(json.dumps([{"kind": "ring", "image_auroc": 0.91234, "odd": [1]}]))
    (results / "named.json").write_text(json.dumps({"one": {"ms": 12.34}, "environment": {"date": "2026-01-02"}}))
    (results / "known.json").write_text("{}")
    table.read("known.json")
    text = pages.content("other")
    assert "| kind | image auroc |" in text
    assert "| ring | 0.912 |" in text
    assert "| one | 12.3 |" in text
    assert "date: 2026-01-02" in text
    assert "known.json" not in text


def test_geometry_takes_lists_and_sets(results: Path) -> None:
    (results / "geometry.json").write_text(json.dumps([{"set": "tire", "method": "btf", "image_auroc": 0.8}]))
    one = {"channels": {"rgb": {"dent": 0.5}, "rgb+height": {"dent": 0.9}}, "cpmf": {"dent": 0.7, "fit_s": 3.0}}
    other = {"channels": {"rgb": {"dent": 0.6}}, "cpmf": {"dent": 0.8, "fit_s": 4.0}}
    (results / "geometry_drawn.json").write_text(json.dumps({"ring": one, "plate": other, "environment": {}}))
    text = compared.geometry().markdown().replace("\u00a0", " ")
    assert "| set | method | image auroc | dent | fit s |" in text
    assert "| tire | btf | 0.800 | – | – |" in text
    assert "| mean of ring, plate | rgb | – | 0.550 | – |" in text
    assert "| mean of ring, plate | cpmf | – | 0.750 | 3.500 |" in text
    assert "rgb+height" not in text
