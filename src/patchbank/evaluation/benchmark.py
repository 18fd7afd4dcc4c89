"""Fit and evaluate over a grid of datasets, methods, backbones and seeds; finished cells are not run again, and several
run at a time where that is wanted. A cell's results do not depend on which others ran, nor when."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from patchbank._system.files import file_digest, write_csv, write_text
from patchbank._system.ram import available_bytes, reset_peak
from patchbank._system.threads import cores
from patchbank.data.datasets import Dataset
from patchbank.detector import Detector
from patchbank.errors import OnError, PatchbankError, Progress
from patchbank.evaluation.beside_paper import apart, over_seeds
from patchbank.evaluation.evaluate import evaluate
from patchbank.evaluation.results import Evaluation
from patchbank.evaluation.tables import flat, latex, markdown
from patchbank.evaluation.workers import in_words, run_in_processes
from patchbank.features.cache import FeatureCache
from patchbank.features.planning import SHARE

COLUMNS = (
    "dataset", "method", "backbone", "seed", "image_auroc", "image_auroc_interval_low", "image_auroc_interval_high",
    "image_ap", "image_f1_max", "image_f1_threshold", "misclassified", "pixel_auroc", "pixel_auroc_interval_low",
    "pixel_auroc_interval_high", "pixel_ap", "pixel_f1_max", "pixel_f1_threshold", "aupro", "aupro_interval_low",
    "aupro_interval_high", "aupimo", "iou_at_threshold", "region_recall_at_threshold", "false_alarm_rate_asked",
    "false_alarm_rate", "recall_at_threshold", "threshold", "map_threshold", "n_train", "n_good", "n_anomalous",
    "fit_seconds", "fit_seconds_features", "fit_seconds_memory", "fit_seconds_calibration", "latency_ms_p50",
    "latency_ms_p95", "images_per_second", "bank_vectors", "bank_mb", "model_file_mb", "peak_rss_mb", "cell", "label",
    "jobs", "fit_cached", "root",
)  # fmt: skip
Row = dict[str, Any]
Write = Callable[[Evaluation, Path], None]


@dataclass(frozen=True)
class Cell:
    """One run of the grid: a dataset and a detector with all its options; `label`: which variant of a preset it is."""

    dataset: Dataset
    detector: Detector
    label: str | None = None

    @property
    def name(self) -> str:
        """A folder name that a person can read and that differs where any option or training image does."""
        options = json.dumps(self.detector.parameters(), sort_keys=True, default=str)
        data = "\n".join(
            map(str, [self.dataset.root.resolve(), *self.dataset.train, *(s.path for s in self.dataset.test)])
        )
        digest = hashlib.sha256((options + data + self._contents()).encode("utf-8", "surrogateescape")).hexdigest()[:8]
        backbone = self.detector.backbone.replace("/", "-")
        return f"{self.dataset.name}-{self.detector.method}-{backbone}-seed{self.detector.seed}-{digest}"

    def _contents(self) -> str:
        """Regions and weights that were given, of files what is in them; "" without."""
        lines = []
        for part in self.detector.parts():
            for name, given in (("roi", part.roi), ("weights", part.weights)):
                if isinstance(given, str | PathLike) and Path(given).is_file():
                    lines.append(f"\n{name} {file_digest(given)}")
                elif name == "roi" and given is not None:
                    lines.append(f"\n{name} {given}")
        return "".join(lines)


@dataclass(frozen=True)
class Runner:
    """Runs cells: their results go to `output`; `write(evaluation, folder)` writes the files of one, metrics.json last;
    `cache` bytes of features are kept in `output`/cache, 0 for none; `jobs` cells run at a time, each in a process with
    its share of the threads and of the memory: `free` bytes, None for what is free then."""

    output: Path
    write: Write
    cache: int = 0
    jobs: int = 1
    free: int | None = None

    def run(self, cells: Sequence[Cell], *, on_error: OnError, progress: Progress | None = None) -> Iterator[Row]:
        """Run each cell that has no results yet, and give each cell's row as it is done; the tables are rewritten after
        each, in the order of the cells. `on_error` also hears of a cell that cannot be run, and the others are."""
        rows: dict[int, Row] = {}
        unwritten = False
        for number in self._finished(cells, on_error, progress):
            metrics = json.loads((self._folder(cells[number]) / "metrics.json").read_text(encoding="utf-8"))
            rows[number] = _row(cells[number], metrics)
            try:
                self._write_tables([rows[i] for i in sorted(rows)])
                unwritten = False
            except OSError:  # a full disk must not end the grid: tried again after the next cell
                unwritten = True
            yield rows[number]
        if unwritten:
            self._write_tables([rows[i] for i in sorted(rows)])

    def _write_tables(self, rows: list[Row]) -> None:
        write_csv(self.output / "results.csv", COLUMNS, rows)
        named = apart(rows)
        write_text(self.output / "results.md", markdown(named) + over_seeds(rows))
        write_text(self.output / "results.tex", latex(named))

    def _finished(self, cells: Sequence[Cell], on_error: OnError, progress: Progress | None) -> Iterator[int]:
        """The numbers of the cells that have results, those first that had them before."""
        alike: dict[str, list[int]] = {}  # variants of a preset can be the same cell
        for i, cell in enumerate(cells):
            alike.setdefault(cell.name, []).append(i)
        todo = [numbers for numbers in alike.values() if not self._is_done(cells[numbers[0]])]
        for numbers in alike.values():
            if numbers not in todo:
                yield from numbers
        if self.jobs > 1:
            work = [(cells[numbers[0]].name, cells[numbers[0]]) for numbers in todo]
            runner = replace(self, free=available_bytes() // self.jobs)
            for i in run_in_processes(runner.one, work, self.jobs, on_error, progress):
                yield from todo[i]
            return
        for numbers in todo:
            try:
                self.one(cells[numbers[0]], on_error, progress)
            except Exception as error:  # such as a method that this dataset cannot be given to
                name = cells[numbers[0]].name
                on_error(name, PatchbankError(f"{name}: {in_words(error)}"))
                continue
            yield from numbers

    def one(self, cell: Cell, on_error: OnError, progress: Progress | None = None) -> None:
        """Run a cell and write its results. Nothing of it is held afterwards."""
        folder, detector = self._folder(cell), deepcopy(cell.detector)  # what it learns goes with the cell
        for leftover in folder.glob(".*.tmp"):  # of a run that was killed
            leftover.unlink(missing_ok=True)
        cache = FeatureCache(self.output / "cache", self.cache) if self.cache else None
        for part in detector.parts():
            part.feature_cache = cache
            if self.jobs > 1 and part.threads is None:
                part.threads = max(1, cores() // self.jobs)
            if self.free is not None and part.memory_budget is None:
                part.memory_budget = int(SHARE * self.free)
        gc.collect()  # the one before it, where it holds itself
        reset_peak()  # each cell's own peak, not that of the largest before it
        detector.fit(cell.dataset.train, on_error=on_error, progress=progress)
        seen = cache.hits + cache.misses if cache else 0
        cached = cache.hits / seen if cache and seen else 0.0
        model_file = folder / "model.patchbank"
        detector.save(model_file)
        evaluation = evaluate(
            detector, cell.dataset, model_file=model_file, on_error=on_error, progress=progress,
            pixel_memory=None if self.free is None else self.free // 2,
        )  # fmt: skip
        # so that a folder of cells says by itself what was compared (evaluation/finished.py)
        options = json.loads(json.dumps(detector.parameters() | {"roi": detector.parts()[0].roi}, default=str))
        evaluation.metrics.update(options=options, n_train=len(cell.dataset.train), jobs=self.jobs, fit_cached=cached)
        evaluation.metrics["root"] = str(cell.dataset.root.resolve())
        self.write(evaluation, folder)

    def _folder(self, cell: Cell) -> Path:
        return self.output / cell.name

    def _is_done(self, cell: Cell) -> bool:
        return (self._folder(cell) / "metrics.json").exists()


def _row(cell: Cell, metrics: dict[str, Any]) -> Row:
    detector = cell.detector
    row = dict.fromkeys(COLUMNS) | flat(metrics)
    row |= {
        "cell": cell.name,
        "dataset": cell.dataset.name,
        "method": detector.method,
        "backbone": detector.backbone,
        "seed": detector.seed,
        "label": cell.label,
        "layout": cell.dataset.layout,
        "root": str(cell.dataset.root.resolve()),
    }
    row |= {"fit_seconds": metrics["fit_seconds"]["total"], "n_train": len(cell.dataset.train)}
    return row
