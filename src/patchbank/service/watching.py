"""A folder in which images arrive, and a table of what the model says about each."""

from __future__ import annotations

import csv
import io
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchbank.errors import OptionError
from patchbank.files import shown
from patchbank.images.sources import list_images
from patchbank.prediction import Prediction, finite

if TYPE_CHECKING:
    from patchbank.detectors import Detector

COLUMNS = (
    "when", "path", "score", "p_value", "threshold", "is_anomalous", "regions", "error", "bytes", "modified",
)  # fmt: skip
Stamp = tuple[int, int]  # bytes, and when modified, in nanoseconds


class Table:
    """A CSV that rows are appended to; each is on the disk when `append` returns. It knows which files it has."""

    def __init__(self, path: Path):
        self.path = path
        self.seen: dict[str, Stamp] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
        except OSError as error:
            raise OptionError(f"{path}: cannot be written ({error.strerror}); name another file with -o") from error
        self._read()

    def _read(self) -> None:
        self._file.seek(0)
        text, header = self._file.read(), _line(COLUMNS)
        if not text.startswith(header) and not header.startswith(text):  # before anything of it is changed
            self._file.close()
            raise OptionError(f"{self.path}: is not a table of `patchbank watch`; name another file with -o")
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):  # the power failed in the middle of a row
            self._file.truncate(len(whole))
        if not whole:
            self._write(COLUMNS)
        for row in csv.DictReader(io.StringIO(whole.decode("utf-8", "replace"), newline="")):
            if (row["bytes"] or "").isdecimal() and (row["modified"] or "").isdecimal():
                self.seen[row["path"]] = int(row["bytes"]), int(row["modified"])

    def append(self, row: dict[str, Any]) -> None:
        self._write([row.get(column, "") for column in COLUMNS])
        self.seen[row["path"]] = row["bytes"], row["modified"]

    def _write(self, values: Iterable[Any]) -> None:
        self._file.write(_line(values))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _line(values: Iterable[Any]) -> bytes:
    line = io.StringIO(newline="")
    csv.writer(line).writerow(["" if value is None else value for value in values])
    return line.getvalue().encode()


class Arrivals:
    """The files of a folder that are new, or have changed since they were inspected, and have stopped growing: that
    look the same at two looks in a row."""

    def __init__(self, folder: Path, seen: dict[str, Stamp]):
        self.folder, self.seen = folder, seen
        self._last: dict[str, Stamp] = {}

    def look(self) -> list[tuple[Path, Stamp]]:
        """The files that can be inspected now, oldest first."""
        now: dict[str, Stamp] = {}
        ready = []
        for path in list_images(self.folder):
            try:
                stat = path.stat()
            except OSError:  # gone again, or a broken link
                continue
            name, stamp = shown(path), (stat.st_size, stat.st_mtime_ns)
            if self.seen.get(name) == stamp:
                continue
            if self._last.get(name) == stamp:
                ready.append((path, stamp))
            else:
                now[name] = stamp
        # those that are ready are looked at again where they were not recorded after all
        self._last = now | {shown(path): stamp for path, stamp in ready}
        return sorted(ready, key=lambda item: (item[1][1], str(item[0])))


def watch(
    detector: Detector,
    arrivals: Arrivals,
    table: Table,
    stop: threading.Event,
    *,
    every: float,
    on_row: Callable[[dict[str, Any]], None],
    threshold: float | None = None,
) -> None:
    """Inspect what arrives until `stop` is set; the image at hand is finished."""
    while not stop.is_set():
        for row in _inspect(detector, arrivals.look(), threshold):
            table.append(row)
            on_row(row)
            if stop.is_set():
                return
        stop.wait(every)


def _inspect(detector: Detector, ready: list[tuple[Path, Stamp]], threshold: float | None) -> Iterator[dict[str, Any]]:
    """A row for each file, as each is done."""
    stamps = {str(path): stamp for path, stamp in ready}
    failed: list[dict[str, Any]] = []

    def skip(name: str, error: Exception) -> None:
        failed.append(_row(Path(name), stamps[name], error=str(error)))

    if not ready:
        return
    for prediction in detector.predict_many([path for path, _ in ready], on_error=skip):
        yield from failed
        failed.clear()
        if threshold is not None:
            prediction = prediction.at_threshold(threshold)
        yield _row(Path(prediction.path), stamps[prediction.path], prediction)
    yield from failed


def _row(path: Path, stamp: Stamp, prediction: Prediction | None = None, error: str | None = None) -> dict[str, Any]:
    found = {} if prediction is None else finite(prediction.to_dict())
    return {
        "when": datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        **{key: found.get(key) for key in ("score", "p_value", "threshold", "is_anomalous")},
        "path": shown(path),
        "regions": json.dumps(found.get("regions", [])),
        "error": error,
        "bytes": stamp[0],
        "modified": stamp[1],
    }
