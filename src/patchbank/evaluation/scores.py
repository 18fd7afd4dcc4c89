"""scores.csv and pixels.npz: what one evaluation found for each image, so that two can be compared afterwards."""

from __future__ import annotations

import csv
import json
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchbank._system.files import write_csv
from patchbank._system.remote import located
from patchbank.errors import DatasetError
from patchbank.evaluation.results import Case, Evaluation
from patchbank.metrics.pieces import PixelPieces
from patchbank.prediction import finite

COLUMNS = ("path", "defect", "score", "p_value", "is_anomalous", "aupimo")
METRICS, SCORES, PIXELS = "metrics.json", "scores.csv", "pixels.npz"


def write_scores(evaluation: Evaluation, folder: Path) -> None:
    """scores.csv, a row per test image, paths relative to the dataset; pixels.npz with the same rows, where there are
    maps."""
    columns = (*COLUMNS, "channels") if any(case.channels for case in evaluation.cases) else COLUMNS
    write_csv(folder / SCORES, columns, (_row(case, evaluation.root) for case in evaluation.cases))
    if evaluation.pieces is not None:
        evaluation.pieces.write(folder / PIXELS)
    else:
        (folder / PIXELS).unlink(missing_ok=True)  # of an earlier run


def _row(case: Case, root: Path | None) -> dict[str, Any]:
    path = located(case.path)
    inside = root is not None and path.is_relative_to(root)
    name = path.relative_to(root).as_posix() if inside and root else case.path
    aupimo = "" if case.aupimo is None or math.isnan(case.aupimo) else case.aupimo
    rest = {"path": name, "aupimo": aupimo, "channels": json.dumps(finite(dict(case.channels)))}
    return {column: getattr(case, column) for column in COLUMNS} | rest


@dataclass(frozen=True)
class Result:
    """One evaluation as its folder has it: `metrics` is metrics.json, the rest has N images in one order; `aupimo` is
    NaN where there is none."""

    folder: Path
    metrics: dict[str, Any]
    paths: list[str]
    defects: list[str]
    scores: NDArray[np.float64]
    is_anomalous: NDArray[np.bool_]
    aupimo: NDArray[np.float64]
    pieces: PixelPieces | None

    @property
    def cell(self) -> tuple[str, str, str, int]:
        """Dataset, method, backbone and seed."""
        m = self.metrics
        return m["dataset"], m["method"], m["backbone"], m["seed"]


def read_results(folder: Path) -> list[Result]:
    """The evaluation of a folder, or those of its subfolders. Raises `DatasetError` for a folder without any, or with
    one that cannot be read."""
    if not folder.is_dir():
        raise DatasetError(
            f"{folder}: there is no such folder; give one that `patchbank evaluate` or `benchmark` wrote"
        )
    found = [folder] if (folder / METRICS).is_file() else sorted(path.parent for path in folder.glob(f"*/{METRICS}"))
    if not found:
        raise DatasetError(
            f"{folder}: holds no {METRICS}, nor does any folder in it; give the folder that `patchbank evaluate` or "
            "`patchbank benchmark` wrote with -O"
        )
    return [_read(each) for each in found]


def _read(folder: Path) -> Result:
    if not (folder / SCORES).is_file():
        raise DatasetError(f"{folder}: has no {SCORES}, an earlier version wrote it; evaluate again to compare it")
    try:
        metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        with (folder / SCORES).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        pieces = PixelPieces.read(folder / PIXELS) if (folder / PIXELS).is_file() else None
        result = Result(
            folder,
            metrics,
            [row["path"] for row in rows],
            [row["defect"] for row in rows],
            np.array([float(row["score"]) for row in rows]),
            np.array([{"True": True, "False": False}[row["is_anomalous"]] for row in rows], dtype=np.bool_),
            np.array([float(row["aupimo"] or "nan") for row in rows]),
            pieces,
        )
        _ = result.cell
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise DatasetError(
            f"{folder}: its {METRICS}, {SCORES} and {PIXELS} cannot be read ({error!r}); evaluate again"
        ) from None
    if pieces is not None and len(pieces.nominal) != len(rows):
        raise DatasetError(f"{folder}: {PIXELS} and {SCORES} are not of the same run; evaluate again")
    return result
