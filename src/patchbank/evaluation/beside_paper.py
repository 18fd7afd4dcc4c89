"""Means and spreads over seeds, and what a preset found beside what its paper prints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, NamedTuple

from patchbank.evaluation.finished import told_apart
from patchbank.evaluation.presets import Preset
from patchbank.evaluation.published import ALL, Value

Row = dict[str, Any]  # of results.csv, with the dataset's layout
COLUMNS = (
    "preset", "data", "variant", "method", "backbone", "seeds", "metric", "ours", "ours_std", "published",
    "published_std", "difference",
)  # fmt: skip


class Metric(NamedTuple):
    """A metric in a paper's unit: `title`, the column of results.csv, its factor, decimals, and how a mean over
    categories is taken."""

    title: str
    column: str
    factor: float = 1.0
    digits: int = 1
    over_categories: Callable[[Iterable[float]], float] = fmean


METRICS = {
    "image_auroc": Metric("image AUROC, %", "image_auroc", 100),
    "pixel_auroc": Metric("pixel AUROC, %", "pixel_auroc", 100),
    "aupro": Metric("PRO, %", "aupro", 100),
    "misclassified": Metric("misclassified", "misclassified", digits=0, over_categories=sum),
    "seconds": Metric("seconds an image", "latency_ms_p50", 1e-3, 3),
    "images_per_second": Metric("images/s", "images_per_second"),
    "bank_thousands": Metric("bank, 1000 vectors", "bank_vectors", 1e-3),
    "bank_mb": Metric("bank, MB", "bank_mb"),
}
_OVER_SEEDS = {
    "image_auroc": Metric("image AUROC", "image_auroc", digits=3),
    "pixel_auroc": Metric("pixel AUROC", "pixel_auroc", digits=3),
    "aupro": Metric("AUPRO", "aupro", digits=3),
    "false_alarm_rate": Metric("false alarms", "false_alarm_rate", digits=3),
    "recall_at_threshold": Metric("recall", "recall_at_threshold", digits=3),
    "bank_mb": Metric("bank, MB", "bank_mb"),
}


@dataclass(frozen=True)
class Line:
    """One variant on one dataset, or on all of the paper's: by metric, ours and what is printed. `comparable`: whether
    that was measured on the same data."""

    data: str
    variant: str
    method: str
    backbone: str
    seeds: int
    ours: dict[str, Value]
    published: dict[str, Value]
    comparable: bool

    def difference(self, metric: str) -> float | None:
        """Ours less theirs; None where there is nothing to compare."""
        if not self.comparable or metric not in self.ours or metric not in self.published:
            return None
        return self.ours[metric].mean - self.published[metric].mean


def compare(preset: Preset, rows: Sequence[Row], whole_sets: bool = True) -> list[Line]:
    """A line for each variant and dataset, means over the seeds; before them, where there are several datasets of the
    paper's data, their mean for each variant. `whole_sets`: not only some of their images, which are other data."""
    metrics = {name: METRICS[name] for name in preset.metrics}
    shown = {(row["dataset"], row["root"]): named["dataset"] for row, named in zip(rows, apart(rows), strict=True)}
    lines, means = [], []
    for (variant, method, backbone), of_variant in _grouped(rows, "label", "method", "backbone"):
        theirs = preset.published(variant)
        of_all = {name: values[ALL] for name, values in theirs.items()}
        of_paper = [row for row in of_variant if preset.data.has(row["dataset"], row["layout"])]
        for (dataset, root, layout), of_dataset in _grouped(of_variant, "dataset", "root", "layout"):
            same = whole_sets and preset.data.has(dataset, layout)
            found = {name: values[dataset] for name, values in theirs.items() if dataset in values}
            if not same or preset.data.categories == 1:
                found = of_all
            ours = {n: v for n, m in metrics.items() if (v := _over([_of(row, m) for row in of_dataset]))}
            lines.append(Line(shown[dataset, root], variant, method, backbone, len(of_dataset), ours, found, same))
        names = {(row["dataset"], row["root"]) for row in of_paper}
        if len(names) > 1:
            runs = [of_seed for _, of_seed in _grouped(of_paper, "seed") if len(of_seed) == len(names)]
            ours = {n: v for n, m in metrics.items() if (v := _over([_of_categories(run, m) for run in runs]))}
            whole = whole_sets and len(names) == preset.data.categories
            data = f"{preset.data.name}, all {len(names)}" if whole else f"{len(names)} of {preset.data.categories}"
            means.append(Line(data, variant, method, backbone, len(runs), ours, of_all if whole else {}, whole))
    return means + lines


