"""A folder in which images arrive, and a table of what the model says about each."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchbank._system.files import reason
from patchbank._system.files import shown as shown
from patchbank.data.listing import Listing, Reason, list_folder
from patchbank.errors import ImageError, OptionError, PatchbankError, notify
from patchbank.prediction import Prediction, finite
from patchbank.sample import GEOMETRY_CHANNEL, Sample
from patchbank.service.pairs import Pairs

if TYPE_CHECKING:
    from patchbank.detector import Detector

COLUMNS = (
    "when", "path", "score", "p_value", "threshold", "is_anomalous", "regions", "error", "bytes", "modified",
)  # fmt: skip
# of parts with geometry: those of its file, where there is a picture too
PAIR_COLUMNS = (*COLUMNS, "channels", "geometry", "geometry_bytes", "geometry_modified")
_STAMPS = ("bytes", "modified", "geometry_bytes", "geometry_modified")
_PATIENCE = 1.0  # seconds between two looks, at least, while something is wrong
Stamp = tuple[int, ...]  # bytes, and when modified, in nanoseconds; the same of a second file


class Table:
    """A CSV that rows are appended to; each is on the disk when `append` returns. It knows which files it has.
    `columns`: `COLUMNS`, or `PAIR_COLUMNS`."""

    def __init__(self, path: Path, columns: Sequence[str] = COLUMNS):
        self.path, self.columns = path, tuple(columns)
        self.seen: dict[str, Stamp] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)  # what could not be written must not be written later
        except OSError as error:
            raise OptionError(f"{path}: cannot be written ({error.strerror}); name another file with -o") from error
        self._read()

    def _read(self) -> None:
        self._file.seek(0)
        text, header = self._file.readall(), _line(self.columns)
        if not text.startswith(header) and not header.startswith(text):  # before anything of it is changed
            self._file.close()
            if text.startswith((_line(COLUMNS), _line(PAIR_COLUMNS))):
                raise OptionError(f"{self.path}: is of a model with other channels; name another file with -o")
            raise OptionError(f"{self.path}: is not a table of `patchbank watch`; name another file with -o")
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):  # the power failed in the middle of a row
            self._file.truncate(len(whole))
        self._length = len(whole)
        if not whole:
            try:
                self._write(self.columns)
            except OSError as error:
                self._file.close()
                raise OptionError(f"{self.path}: cannot be written ({reason(error)})") from error
        for row in csv.DictReader(io.StringIO(whole.decode("utf-8", "replace"), newline="")):
            numbers = [int(row[name]) for name in _STAMPS if (row.get(name) or "").isdecimal()]
            if len(numbers) in (2, 4):
                self.seen[row["path"]] = tuple(numbers)

    def append(self, row: dict[str, Any]) -> None:
        """Raises `OSError` where the row is not in the table, of which nothing is left then."""
        self._write([row.get(column, "") for column in self.columns])
        self.seen[row["path"]] = tuple(row[name] for name in _STAMPS if name in row)

    def _write(self, values: Iterable[Any]) -> None:
        rest = line = _line(values)
        try:
            while rest:  # a disk that fills takes a part
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(self._length)
            raise
        self._length += len(line)

    def close(self) -> None:
        self._file.close()


def _line(values: Iterable[Any]) -> bytes:
    line = io.StringIO(newline="")
    csv.writer(line).writerow(["" if value is None else value for value in values])
    return line.getvalue().encode("utf-8", "backslashreplace")


class Arrivals:
    """The files of a folder that are new, or have changed since they were inspected, and have stopped growing: that
    look the same at two looks in a row. `pairs`: for parts of several files, which are known by one of them; `parts`
    has those of the last look."""

    def __init__(self, folder: Path, seen: dict[str, Stamp], pairs: Pairs | None = None):
        self.folder, self.seen, self.pairs = folder, seen, pairs
        self.parts: dict[Path, Sample] = {}
        self._last: dict[str, Stamp] = {}
        self._said: set[Reason] = set()
        self.refused: dict[str, str] = {}

    def problem(self) -> str | None:
        """Why the folder cannot be looked into now, such as a share that is not mounted; None where it can."""
        try:
            with os.scandir(self.folder):
                return None
        except OSError as error:
            return f"{self.folder}: cannot be looked into ({reason(error)})"

    def look(self) -> list[tuple[Path, Stamp]]:
        """The files that can be inspected now, oldest first, and what cannot be inspected: `refused` has the reason."""
        now: dict[str, Stamp] = {}
        ready = []
        listing = list_folder(self.folder)
        if self.pairs is not None:
            self.parts = self.pairs.complete(listing)
            listing = listing.taken(listing.points)  # none is passed over: all are paired, or waited for
        self._say(listing)
        self.refused = {str(failed.path): str(failed.error) for failed in listing.failed}
        for path in (*(self.parts if self.pairs else listing.files), *(failed.path for failed in listing.failed)):
            files = self.parts[path].channels.values() if path in self.parts else (path,)
            try:
                stats = [file.stat() for file in files if isinstance(file, Path)]
            except OSError:  # gone again, or a broken link
                continue
            name, stamp = shown(path), tuple(n for stat in stats for n in (stat.st_size, stat.st_mtime_ns))
            if self.seen.get(name) == stamp:
                continue
            if self._last.get(name) == stamp:
                ready.append((path, stamp))
            else:
                now[name] = stamp
        # those that are ready are looked at again where they were not recorded after all
        self._last = now | {shown(path): stamp for path, stamp in ready}
        return sorted(ready, key=lambda item: (max(item[1][1::2]), str(item[0])))

    def _say(self, listing: Listing) -> None:
        """Say once of each kind what is passed over. What fails is said of each file, in its row."""
        for group in listing.passed_over:
            if group.reason not in self._said:
                self._said.add(group.reason)
                notify(f"{self.folder}: passes over {group}")


def watch(
    detector: Detector,
    arrivals: Arrivals,
    table: Table,
    stop: threading.Event,
    *,
    every: float,
    on_row: Callable[[dict[str, Any]], None],
    on_trouble: Callable[[str | None], None] = lambda sentence: None,
    threshold: float | None = None,
) -> None:
    """Inspect what arrives until `stop` is set; the image at hand is finished.

    A folder that goes away, or a table that cannot be written, is waited for: `on_trouble` hears when it begins and, in
    None, when it is over. Rows that were not written are computed again then.
    """
    of_folder: str | None = None
    of_table = False
    while not stop.is_set():
        problem, ready = _looked(arrivals)
        if problem != of_folder:
            on_trouble(of_folder := problem)
        for row in _inspect(detector, ready, arrivals, threshold):
            try:
                table.append(row)
            except OSError as error:  # the files that are not in the table are looked at again
                if not of_table:
                    on_trouble(f"{table.path}: cannot be written ({reason(error)})")
                of_table = True
                break
            if of_table:
                of_table = False
                on_trouble(None)
            on_row(row)
            if stop.is_set():
                return
        stop.wait(max(every, _PATIENCE) if of_table or problem else every)


def _looked(arrivals: Arrivals) -> tuple[str | None, list[tuple[Path, Stamp]]]:
    """Why the folder cannot be looked into, or what is ready in it."""
    problem = arrivals.problem()
    try:
        return problem, [] if problem else arrivals.look()
    except (OSError, PatchbankError) as error:
        return str(error), []


def _inspect(
    detector: Detector, ready: list[tuple[Path, Stamp]], arrivals: Arrivals, threshold: float | None
) -> Iterator[dict[str, Any]]:
    """A row for each file, as each is done, and for what cannot be inspected or was refused, with the reason."""
    stamps = {str(path): stamp for path, stamp in ready}
    parts, refused = arrivals.parts, arrivals.refused
    failed: list[dict[str, Any]] = []

    def skip(name: str, error: Exception) -> None:
        if name in stamps:
            failed.append(_row(Path(name), stamps.pop(name), parts.get(Path(name)), error=str(error)))

    for path in stamps.keys() & refused.keys():
        yield _row(Path(path), stamps.pop(path), error=refused[path])
    while stamps:
        try:
            for prediction in detector.predict_many([parts.get(p, p) for p in map(Path, stamps)], on_error=skip):
                yield from failed
                failed.clear()
                if threshold is not None:
                    prediction = prediction.at_threshold(threshold)
                done = Path(prediction.path)
                yield _row(done, stamps.pop(prediction.path), parts.get(done), prediction)
        except Exception as error:  # whatever an image does to a library, the next ones are inspected
            name = next(iter(stamps), None)
            if name is not None:
                skip(name, ImageError(f"{name}: cannot be inspected ({type(error).__name__}: {reason(error)})"))
        else:
            stamps.clear()
        yield from failed
        failed.clear()


def _row(
    path: Path, stamp: Stamp, part: Sample | None = None, prediction: Prediction | None = None, error: str | None = None
) -> dict[str, Any]:
    """`part`: where geometry is looked at."""
    found = {} if prediction is None else finite(prediction.to_dict())
    more: dict[str, Any] = {}
    if part is not None:
        geometry = part.channels[GEOMETRY_CHANNEL]
        more = {"channels": json.dumps(found.get("channels", {})), "geometry": shown(str(geometry))}
    return {
        "when": datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        **{key: found.get(key) for key in ("score", "p_value", "threshold", "is_anomalous")},
        "path": shown(path),
        "regions": json.dumps(found.get("regions", [])),
        "error": error,
        **more,
        **dict(zip(_STAMPS, stamp, strict=False)),  # two of a file alone
    }
