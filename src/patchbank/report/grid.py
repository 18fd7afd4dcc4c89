"""The report of a grid: one HTML file over all cells of a folder, made from what they left there.

The file needs nothing but itself; the words are in `grid.html.j2`. The same folder gives the same bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from patchbank._system.files import replacing
from patchbank.evaluation.finished import Configuration, FinishedCell, Grid, Sweep, read_grid, sweeps
from patchbank.report import grid_plots
from patchbank.report.advice import COST, MEASURES, advise, best_on, pareto
from patchbank.report.gallery import KINDS, Shot, embedded, read_gallery
from patchbank.report.grid_tables import found_table, heat_table, main_table
from patchbank.report.html import environment, plain

_LIMIT = 14_500_000  # bytes of the whole file, so that it can be mailed
_PICTURES = 9_000_000  # bytes of all pictures, where the rest leaves so much
_LEAST = 25_000  # bytes that a picture needs to show what it should
_EACH = 3  # pictures of a kind for each dataset
_POINTS = (100, 30)  # of a scatter plot of averages, and of one dataset
_SETS = 16  # datasets that get plots of their own
_OPTIONS, _LINES = 12, 7  # of the sweeps
_FOLDERS = 200  # named as left out
_CELLS = 15_000  # of all heat tables by kind of defect
_COSTS = {COST: "time for one image, ms", "bank_mb": "bank, MB"}
_SWEPT = {"image_auroc": "image AUROC", "aupro": "AUPRO", COST: "one image, ms", "bank_mb": "bank, MB"}
_RUNNING = ("jobs", "fit_cached")
_MACHINE = ("processor", "cores", "threads", "gpu", "system", *_RUNNING)


def write_grid_report(output: Path) -> Path:
    """Write report.html into a folder of finished cells; its path. Raises `DatasetError` where it has none."""
    grid = read_grid(output)
    template = environment().get_template("grid.html.j2")
    content = _content(grid, output)
    rest = len(template.render(**content, galleries=[], pictures_left_out=0).encode("utf-8", errors="replace"))
    galleries, left_out = _galleries(grid, min(_PICTURES, _LIMIT - rest))
    page = template.render(**content, galleries=galleries, pictures_left_out=left_out)
    with replacing(output / "report.html") as temporary:
        temporary.write_bytes(page.encode("utf-8", errors="replace"))
    return output / "report.html"


def _content(grid: Grid, output: Path) -> dict[str, Any]:
    """All that the template names, without the pictures."""
    advice = advise(grid)
    several = len(grid.datasets) > 1
    swept, heat_by_defect = _sweeps(grid), _heat_by_defect(grid)
    return {
        "advice": advice,
        "grid": grid,
        "averages": main_table(grid, advice.complete, [grid.datasets]) if several and advice.complete else None,
        "all_numbers": main_table(grid, grid.configurations, [[dataset] for dataset in grid.datasets]),
        "scatters": _scatters(grid, advice.complete, grid.datasets),
        "scatters_by_set": [
            (dataset, _scatters(grid, [c for c in grid.configurations if dataset in c.cells], [dataset]))
            for dataset in (grid.datasets[:_SETS] if several else ())
        ],
        "sets_not_plotted": max(0, len(grid.datasets) - _SETS) if several else 0,
        "sweeps": swept[:_OPTIONS],
        "options_left_out": [sweep["option"] for sweep in swept[_OPTIONS:]],
        "heat_by_set": _heat(grid) if several else [],
        "heat_by_defect": heat_by_defect[0],
        "heat_left_out": heat_by_defect[1],
        "folders_named": _FOLDERS,
        "published": found_table(output / "preset.csv", most=1000),
        "errors": found_table(output / "errors.csv", most=200),
        "environment": _environments(grid.cells),
    }


def _scatters(grid: Grid, configurations: Sequence[Configuration], datasets: Sequence[str]) -> dict[str, Any]:
    """Accuracy against each cost, where at least two configurations have both; how many points of a figure were left
    out at most. Empty without a figure."""
    figures, left_out = [], 0
    methods = sorted({c.method for c in grid.configurations})
    single = len(datasets) < len(grid.datasets)
    for key in ("image_auroc",) if single else ("image_auroc", "aupro"):
        for cost_key, cost_name in _COSTS.items():
            points = []
            for c in configurations:
                value, cost = c.over(datasets, key), c.over(datasets, cost_key)
                if value and cost:
                    points.append(grid_plots.Point(c.label, c.method, cost.mean, value.mean, value.spread))
            if len(points) > 1:
                drawn = _fewer(points, _POINTS[single])
                left_out = max(left_out, len(points) - len(drawn))
                figures.append(Markup(grid_plots.scatter(drawn, methods, cost_name, MEASURES[key])))
    return {"figures": figures, "left_out": left_out} if figures else {}


def _fewer(points: list[grid_plots.Point], most: int) -> list[grid_plots.Point]:
    """At most so many: those of the front and the best others."""
    front = pareto([(p.cost, p.value) for p in points])
    order = sorted(range(len(points)), key=lambda i: (i not in front, -points[i].value, points[i].cost))
    return [points[i] for i in order[:most]]


def _sweeps(grid: Grid) -> list[dict[str, Any]]:
    """Figures for each swept option; a line is a configuration's rest, or a dataset where there is only one such."""
    by_option: dict[str, list[Sweep]] = defaultdict(list)
    for sweep in sweeps(grid.configurations):
        by_option[sweep.option].append(sweep)
    found: list[dict[str, Any]] = []
    for option, group in by_option.items():
        figures = []
        for key, name in _SWEPT.items() if len(found) < _OPTIONS else ():
            lines = _lines(grid, group, key)
            if lines:
                figures.append(Markup(grid_plots.curves(lines, option, name, shares=key in MEASURES)))
        what = ", ".join(sweep.label for sweep in group[:_LINES])
        left_out = max(0, len(group) - _LINES)
        found.append({"option": option, "of": what, "figures": figures, "left_out": left_out})
    return found


