"""`patchbank watch`: what arrives is inspected once, also across restarts, and reported."""

from __future__ import annotations

import csv
import errno
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from patchbank import PatchCore
from patchbank.errors import OptionError, PatchbankWarning
from patchbank.service import watching
from patchbank.service.watching import Arrivals, Table, shown, watch
from patchbank.service.webhook import Webhook
from tests.conftest import bad_image, good_image


@pytest.fixture(scope="module")
def model() -> PatchCore:
    images = [good_image(i, (64, 64)) for i in range(8)]
    return PatchCore(weights="random", image_size=64, bank_size=60, threads=1, false_alarm_rate=0.2).fit(images)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def look_at(model: PatchCore, folder: Path, out: Path, looks: int = 3) -> list[dict]:
    """Watch until the folder has been looked at so often."""
    told: list[dict] = []
    table, stop = Table(out), threading.Event()
    arrivals = Arrivals(folder, table.seen)
    counted, look = iter(range(looks - 1, -1, -1)), arrivals.look

    def counting() -> list:
        found = look()
        if next(counted) == 0:
            threading.Timer(0.05, stop.set).start()
        return found

    arrivals.look = counting  # type: ignore[method-assign]
    watch(model, arrivals, table, stop, every=0.3, on_row=told.append)
    table.close()
    return told


def save(image: object, path: Path) -> None:
    Image.fromarray(image).save(path)  # type: ignore[arg-type]


