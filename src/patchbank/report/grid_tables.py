"""Tables of a grid's report: numbers with their spread over the seeds, heat tables, csv files beside the cells."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib
from matplotlib.colors import to_hex

from patchbank.evaluation.finished import Configuration, Grid
from patchbank.report.advice import level_with_best
from patchbank.report.html import number

_MOST_ROWS = 2500  # of one table
_MOST_COLUMNS = 40  # of a heat table
_ACCURACY = ("image_auroc", "pixel_auroc", "aupro")


@dataclass(frozen=True)
class Column:
    """A number of the main table; `kind`: as `report.html.number`, the unit being in the title."""

    key: str
    title: str
    kind: str
    meaning: str


COLUMNS = (
    Column("image_auroc", "image AUROC", "share", "Chance that a defective part scores higher than a good one."),
    Column(
        "pixel_auroc", "pixel AUROC", "share", "Chance that a pixel of a defect is marked more strongly than others."
    ),
    Column(
        "aupro", "AUPRO", "share", "How much of each defect the map covers, small and large ones counting the same."
    ),
    Column("recall_at_threshold", "found, %", "percent", "Share of the defective parts rejected at the threshold."),
    Column("false_alarm_rate", "false alarms, %", "percent", "Share of the good parts rejected at the threshold."),
    Column("latency_ms_p50", "one image, ms", "plain", "Median time from the picture to score and map."),
    Column("fit_seconds", "fit, s", "plain", "Time to learn, from the good pictures to a model with a threshold."),
    Column("bank_mb", "bank, MB", "plain", "What the model remembers of the good parts."),
    Column("peak_rss_mb", "peak, MB", "plain", "The most memory that the run held at one time."),
)


def main_table(grid: Grid, configurations: Sequence[Configuration], sets: Sequence[Sequence[str]]) -> dict[str, Any]:
    """One body for each configuration and each of the sets of datasets that it has: a row of means, a row per seed.
    The most accurate first."""
    bodies, rows = [], 0
    first = next((key for key in _ACCURACY if any(c.over(sets[0], key) for c in configurations)), _ACCURACY[0])
    for datasets in sets:
        level = {key: set(map(id, level_with_best(configurations, datasets, key))) for key in _ACCURACY}
        for c in sorted(configurations, key=lambda c: -(mean.mean if (mean := c.over(datasets, first)) else -1)):
            if not set(datasets) <= c.cells.keys() or rows >= _MOST_ROWS:
                continue
            best = {key for key, who in level.items() if id(c) in who}
            bodies.append(_body(c, datasets, best, single=len(sets) == 1))
            rows += 1 + len(bodies[-1]["seeds"])
    wanted = sum(set(datasets) <= c.cells.keys() for datasets in sets for c in configurations)
    return {"columns": COLUMNS, "bodies": bodies, "left_out": wanted - len(bodies)}


def _body(c: Configuration, datasets: Sequence[str], best: set[str], single: bool) -> dict[str, Any]:
    per_column = {column.key: c.per_seed(datasets, column.key) for column in COLUMNS}
    seeds = [seed for seed in c.seeds if all(seed in c.cells[dataset] for dataset in datasets)]
    links = {
        seed: quote(f"{c.cells[datasets[0]][seed].folder.name}/report.html", errors="surrogateescape") for seed in seeds
    }
    means = []
    for column in COLUMNS:
        values = list(per_column[column.key].values())
        mean = statistics.fmean(values) if values else math.nan
        spread = shown(statistics.stdev(values), column.kind, mean) if len(values) > 1 else ""
        bold = column.key in best and bool(values)
        means.append({"text": shown(mean, column.kind), "spread": spread, "value": mean, "best": bold})
    return {
        "label": c.label,
        "dataset": datasets[0] if len(datasets) == 1 and not single else "",
        "means": means,
        "count": len(seeds),
        "link": links[seeds[0]] if len(seeds) == 1 and len(datasets) == 1 else "",
        "seeds": [
            {
                "seed": seed,
                "link": links[seed] if len(datasets) == 1 else "",
                "values": [shown(per_column[column.key].get(seed, math.nan), column.kind) for column in COLUMNS],
            }
            for seed in seeds
        ]
        if len(seeds) > 1
        else [],
    }


def shown(value: float, kind: str, like: float | None = None) -> str:
    """A number of a table, its unit left to the heading: three digits, or as many decimals as `like` has with three."""
    if kind != "plain" or not math.isfinite(value):
        return number(value, kind).removesuffix(" %")
    size = abs(value if like is None else like)
    return f"{value:.{max(0, 2 - math.floor(math.log10(size))) if size else 0}f}"


def heat_table(
    names: Sequence[str], configurations: Sequence[Configuration], value: Callable[[str, Configuration], float | None]
) -> dict[str, Any]:
    """Rows × configurations of shares; the best of a row is marked; colours from blue (lowest) to yellow (1), which are
    told apart with every kind of colour blindness. Empty where there is no value."""
    shown_ones = configurations[:_MOST_COLUMNS]
    values = [[value(name, c) for c in shown_ones] for name in names[: _MOST_ROWS // max(1, len(shown_ones))]]
    present = [v for row in values for v in row if v is not None]
    if not present:
        return {}
    low = min(0.95, math.floor(20 * min(present)) / 20)
    rows = []
    for name, row in zip(names, values, strict=False):
        top = max((v for v in row if v is not None), default=math.inf)
        rows.append((name, [None if v is None else {**_coloured(v, low), "best": top - v < 0.0005} for v in row]))
    stops = ", ".join(_coloured(low + (1 - low) * i / 8, low)["colour"] for i in range(9))
    return {
        "columns": [c.label for c in shown_ones],
        "left_out": len(configurations) - len(shown_ones),
        "rows_left_out": len(names) - len(rows),
        "rows": rows,
        "low": low,
        "gradient": f"linear-gradient(to right, {stops})",
    }


def _coloured(value: float, low: float) -> dict[str, Any]:
    place = min(1.0, max(0.0, (value - low) / (1 - low)))
    red, green, blue, _ = rgb = matplotlib.colormaps["cividis"](place)
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    return {"text": f"{value:.3f}", "colour": to_hex(rgb), "ink": "#000" if light > 0.5 else "#fff"}


def found_table(path: Path, most: int) -> dict[str, Any] | None:
    """A csv file as a table: `most` rows of it, and which columns hold numbers. None where there is no such file or it
    cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            head, *rows = csv.reader(file)
    except (OSError, ValueError, csv.Error):
        return None
    rows = [[*row, *[""] * (len(head) - len(row))][: len(head)] for row in rows]
    numeric = [any(row[i] for row in rows) and all(_is_number(row[i]) for row in rows) for i in range(len(head))]
    texts = [[_rounded(v) if numeric[i] else v for i, v in enumerate(row)] for row in rows[:most]]
    return {"head": list(zip(head, numeric, strict=True)), "rows": texts, "left_out": max(0, len(rows) - most)}


def _is_number(text: str) -> bool:
    try:
        return not text or math.isfinite(float(text))
    except ValueError:
        return False


def _rounded(text: str) -> str:
    """A number of a csv file with at most four decimals."""
    return f"{float(text):.4f}".rstrip("0").rstrip(".") if "." in text or "e" in text.lower() else text or "–"
