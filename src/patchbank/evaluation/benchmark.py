"""Fit and evaluate over a grid of datasets, methods, backbones and seeds; finished cells are not run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchbank.datasets import Dataset
from patchbank.detectors import Detector
from patchbank.errors import PatchbankError
from patchbank.evaluation.evaluate import evaluate
from patchbank.evaluation.results import Evaluation
from patchbank.evaluation.tables import flat, latex, markdown
from patchbank.extraction import OnError, Progress
from patchbank.files import write_csv, write_text
from patchbank.memory import reset_peak

COLUMNS = (
    "dataset", "method", "backbone", "seed", "image_auroc", "image_auroc_interval_low", "image_auroc_interval_high",
    "image_ap", "image_f1_max", "image_f1_threshold", "misclassified", "pixel_auroc", "pixel_auroc_interval_low",
    "pixel_auroc_interval_high", "pixel_ap", "pixel_f1_max", "pixel_f1_threshold", "aupro", "aupro_interval_low",
    "aupro_interval_high", "aupimo", "iou_at_threshold", "region_recall_at_threshold", "false_alarm_rate_asked",
    "false_alarm_rate", "recall_at_threshold", "threshold", "map_threshold", "n_train", "n_good", "n_anomalous",
    "fit_seconds", "fit_seconds_features", "fit_seconds_memory", "fit_seconds_calibration", "latency_ms_p50",
    "latency_ms_p95", "images_per_second", "bank_vectors", "bank_mb", "model_file_mb", "peak_rss_mb", "cell",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One run of the grid: a dataset and a detector with all its options."""

    dataset: Dataset
    detector: Detector

    @property
    def name(self) -> str:
        """A folder name that a person can read and that differs where any option or training image does."""
        options = json.dumps(self.detector.parameters(), sort_keys=True, default=str)
        data = "\n".join(
            map(str, [self.dataset.root.resolve(), *self.dataset.train, *(s.path for s in self.dataset.test)])
        )
        digest = hashlib.sha256((options + data).encode()).hexdigest()[:8]
        backbone = self.detector.backbone.replace("/", "-")
        return f"{self.dataset.name}-{self.detector.method}-{backbone}-seed{self.detector.seed}-{digest}"


def run_grid(
    cells: Sequence[Cell],
    output: Path,
    write: Callable[[Evaluation, Path], None],
    *,
    on_error: OnError,
    progress: Progress | None = None,
) -> Iterator[dict[str, Any]]:
    """Run each cell that has no results in `output` yet, and give each cell's row; the tables are rewritten after each.
    `on_error` also hears of a cell that cannot be run, and the others are.

    `write(evaluation, folder)` writes the report, the pictures and, last of its files, metrics.json.
    """
    rows = []
    for cell in cells:
        folder = output / cell.name
        if not (folder / "metrics.json").exists():
            try:
                _run(cell, folder, write, on_error, progress)
            except PatchbankError as error:  # such as a method that this dataset cannot be given to
                on_error(cell.name, error)
                continue
        rows.append(_row(cell, json.loads((folder / "metrics.json").read_text(encoding="utf-8"))))
        write_csv(output / "results.csv", COLUMNS, rows)
        write_text(output / "results.md", markdown(rows))
        write_text(output / "results.tex", latex(rows))
        yield rows[-1]


def _run(
    cell: Cell, folder: Path, write: Callable[[Evaluation, Path], None], on_error: OnError, progress: Progress | None
) -> None:
    reset_peak()  # each cell's own peak, not that of the largest before it
    model_file = folder / "model.patchbank"
    detector = deepcopy(cell.detector)  # what it learns goes with the cell
    detector.fit(cell.dataset.train, on_error=on_error, progress=progress)
    detector.save(model_file)
    evaluation = evaluate(detector, cell.dataset, model_file=model_file, on_error=on_error, progress=progress)
    # so that a folder of cells says by itself what was compared (evaluation/grid.py)
    options = json.loads(json.dumps(detector.parameters(), default=str))
    evaluation.metrics.update(method=detector.method, options=options, n_train=len(cell.dataset.train))
    evaluation.metrics["root"] = str(cell.dataset.root.resolve())
    write(evaluation, folder)


def _row(cell: Cell, metrics: dict[str, Any]) -> dict[str, Any]:
    detector = cell.detector
    row = dict.fromkeys(COLUMNS) | flat(metrics)
    row |= {
        "cell": cell.name,
        "dataset": cell.dataset.name,
        "method": detector.method,
        "backbone": detector.backbone,
        "seed": detector.seed,
    }
    row |= {"fit_seconds": metrics["fit_seconds"]["total"], "n_train": len(cell.dataset.train)}
    return row
