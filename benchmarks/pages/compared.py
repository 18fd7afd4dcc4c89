"""Tables that compare methods, and those for results that no other table knows."""

from __future__ import annotations

from statistics import mean
from typing import Any

from benchmarks.pages.table import RESULTS, Table, matching, number, read, unused

_TRAINING, _OF_SHAPES = "training.json", "training_geometry.json"
_COMMAND = "python -m benchmarks.training DATA --methods METHODS --threads 1 [--max-minutes LIMIT] --out training.json"
_SUMS = ("rgb+curvature", "rgb+normals", "rgb+curvature+normals", "rgb+curvature+normals+valid")
_GEOMETRY = "python -m benchmarks.geometry --seeds 0,1,2 --methods METHODS --out geometry.json"


def recorded(name: str) -> Table:
    """A table that was written down from a run whose other results are not kept."""
    found = read(f"recorded/{name}.json")
    title, note = found["title"], found["note"]
    return Table(found["columns"], found["rows"], [f"recorded/{name}.json"], found["command"], title, note)


def training() -> Table:
    """Image AUROC of each method and of each beside PatchCore, by set; the mean over seeds."""
    results = read(_TRAINING)
    names, sets = _names(results, 1), _shared_sets(results)
    rows = [_row(name, [_runs(results, of, name) for of in sets]) for name in names]
    for name in names:
        if name != "patchcore":
            rows.append(_row(f"patchcore + {name}", [_with_patchcore(results, of, name) for of in sets]))
    rows.sort(key=lambda row: (row[0] != "patchcore", row[0].removeprefix("patchcore + "), row[0]))
    note = (
        "Image AUROC on each set, and means over these sets: image AUROC, and recall at a false-alarm rate of 1 %. "
        "`patchcore + x` is the mean of both scores, standardised by their calibrations."
    )
    columns = ["method", *sets, "mean", "recall at 1 %"]
    return Table(columns, rows, [_TRAINING], _COMMAND, "Methods that learn weights, beside PatchCore", note)


def training_sets() -> Table:
    """Everything else about the same runs: one row for each set and method."""
    return _in_full(_TRAINING, "The same runs in full")


def training_geometry() -> Table:
    """The same of sets with geometry."""
    return _in_full(_OF_SHAPES, "Methods that learn weights, on sets with geometry")


def _in_full(name: str, title: str) -> Table:
    results = read(name)
    rows = []
    for of in _names(results, 0):
        for method in _names(results, 1):
            if runs := _runs(results, of, method):
                figures = [_mean(runs, key) for key in ("image_auroc", "pixel_auroc", "aupro", "recall_at_1")]
                costs = [_mean(runs, key) for key in ("fit_minutes", "latency_ms_p50", "bank_mb", "peak_rss_mb")]
                costly = [number(value, form) for value, form in zip(costs, (".1f", ".0f", ".1f", ".0f"), strict=True)]
                limit = next((run["max_minutes"] for run in runs if run.get("max_minutes")), None)
                rows.append([of, method, *map(number, figures), *costly, number(limit, ".0f"), str(len(runs))])
    columns = [
        "set", "method", "image AUROC", "pixel AUROC", "AUPRO", "recall at 1 %", "fit, min", "latency p50, ms",
        "model, MB", "peak, MB", "limit, min", "seeds",
    ]  # fmt: skip
    return Table(columns, rows, [name], _COMMAND, title)


def geometry() -> Table:
    """Results of methods and channels on sets with geometry: `benchmarks.geometry`, or lists of runs."""
    names = _geometry_files()
    runs = [run for name in names for run in _geometry_runs(read(name))]
    columns = list(dict.fromkeys(key for run in runs for key in run))
    rows = [[_any(run.get(key)) for key in columns] for run in runs]
    return Table([c.replace("_", " ") for c in columns], rows, names, _GEOMETRY, "Methods on sets with geometry")


def other() -> list[Table]:
    """A plain table for each file that no other table has read."""
    found = []
    for name in unused():
        runs = [run for run in _records(read(name)) if run]
        columns = list(dict.fromkeys(key for run in runs for key in run))
        rows = [[_any(run.get(key)) for key in columns] for run in runs]
        found.append(
            Table([c.replace("_", " ") for c in columns], rows, [name], "not kept", name.removesuffix(".json"))
        )
    return found


