"""Parts of two files in a watched folder: inspected once, when both are complete, however they arrive."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from patchbank import PatchCore
from patchbank.errors import OptionError, PatchbankWarning
from patchbank.service.pairs import Pairs
from patchbank.service.watching import COLUMNS, PAIR_COLUMNS, Arrivals, Table, watch
from tests.cli.running import patchbank
from tests.conftest import good_image
from tests.service.solid import encoded, fit, part, write

BOTH = ("rgb", "xyz")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PatchCore:
    return fit(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    return path


def picture() -> np.ndarray:
    return np.full((8, 8, 3), 90, np.uint8)


def depths(kind: type = np.uint16) -> np.ndarray:
    return np.full((8, 8), 500, kind)


def put(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        cv2.imwrite(str(path), values)
    return path


def names(found: list) -> list[str]:
    return [path.name for path, _ in found]


@pytest.mark.parametrize(
    ("rgb", "xyz"),
    [
        ("rgb/007.png", "xyz/007.tiff"),
        ("color/007.jpg", "depth/007.png"),
        ("lot/rgb/007.png", "lot/z/007.npy"),
        ("007.jpg", "007.tiff"),
        ("007.png", "007_depth.png"),
        ("007.png", "007.npy"),
        ("007.jpg", "007.pcd"),
        ("007.jpg", "007.ply"),
    ],
)
@pytest.mark.parametrize("first", BOTH)
def test_a_part_is_ready_when_both_are(folder: Path, rgb: str, xyz: str, first: str) -> None:
    arrivals = Arrivals(folder, {}, Pairs(BOTH, 60))
    files = {"rgb": (folder / rgb, picture()), "xyz": (folder / xyz, depths())}
    second = BOTH[first == "rgb"]
    for channel in (first, second):
        path, values = files[channel]
        if path.suffix in (".pcd", ".ply"):
            path.write_bytes(b"points")
        else:
            put(path, values)
        for _ in range(2 if channel == first else 1):
            assert arrivals.look() == []
    ((known, stamp),) = arrivals.look()
    assert known == folder / rgb
    assert dict(arrivals.parts[known].channels) == {"rgb": folder / rgb, "xyz": folder / xyz}
    sizes = [file.stat().st_size for file in (folder / rgb, folder / xyz)]
    assert list(stamp[::2]) == sizes
    arrivals.seen[str(known)] = stamp
    assert arrivals.look() == []
    (folder / xyz).write_bytes((folder / xyz).read_bytes() + b"more")  # either file replaced is another part
    assert arrivals.look() == []
    assert names(arrivals.look()) == [Path(rgb).name]


def test_a_second_file_that_grows_is_waited_for(folder: Path) -> None:
    arrivals = Arrivals(folder, {}, Pairs(BOTH, 60))
    put(folder / "rgb/1.png", picture())
    whole = encoded(".tiff", depths())
    (folder / "xyz").mkdir()
    for length in (40, 80, len(whole)):
        (folder / "xyz/1.tiff").write_bytes(whole[:length])
        assert arrivals.look() == []
    assert names(arrivals.look()) == ["1.png"]


def test_what_stays_incomplete_is_named_once(folder: Path) -> None:
    now = 0.0
    pairs = Pairs(BOTH, 60, lambda: now)
    arrivals = Arrivals(folder, {}, pairs)
    put(folder / "1.jpg", picture())
    put(folder / "2.tiff", depths())
    put(folder / "3.npy", depths())
    told: list[str] = []
    for now in (0.0, 59.0, 60.0, 61.0, 500.0):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert arrivals.look() == []
        told += [str(w.message) for w in caught]
        assert len(told) == (3 if now >= 60 else 0)
    assert f"{folder / '1.jpg'}: after 60 s there is no geometry, such as 1.tiff in a folder xyz" in told[0]
    assert f"{folder / '2.tiff'}: after 60 s there is no picture, such as 2.png in a folder rgb" in told[1]
    assert "3.npy: after 60 s there is no picture" in told[2]
    assert pairs.overdue == 3
    put(folder / "1.tiff", depths())  # its partner comes after all
    (folder / "2.tiff").unlink()
    assert arrivals.look() == []
    assert names(arrivals.look()) == ["1.jpg"]
    assert pairs.overdue == 1


def test_geometry_alone_waits_for_no_picture(folder: Path) -> None:
    now = 0.0
    arrivals = Arrivals(folder, {}, Pairs(("xyz",), 5, lambda: now))
    put(folder / "1.tiff", depths())
    put(folder / "2.npy", depths())
    put(folder / "3.jpg", picture())
    assert arrivals.look() == []
    found = arrivals.look()
    assert sorted(names(found)) == ["1.tiff", "2.npy"]
    arrivals.seen.update({str(path): stamp for path, stamp in found})
    put(folder / "1.jpg", picture())  # a picture that comes late repeats nothing
    arrivals.look()
    assert arrivals.look() == []
    now = 6.0
    with pytest.warns(PatchbankWarning, match="3.jpg: after 5 s there is no geometry"):
        arrivals.look()


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def look_at(model: PatchCore, folder: Path, out: Path, parts: int) -> list[dict]:
    """Watch until so many rows are there, and a little longer."""
    told: list[dict] = []
    table, stop = Table(out, PAIR_COLUMNS), threading.Event()

    def tell(row: dict) -> None:
        told.append(row)
        if len(told) == parts:
            threading.Timer(0.3, stop.set).start()

    timer = threading.Timer(2 if not parts else 30, stop.set)
    timer.start()
    watch(model, Arrivals(folder, table.seen, Pairs(BOTH, 60)), table, stop, every=0.05, on_row=tell)
    timer.cancel()
    table.close()
    return told


def test_each_part_once_across_restarts(model: PatchCore, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    pictures = [write(folder, f"{seed}", part(40 + seed, bad=seed == 1)) for seed in range(3)]
    (folder / "xyz/2.tiff").write_bytes(b"no geometry")
    told = look_at(model, folder, out, 3)
    rows = {Path(row["path"]).name: row for row in rows_of(out)}
    assert set(rows) == {"0.png", "1.png", "2.png"}
    assert [row["path"] for row in told] == [row["path"] for row in rows_of(out)]
    expected = model.predict(pictures[1])
    assert float(rows["1.png"]["score"]) == pytest.approx(expected.score)
    assert json.loads(rows["1.png"]["channels"]) == pytest.approx(expected.channels)
    assert rows["1.png"]["geometry"] == str(folder / "xyz/1.tiff")
    assert "2.png: xyz: " in rows["2.png"]["error"]
    assert look_at(model, folder, out, 0) == []
    out.write_bytes(out.read_bytes()[:-9])  # the power fails in the middle of a row
    (again,) = look_at(model, folder, out, 1)
    assert again["path"] == told[-1]["path"]
    write(folder, "2", part(42))  # replaced by one that can be read
    (new,) = look_at(model, folder, out, 1)
    assert (Path(new["path"]).name, new["error"]) == ("2.png", None)


def test_a_table_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    kinds = (COLUMNS, PAIR_COLUMNS)
    for mine, other in (kinds, kinds[::-1]):
        path = tmp_path / f"{len(mine)}.csv"
        Table(path, mine).close()
        before = path.read_bytes()
        with pytest.raises(OptionError, match="is of a model with other channels"):
            Table(path, other)
        assert path.read_bytes() == before


def until(is_so: Callable[[], bool], process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_killed_watch_loses_and_repeats_nothing(model: PatchCore, folder: Path, tmp_path: Path) -> None:
    model.save(tmp_path / "m.patchbank")
    out, errors = tmp_path / "out.csv", tmp_path / "errors"
    command = [sys.executable, "-m", "patchbank", "watch", str(tmp_path / "m.patchbank"), str(folder), "-o", str(out)]
    command += ["--interval", "0.1", "--threads", "1", "--weights", "random", "--pair-timeout", "0.5"]

    def count() -> int:
        return max(0, len(out.read_bytes().splitlines()) - 1) if out.exists() else 0

    write(folder, "0", part(50))
    for round, start in enumerate((1, 4)):
        with errors.open("w") as file:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)
        until(lambda least=start: count() >= least, process)
        for number in range(start, start + 3):
            write(folder, str(number), part(50 + number))
        if round == 0:
            until(lambda: count() >= 2, process)
            process.send_signal(signal.SIGKILL)
            process.wait()
    until(lambda: count() >= 7, process)
    (folder / "rgb/8.png").write_bytes(part(58)["rgb"])
    until(lambda: "8.png: after 0.5 s there is no geometry" in errors.read_text(), process)
    (folder / "xyz/8.tiff").write_bytes(part(58)["xyz"])
    until(lambda: count() >= 8, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0, errors.read_text()
    assert sorted(Path(row["path"]).name for row in rows_of(out)) == [f"{n}.png" for n in (*range(7), 8)]
    assert {row["error"] for row in rows_of(out)} == {""}
    assert errors.read_text().count("8.png") == 1
    assert "Traceback" not in errors.read_text()


def test_the_option_needs_a_model_of_geometry(tmp_path: Path, folder: Path) -> None:
    plain = PatchCore(weights="random", image_size=64, bank_size=60, threads=1)
    plain.fit([good_image(i, (64, 64)) for i in range(8)]).save(tmp_path / "plain.patchbank")
    out = tmp_path / "out.csv"
    done = patchbank(
        "watch", tmp_path / "plain.patchbank", folder, "--weights", "random", "--pair-timeout", 5, "-o", out
    )  # fmt: skip
    assert done.returncode == 2
    assert "looks at pictures alone, which need no partner: leave out --pair-timeout" in done.stderr
    assert not out.exists()