def _lines(grid: Grid, group: Sequence[Sweep], key: str) -> dict[str, grid_plots.Line]:
    def line(sweep: Sweep, datasets: Sequence[str]) -> list[tuple[float, float, float | None]]:
        values = [(x, c.over(datasets, key)) for x, c in sweep.points]
        return [(x, value.mean, value.spread) for x, value in values if value]

    if len(group) == 1 and 1 < len(grid.datasets) <= _LINES:
        lines = {dataset: line(group[0], [dataset]) for dataset in grid.datasets}
    else:
        lines = {sweep.label: line(sweep, grid.datasets) for sweep in group[:_LINES]}
    return {name: points for name, points in lines.items() if len(points) > 1}


def _heat(grid: Grid) -> list[tuple[str, dict[str, Any]]]:
    """Datasets × configurations."""

    def table(key: str) -> dict[str, Any]:
        def value(dataset: str, c: Configuration) -> float | None:
            found = c.over([dataset], key)
            return found.mean if found else None

        return heat_table(grid.datasets, grid.configurations, value)

    return [(MEASURES[key], made) for key in ("image_auroc", "aupro") if (made := table(key))]


def _heat_by_defect(grid: Grid) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    """For each dataset: kinds of defect × configurations, by image AUROC against all good parts; and the datasets for
    which there was no room."""
    found: list[tuple[str, dict[str, Any]]] = []
    left_out, cells = [], 0
    for dataset in grid.datasets:
        there = [c for c in grid.configurations if dataset in c.cells]
        per_defect = {id(c): _per_defect(list(c.cells[dataset].values())) for c in there}
        names = sorted({name for table in per_defect.values() for name in table})
        table = heat_table(names, there, lambda name, c, known=per_defect: known[id(c)].get(name))  # type: ignore[misc]
        cells += len(names) * len(there)
        if table and cells <= _CELLS:
            found.append((dataset, table))
        elif table:
            left_out.append(dataset)
    return found, left_out


def _per_defect(cells: Sequence[FinishedCell]) -> dict[str, float]:
    """Image AUROC by kind of defect, averaged over the seeds."""
    values: dict[str, list[float]] = defaultdict(list)
    for cell in cells:
        for name, row in (cell.metrics.get("per_defect") or {}).items():
            if isinstance(row, dict) and isinstance(row.get("image_auroc"), float):
                values[name].append(row["image_auroc"])
    return {name: sum(of_kind) / len(of_kind) for name, of_kind in values.items()}


def _galleries(grid: Grid, budget: int) -> tuple[list[dict[str, Any]], int]:
    """For each dataset the pictures of the configuration to take there, and how many were left out for want of room."""
    chosen = []
    for dataset in grid.datasets:
        configuration = best_on(grid, dataset)
        cell = configuration.cells[dataset][min(configuration.cells[dataset])]
        chosen.append((dataset, configuration, cell, read_gallery(cell.folder)))
    for each in range(_EACH, 0, -1):
        wanted = [_first(shots, each) for *_, shots in chosen]
        if (count := sum(map(len, wanted))) * _LEAST <= budget:
            break
    share = max(_LEAST, budget // max(1, count))
    found, room = [], budget
    left_out = sum(len(_first(shots, _EACH)) for *_, shots in chosen)
    for (dataset, configuration, cell, _), shots in zip(chosen, wanted, strict=True):
        figures: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
        for shot in shots:
            picture = embedded(cell.folder / shot.file, min(share, room))
            if picture is None:
                continue
            left_out -= 1
            room -= len(picture["source"]) + 1000  # and its caption
            figures[shot.kind].append({"shot": shot, **picture})
        if any(figures.values()):
            found.append({"dataset": dataset, "label": configuration.label, "seed": cell.seed, "figures": figures})
    return found, left_out


def _first(shots: Sequence[Shot], each: int) -> list[Shot]:
    """So many of each kind."""
    return [shot for kind in KINDS for shot in [s for s in shots if s.kind == kind][:each]]


def _environments(cells: Sequence[FinishedCell]) -> dict[str, Any]:
    """What all cells share, and for the rest which cells have which value."""
    # beside the environment: how many cells ran at a time, and whether the fit took its features from a cache
    known = [
        {**(cell.metrics.get("environment") or {}), **{k: cell.metrics[k] for k in _RUNNING if k in cell.metrics}}
        for cell in cells
    ]
    common, differing = {}, []
    for key in dict.fromkeys(key for values in known for key in values):
        groups: dict[str, list[str]] = defaultdict(list)
        for cell, values in zip(cells, known, strict=True):
            groups[plain(values.get(key))].append(cell.folder.name)
        if len(groups) == 1:
            common[key] = next(iter(groups))
        else:
            differing.append((key, sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))))
    return {"common": common, "differing": differing, "machines": any(key in _MACHINE for key, _ in differing)}