def of_method(name: str) -> Table:
    """What was measured of one method: on pictures, on the sets of trained methods, and on sets with geometry."""
    rows, sources, commands = [], [], []
    table = recorded("methods")
    places = [table.columns.index(c) for c in ("set", "image AUROC", "pixel AUROC", "AUPRO", "found")]
    if found := [[row[i] for i in places] for row in table.rows if row[1].split()[0] == name]:
        rows, sources, commands = (
            found,
            list(table.sources),
            [f"patchbank benchmark hazelnut_toy tire mtd -O out --methods {name} --seeds 0,1,2"],
        )
    for file in (_TRAINING, _OF_SHAPES):
        results = read(file)
        if name != "patchcore" and (sets := [of for of in _names(results, 0) if _runs(results, of, name)]):
            for of in sets:
                runs = _runs(results, of, name)
                figures = [_mean(runs, key) for key in ("image_auroc", "pixel_auroc", "aupro", "recall_at_threshold")]
                rows.append([of, *map(number, figures)])
            sources.append(file)
            commands.append(_COMMAND)
    for file in _geometry_files():
        runs = [run for run in _geometry_runs(read(file)) if str(run.get("method", "")).split(":")[0] == name]
        for run in runs:
            image = run.get("image_auroc", run.get("mean"))
            figures = [image, run.get("pixel_auroc"), run.get("aupro"), run.get("recall_at_threshold")]
            rows.append([str(run.get("set") or run.get("kind") or "–"), *map(number, figures)])
        if runs:
            sources.append(file)
            commands.append(_GEOMETRY)
    columns = ["set", "image AUROC", "pixel AUROC", "AUPRO", "recall at the threshold"]
    commands.append(f"patchbank benchmark SET -O out --methods {name}")
    return Table(columns, rows, sources, commands[0])


def names_recorded() -> list[str]:
    """Names of the tables that were written down."""
    return sorted(path.stem for path in RESULTS.glob("recorded/*.json"))


def _geometry_files() -> list[str]:
    return [name for name in matching("geometry*.json") if name != "geometry_cost.json"]


def _geometry_runs(content: Any) -> list[dict[str, Any]]:
    """Runs as they are; of what `benchmarks.geometry` writes, the mean over its sets of each method, each channel and
    the default sums."""
    if isinstance(content, list) or "rows" in content or "runs" in content:
        return _records(content)
    sets = {name: found for name, found in content.items() if name not in ("environment", "cost")}
    by_name: dict[str, list[dict[str, Any]]] = {}
    of: dict[str, list[str]] = {}
    for name_of_set, found in sets.items():
        channels = {name: row for name, row in found.get("channels", {}).items() if "+" not in name or name in _SUMS}
        for name, row in {**channels, **found}.items():
            if name != "channels":
                by_name.setdefault(name, []).append(_scalars(row))
                of.setdefault(name, []).append(name_of_set)
    return [
        {
            "set": of[name][0] if len(of[name]) == 1 else f"mean of {', '.join(of[name])}",
            "method": name,
            **{key: mean(row[key] for row in rows) for key in rows[0]},
        }
        for name, rows in by_name.items()
    ]


def _records(content: Any) -> list[dict[str, Any]]:
    """The rows of any result file: a list of records, one below a key, or records by name."""
    if isinstance(content, list):
        return [_scalars(row) for row in content if isinstance(row, dict)]
    lists = [value for value in content.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if lists:
        return [_scalars(row) for rows in lists for row in rows]
    named = {k: v for k, v in content.items() if isinstance(v, dict) and k != "environment"}
    return [{"name": name, **_scalars(row)} for name, row in named.items()]


def _scalars(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if v is None or isinstance(v, str | int | float)}


def _any(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return "–" if value is None else str(value).replace("|", "\\|")


def _names(results: dict[str, Any], place: int) -> list[str]:
    return list(dict.fromkeys(key.split("/")[place] for key in results))


def _shared_sets(results: dict[str, Any]) -> list[str]:
    """Sets that more methods than PatchCore were measured on."""
    return [
        of for of in _names(results, 0) if any(_runs(results, of, n) for n in _names(results, 1) if n != "patchcore")
    ]


def _keys(results: dict[str, Any], of: str, name: str) -> list[str]:
    return [key for key in results if key.split("/")[:2] == [of, name]]


def _runs(results: dict[str, Any], of: str, name: str) -> list[dict[str, Any]]:
    return [results[key] for key in _keys(results, of, name)]


def _with_patchcore(results: dict[str, Any], of: str, name: str) -> list[dict[str, Any]]:
    """Each run of a method together with PatchCore's of the same set and seed, where there is one."""
    from benchmarks.training import fused

    pairs = [(key.replace(f"/{name}/", "/patchcore/"), key) for key in _keys(results, of, name)]
    return [fused(results[one], results[other]) for one, other in pairs if one in results]


def _row(label: str, found: list[list[dict[str, Any]]]) -> list[str]:
    """A row of means; those over all sets only where no set is missing."""
    by_set = [_mean(runs, "image_auroc") for runs in found]
    recalls = [_mean(runs, "recall_at_1") for runs in found]
    totals = [mean(v for v in values if v is not None) if None not in values else None for values in (by_set, recalls)]
    return [label, *map(number, by_set), *map(number, totals)]


def _mean(runs: list[dict[str, Any]], key: str) -> float | None:
    values = [run[key] for run in runs if run.get(key) is not None]
    return mean(values) if values else None