def test_each_file_once_across_restarts(model: PatchCore, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    save(good_image(1, (64, 64)), folder / "good.png")
    save(bad_image(2), folder / "bad.png")
    (folder / "text.png").write_text("no image")
    (folder / "notes.txt").write_text("is passed over")
    told = look_at(model, folder, out)
    rows = {Path(row["path"]).name: row for row in rows_of(out)}
    assert set(rows) == {"good.png", "bad.png", "text.png"}
    assert len(told) == 3
    expected = model.predict(folder / "bad.png")
    assert float(rows["bad.png"]["score"]) == pytest.approx(expected.score)
    assert rows["bad.png"]["is_anomalous"] == "True"
    assert [r["box"] for r in json.loads(rows["bad.png"]["regions"])] == [list(r.box) for r in expected.regions]
    assert "not an image" in rows["text.png"]["error"]
    assert look_at(model, folder, out) == []
    (folder / "below").mkdir()
    save(good_image(3, (64, 64)), folder / "below" / "new.png")
    save(good_image(4, (64, 64)), folder / "text.png")  # a file that was replaced is another image
    assert {Path(row["path"]).name for row in look_at(model, folder, out)} == {"new.png", "text.png"}
    assert len(rows_of(out)) == 5


def test_a_file_that_grows_is_waited_for(folder: Path) -> None:
    arrivals, path = Arrivals(folder, {}), folder / "a.png"
    for length in (10, 20, 30):
        path.write_bytes(bytes(length))
        assert arrivals.look() == []
    ((ready, stamp),) = arrivals.look()
    assert (ready, stamp[0]) == (path, 30)
    assert arrivals.look()  # until it has been recorded
    arrivals.seen[shown(path)] = stamp
    assert arrivals.look() == []


def test_a_row_cut_by_a_power_failure_is_done_again(model: PatchCore, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    for i in range(2):
        save(good_image(i, (64, 64)), folder / f"{i}.png")
    look_at(model, folder, out)
    out.write_bytes(out.read_bytes()[:-9])
    (again,) = look_at(model, folder, out)
    assert len(rows_of(out)) == 2
    assert again["path"].endswith("1.png")
    assert None not in {value for row in rows_of(out) for value in row.values()}


def test_odd_names_are_one_line(model: PatchCore, folder: Path, tmp_path: Path) -> None:
    names = ["a,b.png", 'q"q.png', "new\nline.png", os.fsdecode(b"\xff.png")]
    for name in names:
        save(good_image(1, (64, 64)), folder / name)
    out = tmp_path / "out.csv"
    assert len(look_at(model, folder, out)) == 4
    assert len(out.read_bytes().splitlines()) == 5
    assert look_at(model, folder, out) == []


def test_what_cannot_be_inspected_gets_one_row(model: PatchCore, folder: Path, tmp_path: Path) -> None:
    save(good_image(1, (64, 64)), folder / "good.png")
    (folder / "loop").symlink_to(".")
    for name in ("phone.heic", "a.json", "b.json", "._good.png"):
        (folder / name).touch()
    out = tmp_path / "out.csv"
    with pytest.warns(PatchbankWarning) as warned:
        told = look_at(model, folder, out, looks=4)
    assert sorted(Path(row["path"]).name for row in told) == ["good.png", "phone.heic"]
    (failed,) = (row for row in told if row["error"])
    assert ".heic images are not read" in failed["error"]
    notes = [str(w.message) for w in warned if isinstance(w.message, PatchbankWarning)]
    assert len(notes) == len(set(notes)) == 4
    assert any("passes over 2 files that are no images" in note for note in notes)
    with pytest.warns(PatchbankWarning):
        assert look_at(model, folder, out) == []


def test_a_file_that_goes_away_before_it_is_inspected_ends_nothing(
    model: PatchCore, folder: Path, tmp_path: Path
) -> None:
    save(good_image(1, (64, 64)), folder / "gone.png")
    table, stop = Table(tmp_path / "out.csv"), threading.Event()
    arrivals = Arrivals(folder, table.seen)
    arrivals.look()
    look = arrivals.look

    def losing() -> list:
        found = look()
        (folder / "gone.png").unlink(missing_ok=True)
        stop.set()
        return found

    arrivals.look = losing  # type: ignore[method-assign]
    told: list[dict] = []
    watch(model, arrivals, table, stop, every=0.01, on_row=told.append)
    table.close()
    assert "no such file or folder" in told[0]["error"]


def test_another_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(OptionError, match="not a table of `patchbank watch`"):
        Table(tmp_path / "other.csv")


class Receiver(http.server.BaseHTTPRequestHandler):
    """Answers with the statuses it is told, then 200."""

    statuses: list[int]
    received: list[dict]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 200:
            self.received.append(body)
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[tuple[str, type[Receiver]]]:
    handler = type("One", (Receiver,), {"statuses": [], "received": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/parts", handler
    server.shutdown()
    server.server_close()


def test_the_webhook_tries_again_and_gives_up(
    receiver: tuple[str, type[Receiver]], capsys: pytest.CaptureFixture
) -> None:
    url, handler = receiver
    handler.statuses[:] = [500, 503, 200, 404, 200, 500, 500, 500]
    hook = Webhook(url, tries=3, pause=0.01)
    for number in range(4):
        hook.send({"path": f"{number}.png"})
    hook.close()
    assert handler.received == [{"path": "0.png"}, {"path": "2.png"}]
    assert hook.lost == 2
    assert "1.png (answered 404)" in capsys.readouterr().err


def test_a_webhook_that_hangs_holds_nothing_up() -> None:
    import socket

    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        hook = Webhook(f"http://127.0.0.1:{deaf.getsockname()[1]}/", tries=2, pause=0.01, timeout=0.3)
        started = time.monotonic()
        for number in range(1500):
            hook.send({"path": f"{number}.png"})
        assert time.monotonic() - started < 5
        hook.close(seconds=0.2)
        assert time.monotonic() - started < 8
        assert hook.lost >= 1499
    for url in ("ftp://x/y", "parts", "http://"):
        with pytest.raises(OptionError, match="--webhook takes an address"):
            Webhook(url)


def test_the_command_ends_at_a_signal(model: PatchCore, folder: Path, tmp_path: Path) -> None:
    model.save(tmp_path / "m.patchbank")
    save(bad_image(2), folder / "bad.png")
    command = [sys.executable, "-m", "patchbank", "watch", str(tmp_path / "m.patchbank"), str(folder)]
    command += ["-o", str(tmp_path / "out.csv"), "--interval", "0.1", "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not (tmp_path / "out.csv").exists() or len((tmp_path / "out.csv").read_bytes().splitlines()) < 2:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=30)
    assert process.returncode == 0, error
    assert "1 image inspected, 1 rejected, 0 skipped" in out
    assert "Traceback" not in error


class Full:
    """A file on a disk that is full at first."""

    def __init__(self, file: object, failures: int) -> None:
        self.file, self.failures = file, failures

    def write(self, data: bytes) -> int:
        if self.failures:
            self.failures -= 1
            self.file.write(data[:5])  # type: ignore[attr-defined]
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self.file.write(data))  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)


def test_a_full_disk_is_waited_for(
    model: PatchCore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_PATIENCE", 0.05)
    out, stop, said, told = tmp_path / "out.csv", threading.Event(), [], []
    for i in range(3):
        save(good_image(i, (64, 64)), folder / f"{i}.png")
    table = Table(out)
    table._file = Full(table._file, failures=2)  # type: ignore[assignment]

    def on_row(row: dict) -> None:
        told.append(row)
        if len(told) == 3:
            stop.set()

    watch(model, Arrivals(folder, table.seen), table, stop, every=0.05, on_row=on_row, on_trouble=said.append)
    table.close()
    assert len(rows_of(out)) == 3
    assert None not in {value for row in rows_of(out) for value in row.values()}
    assert len(said) == 2
    assert "out.csv: cannot be written (No space left on device)" in said[0]
    assert said[1] is None


def test_a_folder_that_goes_away_and_comes_back(
    model: PatchCore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_PATIENCE", 0.05)
    stop, said, told = threading.Event(), [], []
    save(good_image(1, (64, 64)), folder / "1.png")
    away = folder.rename(tmp_path / "away")

    def on_trouble(sentence: str | None) -> None:
        said.append(sentence)
        if sentence:
            away.rename(folder)

    def on_row(row: dict) -> None:
        told.append(row)
        stop.set()

    table = Table(tmp_path / "out.csv")
    watch(model, Arrivals(folder, table.seen), table, stop, every=0.05, on_row=on_row, on_trouble=on_trouble)
    table.close()
    assert "cannot be looked into (No such file or directory)" in said[0]
    assert said[1:] == [None]
    assert told[0]["path"].endswith("1.png")
    assert told[0]["error"] is None


def test_an_image_that_breaks_a_library_ends_no_watch(
    model: PatchCore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(4):
        save(good_image(i, (64, 64)), folder / f"{i}.png")
    predict = model._predict

    def breaking(fitted: object, item: object, *more: object) -> object:
        if item.source.name.endswith("1.png"):  # type: ignore[attr-defined]
            raise RuntimeError("out of memory")
        return predict(fitted, item, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "_predict", breaking)
    look_at(model, folder, tmp_path / "out.csv")
    errors = {Path(row["path"]).name: row["error"] for row in rows_of(tmp_path / "out.csv")}
    assert sorted(errors) == ["0.png", "1.png", "2.png", "3.png"]
    assert "cannot be inspected (RuntimeError: out of memory)" in errors.pop("1.png")
    assert set(errors.values()) == {""}
