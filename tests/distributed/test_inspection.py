"""Predictions by several workers, and runs that were cut off."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from patchbank.cli import app
from patchbank.cli.results import COLUMNS, RUN, KeptRun, identity_of_run
from patchbank.distributed.inspection import inspected
from patchbank.errors import OptionError
from patchbank.sample import Sample
from tests.conftest import bad_image
from tests.distributed.crews import here
from tests.distributed.test_fit import alone


def test_a_shard_that_takes_its_worker_with_it_is_named() -> None:
    model, failed = alone("patchcore"), list[str]()
    sources = [Sample.of(str(i), bad_image(i, (64, 96))) for i in range(20)]
    cluster = here(2, lambda worker, method, number: method == "inspect" and worker == 1)
    with pytest.warns(match="was lost"):
        found = [source.name for source, _ in inspected(cluster, model, sources, lambda name, _: failed.append(name))]
    assert failed == [str(i) for i in range(8, 16)]
    assert found == [str(i) for i in range(20) if not 8 <= i < 16]


def test_a_run_that_was_cut_off_goes_on(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def connect(*_: Any, **__: Any) -> Iterator[Any]:
        yield here(2)

    monkeypatch.setattr("patchbank.distributed.connect", connect)
    model, out = tmp_path / "parts.patchbank", tmp_path / "out"
    alone("patchcore").save(model)
    line = ["predict", str(model), str(parts / "test"), "-O", str(out)]
    assert CliRunner().invoke(app, line).exit_code == 0
    table = (out / "predictions.csv").read_text()
    again = CliRunner().invoke(app, [*line, "--ray", "auto", "--workers", "2"])
    assert again.exit_code == 0, again.output
    assert (out / "predictions.csv").read_text() == table
    assert not (out / RUN).exists()
    # as kill -9 leaves the folder in the middle of a line
    (out / "predictions.csv").rename(out / "predictions.csv.partial")
    (out / "predictions.csv.partial").write_text("".join(table.splitlines(keepends=True)[:4]) + "torn,0.")
    KeptRun(identity_of_run(model, None, None, None), False).write(out)
    pictures = sorted((out / "overlays").rglob("*.png"))
    pictures[0].write_bytes(b"of the first run")
    resumed = CliRunner().invoke(app, [*line, "--resume", "--ray", "auto"])
    assert resumed.exit_code == 0, resumed.output
    assert (out / "predictions.csv").read_text() == table
    assert pictures[0].read_bytes() == b"of the first run"
    assert "8 images inspected" in resumed.output
    refused = CliRunner().invoke(app, [*line, "--workers", "2"])
    assert isinstance(refused.exception, OptionError)


def test_rows_that_are_kept(tmp_path: Path) -> None:
    with (tmp_path / "predictions.csv.partial").open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerow(dict.fromkeys(COLUMNS, "1") | {"path": "a"})
        file.write("b,0.")
    run = KeptRun("model", True)
    assert run.rows(tmp_path, COLUMNS) == {}
    run.write(tmp_path)
    assert list(run.rows(tmp_path, COLUMNS)) == ["a"]
    assert KeptRun("model", False).rows(tmp_path, COLUMNS) == {}
    with pytest.raises(OptionError, match="holds a run of another model"):
        KeptRun("other", True).rows(tmp_path, COLUMNS)