def table(preset: Preset, lines: Sequence[Line], departures: str = "") -> str:
    """The lines as a Markdown page. `departures`: the options that were given and that the preset had otherwise."""
    heads = ["data", "variant", "backbone", "seeds"]
    cells = [[line.data, line.variant, line.backbone, str(line.seeds)] for line in lines]
    for name in preset.metrics:
        metric = METRICS[name]
        heads.append(metric.title)
        columns = [[_text(line.ours.get(name), metric.digits) for line in lines]]
        if any(name in line.published for line in lines):
            heads.append("published")
            columns.append([_text(line.published.get(name), metric.digits) for line in lines])
        if any(line.difference(name) is not None for line in lines):
            heads.append("difference")
            columns.append([_signed(line.difference(name), metric.digits) for line in lines])
        cells = [row + list(more) for row, more in zip(cells, zip(*columns, strict=True), strict=True)]
    words = [f"{preset.source}: {preset.what}."]
    if departures:
        words.append(f"Run with {departures}.")
    if any(line.published and not line.comparable for line in lines):
        whose = "" if preset.data.categories == 1 else f", mean of {preset.data.categories} categories"
        words.append(f"Published: on {preset.data.name}{whose}; no difference is taken to other data.")
    if any(value.std is not None for line in lines for value in line.ours.values()):
        words.append("± is the standard deviation over seeds.")
    if preset.note:
        words.append(preset.note)
    return f"# {preset.name}\n\n{' '.join(words)}\n\n" + markdown_table(heads, cells)


def as_rows(preset: Preset, lines: Sequence[Line]) -> list[Row]:
    """The lines for preset.csv, a row for each metric."""
    rows = []
    for line in lines:
        for name in preset.metrics:
            ours, theirs = line.ours.get(name), line.published.get(name)
            row = {"preset": preset.name, "metric": METRICS[name].title, "difference": line.difference(name)}
            row |= {key: getattr(line, key) for key in ("data", "variant", "method", "backbone", "seeds")}
            row |= {"ours": ours.mean, "ours_std": ours.std} if ours else {}
            rows.append(row | ({"published": theirs.mean, "published_std": theirs.std} if theirs else {}))
    return rows


def over_seeds(rows: Sequence[Row]) -> str:
    """Means ± standard deviations over seeds, as a Markdown table with a line above it; "" where there is one seed."""
    groups = list(_grouped(apart(rows), "dataset", "label", "method", "backbone"))
    if all(len(of_group) == 1 for _, of_group in groups):
        return ""
    keys = {"dataset": "dataset", "label": "variant", "method": "method", "backbone": "backbone"}
    if not any(row["label"] for row in rows):
        del keys["label"]
    heads = [*keys.values(), "seeds", *(m.title for m in _OVER_SEEDS.values())]
    cells = []
    for _, of_group in groups:
        values = [_text(_over([_of(row, m) for row in of_group]), m.digits) for m in _OVER_SEEDS.values()]
        cells.append([*(str(of_group[0][key]) for key in keys), str(len(of_group)), *values])
    return "\nMean ± standard deviation over seeds:\n\n" + markdown_table(heads, cells)


def apart(rows: Sequence[Row]) -> list[Row]:
    """The rows with names of datasets that are each one place's."""
    names = told_apart([(row["dataset"], row["root"]) for row in rows])
    return [row | {"dataset": name} for row, name in zip(rows, names, strict=True)]


def markdown_table(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, so that it also reads well as it is."""
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    lines = [heads, ["-" * width for width in widths], *cells]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


def _grouped(rows: Iterable[Row], *keys: str) -> Iterable[tuple[tuple[Any, ...], list[Row]]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups.items()


def _of(row: Row, metric: Metric) -> float | None:
    value = row[metric.column]
    return None if value is None else metric.factor * value


def _of_categories(run: Sequence[Row], metric: Metric) -> float | None:
    values = [_of(row, metric) for row in run]
    known = [value for value in values if value is not None]
    return metric.over_categories(known) if len(known) == len(values) else None


def _over(values: Sequence[float | None]) -> Value | None:
    """Mean and sample standard deviation; None where one is missing."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return Value(fmean(known), stdev(known) if len(known) > 1 else None)


def _text(value: Value | None, digits: int) -> str:
    if value is None:
        return "–"
    mean = _number(value.mean, digits)
    return mean if value.std is None else f"{mean} ± {_number(value.std, max(digits, 1))}"


def _number(value: float, digits: int) -> str:
    """With one decimal more where that is all there is: as it is printed."""
    more = round(value, digits) != value and round(value, digits + 1) == value
    return f"{value:.{digits + more}f}"


def _signed(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:+.{digits}f}"
