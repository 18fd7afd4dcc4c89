"""The history on disk."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from patchbank.errors import OptionError
from patchbank.pictures.heat import STEPS, colour_steps, heat, heat_layer
from patchbank.service.history import History
from patchbank.service.kept import pack_map, unpack_map, unpack_steps
from patchbank.service.records import Record


def record(**changes: object) -> Record:
    given = {
        "at": 1e9, "model": "m", "version": "v", "name": "n", "score": 1.0, "p_value": 0.5, "threshold": 2.0,
        "map_threshold": 2.0, "is_anomalous": False, "size": (4, 6), "regions": [], "timings": {}, "image": b"12345",
        "map_png": b"123", **changes,
    }  # fmt: skip
    return Record(**given)  # type: ignore[arg-type]


def test_rows_are_on_the_disk_before_record_returns(tmp_path: Path) -> None:
    history = History(tmp_path / "h.sqlite", 10**6)
    records = [record(score=float(i), threshold=math.inf) for i in range(3)]
    history.record(records)
    assert [r.id for r in records] == [1, 2, 3]
    ((mode,),) = history._writer.execute("PRAGMA journal_mode")
    ((synchronous,),) = history._writer.execute("PRAGMA synchronous")
    assert (mode, synchronous) == ("wal", 2)
    with sqlite3.connect(tmp_path / "h.sqlite") as other:  # as another process sees it
        assert other.execute("SELECT id, score, threshold FROM inspections").fetchall()[2] == (3, 2.0, math.inf)
    history.close()


def test_ids_go_on_and_images_without_a_row_go(tmp_path: Path) -> None:
    first = History(tmp_path / "h.sqlite", 10**6)
    first.record([record(), record(image=b"")])
    first.close()
    (first.folder / "3.image").write_bytes(b"written before its row, which never came")
    (first.folder / "note.txt").write_text("not ours")
    second = History(tmp_path / "h.sqlite", 10**6)
    assert {f.name for f in second.folder.iterdir()} == {"1.image", "1.map.png", "note.txt"}
    added = record()
    second.record([added])
    assert added.id == 3
    assert second.kept_image(3) == b"12345"
    second.close()


def test_a_lower_limit_is_kept_at_once(tmp_path: Path) -> None:
    first = History(tmp_path / "h.sqlite", 10**6)
    first.record([record() for _ in range(130)])
    first.close()
    second = History(tmp_path / "h.sqlite", 8 * 10)
    second.trim()
    assert len(list(second.folder.iterdir())) == 2 * 10
    assert second.kept_image(121) == b"12345"
    assert second.kept_image(120) is None
    second.close()


def test_an_image_that_cannot_be_written_does_not_stop_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(tmp_path / "h.sqlite", 10**6)

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    one = record()
    history.record([one])
    row = history.get(1)
    assert row is not None
    assert row["kept"] == 0
    history.close()


def test_a_history_has_one_writer(tmp_path: Path) -> None:
    history = History(tmp_path / "h.sqlite", 0)
    with pytest.raises(OptionError, match="another `patchbank serve`"):
        History(tmp_path / "h.sqlite", 0)
    history.close()
    History(tmp_path / "h.sqlite", 0).close()


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, but long enough to be taken for one" * 20)
    with sqlite3.connect(tmp_path / "theirs") as db:
        db.execute("CREATE TABLE t (x)")
    with sqlite3.connect(tmp_path / "newer") as db:
        db.execute("PRAGMA user_version=99")
    for name, words in (("text", "not a database"), ("theirs", "something else"), ("newer", "newer patchbank")):
        with pytest.raises(OptionError, match=words):
            History(tmp_path / name, 0)


@pytest.mark.parametrize("threshold", [5.0, math.inf, 0.0, -1.0])
def test_a_kept_map_has_the_colours_of_the_map(threshold: float) -> None:
    rng = np.random.default_rng(0)
    values = (5 * np.abs(rng.normal(1, 0.7, (60, 80)))).astype(np.float32) - (2 if threshold <= 0 else 0)
    values[:10, :20] = np.nan
    packed = pack_map(values, threshold)
    steps = unpack_steps(packed)
    assert ((steps == 0) == np.isnan(values)).all()
    expected = np.maximum(colour_steps(values, threshold), 1)
    assert (steps[~np.isnan(values)] == expected[~np.isnan(values)]).all()
    again = unpack_map(packed, threshold, (60, 80))
    seen = ~np.isnan(values)
    assert (np.maximum(colour_steps(again, threshold), 1)[seen] == expected[seen]).all()
    larger = unpack_map(packed, threshold, (120, 160))
    np.testing.assert_array_equal(larger[::2, ::2], again)


def test_the_layer_over_the_grey_photo_is_the_heat_picture() -> None:
    rng = np.random.default_rng(1)
    values = (rng.random((40, 50)) * 12).astype(np.float32)
    photo = np.repeat(rng.integers(0, 255, (40, 50, 1)).astype(np.uint8), 3, axis=2)
    layer = heat_layer(colour_steps(values, 5.0), np.isnan(values)).astype(float)
    alpha = layer[..., 3:] / 255
    composed = alpha * layer[..., :3] + (1 - alpha) * (40 + 0.72 * photo)
    assert np.abs(composed - heat(photo, values, 5.0)).max() <= 2
    assert STEPS == 128


def test_large_maps_are_kept_small_with_their_peaks() -> None:
    values = np.zeros((2000, 3000), np.float32)
    values[777, 1234] = 10
    steps = unpack_steps(pack_map(values, 4.0))
    assert max(steps.shape) == 512
    assert steps.max() == 255
