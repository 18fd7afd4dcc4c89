"""The folder that `patchbank predict` writes: rows and pictures as they come, complete files whatever happens."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from patchbank._system.files import file_digest, is_full, open_csv, reason, replacing, write_csv
from patchbank._system.written import Results
from patchbank.cli.console import Failures
from patchbank.cli.outputs import written_or_rescued
from patchbank.errors import ImageError, OptionError

if TYPE_CHECKING:
    from patchbank.detector import Detector
    from patchbank.features.loading import Inputs
    from patchbank.prediction import Prediction
    from patchbank.sample import Sample

COLUMNS = ("path", "score", "p_value", "threshold", "is_anomalous", "regions")
RUN = "predictions.csv.run"
_LASTING = (errno.EROFS, errno.EIO, errno.ENODEV, errno.ESTALE) if hasattr(errno, "ESTALE") else (errno.EROFS,)


class GrowingTable:
    """A CSV whose rows are in NAME.partial as they come, and under its own name in the end. After kill -9 the rows so
    far are there."""

    def __init__(self, path: Path, columns: tuple[str, ...] = COLUMNS, rows: Sequence[dict[str, Any]] = ()) -> None:
        """`rows`: of an earlier run, which the table begins with."""
        self.path, self._columns = path, columns
        self._partial = Path(f"{os.path.realpath(path)}.partial")
        self._rows: list[dict[str, Any]] = []
        self._file: Any = None
        target = Path(os.path.realpath(path))
        with contextlib.suppress(OSError):  # tried again in the end
            target.parent.mkdir(parents=True, exist_ok=True)
            self._file = open_csv(self._partial)
            csv.DictWriter(self._file, self._columns).writeheader()
            self._file.flush()
        for row in rows:
            self.add(row)
        with contextlib.suppress(OSError):  # the table of an earlier run: its pictures have gone
            self._partial.chmod(stat.S_IMODE(target.stat().st_mode))
            target.unlink()

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if self._file is None:
            return
        try:
            csv.DictWriter(self._file, self._columns, extrasaction="ignore").writerow(row)
            self._file.flush()
        except OSError:  # the disk is full: tried again in the end
            self._drop()

    def finish(self) -> None:
        """Raises `OptionError` where the table is not where it was wanted."""
        if self._file is not None:
            try:
                os.fsync(self._file.fileno())
                self._file.close()
                os.replace(self._partial, os.path.realpath(self.path))
                return
            except OSError:
                self._drop()
        written_or_rescued(lambda path: write_csv(path, self._columns, self._rows), self.path)

    def _drop(self) -> None:
        file, self._file = self._file, None
        with contextlib.suppress(OSError):
            file.close()
        with contextlib.suppress(OSError):
            self._partial.unlink()


class PredictionFolder:
    """predictions.csv, errors.csv, overlays/, maps/ and clouds/ of one run. `inputs`: of the model."""

    def __init__(
        self,
        folder: Path,
        failures: Failures,
        inputs: Inputs,
        *,
        overlays: bool,
        maps: bool,
        ply: bool,
        kept: KeptRun | None = None,
    ) -> None:
        self.folder, self._failures, self._inputs = folder, failures, inputs
        self._overlays, self._maps, self._ply = overlays, maps, ply
        columns = (*COLUMNS, "channels") if len(inputs.channels) > 1 else COLUMNS
        self._results = Results(folder, "predict")
        self.kept = {} if kept is None else kept.rows(folder, columns)
        if not self.kept:
            self._results.begin("predictions.csv.partial", "errors.csv", RUN)
        if kept is not None:
            kept.write(folder)
        self._table = GrowingTable(folder / "predictions.csv", columns, list(self.kept.values()))

    def add(self, row: dict[str, Any], source: Sample, prediction: Prediction, name: PurePath) -> None:
        """A row and the pictures of a sample; what cannot be drawn or written is named, and the row stays."""
        coded: dict[str, Any] = {key: json.dumps(row[key]) for key in ("regions", "channels") if key in row}
        self._table.add({**row, **coded})
        seen = source.seen_in(self._inputs.channels[0])
        if self._overlays:
            self._picture(seen, prediction, PurePath("overlays", f"{name}.png"), self._save_overlay)
        if self._maps:
            self._picture(seen, prediction, PurePath("maps", f"{name}.tiff"), _save_map)
        if self._ply:
            self._picture(seen, prediction, PurePath("clouds", f"{name}.ply"), self._save_cloud)

    def finish(self, complete: bool = True) -> None:
        """`complete`: whether all images were inspected, so that nothing is to be gone on with. Raises `OptionError`
        where the table is not where it was wanted."""
        self._results.close()
        try:
            self._table.finish()
            if complete:
                (self.folder / RUN).unlink(missing_ok=True)
        finally:
            self._write_errors()

    def _save_overlay(self, source: Sample, prediction: Prediction, path: Path) -> None:
        from patchbank.pictures.drawing import overlay, read_again, save_png

        save_png(overlay(read_again(source, prediction.map.shape, self._inputs.values), prediction), path)

    def _save_cloud(self, source: Sample, prediction: Prediction, path: Path) -> None:
        from patchbank.pictures.cloud import write_cloud

        write_cloud(path, source, prediction, self._inputs.values)

    def _write_errors(self) -> None:
        try:
            self._failures.write(self.folder / "errors.csv")
        except OSError as error:  # each was named on stderr
            self._failures.note("errors.csv", f"{error.filename}: cannot be written ({reason(error)})")

    def _picture(
        self, source: Sample, prediction: Prediction, name: PurePath, save: Callable[[Sample, Prediction, Path], None]
    ) -> None:
        try:
            with replacing(self._results.path(name)) as temporary:
                save(source, prediction, temporary)
        except ImageError as error:  # the file has gone, or another one is in its place
            self._failures.note(prediction.path, f"inspected, but not drawn: {error}")
        except OSError as error:
            lasting = is_full(error) or error.errno in _LASTING
            if lasting:
                self._overlays = self._maps = self._ply = False
            what = "no more pictures are written" if lasting else "its row is written"
            place = error.filename or self.folder / name
            self._failures.note(prediction.path, f"{place}: cannot be written ({reason(error)}); {what}")


@dataclass(frozen=True)
class KeptRun:
    """The rows of a run that was cut off. `identity`: all that decides them; `resumes`: whether they are wanted."""

    identity: str
    resumes: bool

    def rows(self, folder: Path, columns: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Rows by the name of their image; none without a run to go on with.

        Raises:
            OptionError: they are of another model or another threshold.
        """
        tables = [folder / "predictions.csv.partial", folder / "predictions.csv"]  # after kill -9, after Ctrl-C
        table = next((path for path in tables if path.exists()), None)
        if not self.resumes or table is None or not (folder / RUN).exists():
            return {}
        try:
            same = (folder / RUN).read_text(encoding="utf-8") == self.identity
            with table.open(newline="", encoding="utf-8", errors="backslashreplace") as file:
                rows = list(csv.DictReader(file))
        except OSError as error:
            raise OptionError(f"{folder}: cannot be read ({reason(error)}): leave out --resume") from error
        if not same:
            raise OptionError(
                f"{folder}: holds a run of another model, or with another threshold or region: leave out --resume, or "
                "use another folder"
            )
        whole = [row for row in rows if set(row) == set(columns) and None not in row.values()]
        return {row["path"]: row for row in whole}

    def write(self, folder: Path) -> None:
        """Say which run it is, for one that goes on with it. Where that fails none can."""
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / RUN).write_text(self.identity, encoding="utf-8")


def identity_of_run(model: Path, *options: object) -> str:
    """All that decides the rows of a run."""
    return json.dumps([file_digest(model), *map(str, options)])


def _save_map(source: Sample, prediction: Prediction, path: Path) -> None:
    from PIL import Image

    Image.fromarray(prediction.map).save(path, format="TIFF")


def check_has_points(model: Path, detector: Detector, sources: list[Sample]) -> None:
    """Raise `OptionError` unless the detector looks at geometry, gives a map, and a sample has geometry."""
    from patchbank.sample import PLAIN

    if detector.values_.depths is None:
        channels = ", ".join(detector.inputs_.channels)
        raise OptionError(
            f"{model}: looks at {channels} alone, so there are no points for --ply: leave it out, or fit a model to "
            "samples with geometry"
        )
    if not detector.localizes:
        raise OptionError(f"{model}: {detector.method} scores whole parts and gives no map for --ply: leave it out")
    if not any(source.has_geometry or PLAIN in source.channels for source in sources):
        raise OptionError("--ply needs samples with geometry, and none of these has any: leave it out")
