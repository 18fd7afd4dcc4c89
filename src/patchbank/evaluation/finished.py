"""A folder of finished cells read back: which configurations there are, and what each reached over its seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path, PurePath
from typing import Any

from patchbank._system.former_names import with_new_names
from patchbank.errors import DatasetError

_FIRST = ("backbone", "geometry")  # the options that a label names first
_UNTOLD = ("seed", "device", "runtime", "threads", "memory_budget")  # where and how it ran is not what was compared
_EQUAL = 0.0005  # two shares are the same to three decimals


@dataclass(frozen=True)
class FinishedCell:
    """What one cell left in its folder: the document of its metrics.json. `dataset`: its name, with the folder above
    where another of that name lies elsewhere."""

    folder: Path
    metrics: dict[str, Any]
    dataset: str

    @property
    def seed(self) -> int:
        return int(self.metrics["seed"])

    def number(self, key: str) -> float | None:
        """A metric, the total where it has parts; None where it could not be computed."""
        value = self.metrics.get(key)
        value = value.get("total") if isinstance(value, dict) else value
        usable = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        return float(value) if usable else None  # type: ignore[arg-type]


@dataclass(frozen=True)
class Summary:
    """A metric over the seeds; `spread` is the standard deviation, None for a single seed."""

    mean: float
    spread: float | None
    seeds: int

    def ties_with(self, other: Summary) -> bool:
        """Whether the two differ by no more than chance: the larger spread, or what three decimals show."""
        return abs(self.mean - other.mean) < max(_EQUAL, self.spread or 0, other.spread or 0)


@dataclass(frozen=True, eq=False)
class Configuration:
    """A method with its options but for the seed and the machine, and its `cells`: dataset → seed → cell. `label` says
    in few words what sets it apart from the others of the grid."""

    method: str
    options: Mapping[str, Any]
    cells: dict[str, dict[int, FinishedCell]] = field(default_factory=dict)
    label: str = ""

    @property
    def backbone(self) -> str:
        return _short(self.options.get("backbone"))

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for by_seed in self.cells.values() for seed in by_seed})

    def per_seed(self, datasets: Sequence[str], key: str) -> dict[int, float]:
        """The metric averaged over the datasets, for each seed that has it for all of them."""
        found = {}
        for seed in self.seeds:
            cells = [self.cells.get(dataset, {}).get(seed) for dataset in datasets]
            values = [number for cell in cells if cell is not None and (number := cell.number(key)) is not None]
            if values and len(values) == len(datasets):
                found[seed] = statistics.fmean(values)
        return found

    def over(self, datasets: Sequence[str], key: str) -> Summary | None:
        """The metric averaged over the datasets, summarised over the seeds that have all; None where no seed does."""
        values = list(self.per_seed(datasets, key).values())
        if not values:
            return None
        spread = statistics.stdev(values) if len(values) > 1 else None
        return Summary(statistics.fmean(values), spread, len(values))


@dataclass(frozen=True)
class Sweep:
    """Configurations that differ in one numeric option only, by its value; `label` says what they share."""

    option: str
    label: str
    points: tuple[tuple[float, Configuration], ...]


@dataclass(frozen=True)
class Grid:
    """All that was compared; `left_out`: folders that hold results but could not be used, and why."""

    datasets: tuple[str, ...]
    configurations: tuple[Configuration, ...]
    left_out: tuple[tuple[str, str], ...]

    @property
    def cells(self) -> list[FinishedCell]:
        return [
            cell for c in self.configurations for by_seed in c.cells.values() for _, cell in sorted(by_seed.items())
        ]


def read_grid(output: Path) -> Grid:
    """The finished cells of a folder that `Runner` wrote. Raises `DatasetError` where there is none."""
    cells, left_out = _read_cells(output)
    images: dict[str, set[int]] = defaultdict(set)
    for cell in cells:
        images[cell.dataset].add(cell.metrics["n_train"])
    found: dict[str, Configuration] = {}
    for cell in cells:
        options = _options(cell) | {"images": _images(cell, images)}
        method = str(cell.metrics["method"])
        key = json.dumps([method, options], sort_keys=True)
        by_seed = found.setdefault(key, Configuration(method, options)).cells.setdefault(cell.dataset, {})
        if cell.seed in by_seed:
            left_out.append(
                (cell.folder.name, f"same dataset name, options and seed as {by_seed[cell.seed].folder.name}")
            )
        else:
            by_seed[cell.seed] = cell
    if not found:
        why = f" ({'; '.join(f'{name}: {reason}' for name, reason in left_out[:3])})" if left_out else ""
        raise DatasetError(
            f"{output}: holds no finished cell of a benchmark{why}; run `patchbank benchmark` into it first"
        )
    return Grid(tuple(sorted(images)), _labelled(list(found.values())), tuple(left_out))


def _read_cells(output: Path) -> tuple[list[FinishedCell], list[tuple[str, str]]]:
    cells, left_out = [], []
    for path in sorted(output.glob("*/metrics.json")):
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            left_out.append((path.parent.name, f"metrics.json cannot be read: {error}"))
            continue
        if isinstance(metrics, dict) and {"dataset", "method", "seed", "options", "n_train"} <= metrics.keys():
            cells.append(FinishedCell(path.parent, metrics, str(metrics["dataset"])))
        else:
            left_out.append(
                (path.parent.name, "metrics.json does not name method, seed and options: run the cell again")
            )
    names = told_apart([(cell.dataset, cell.metrics.get("root", "")) for cell in cells])
    return [replace(cell, dataset=name) for cell, name in zip(cells, names, strict=True)], left_out


def told_apart(datasets: Sequence[tuple[str, str]]) -> list[str]:
    """Names of datasets, given each with its folder, that are each one place's: with the folder above where another of
    that name lies elsewhere."""
    roots: dict[str, set[str]] = defaultdict(set)
    for name, root in datasets:
        roots[name].add(root)
    named = []
    for name, root in datasets:
        places = [PurePath(each).parts for each in sorted(roots[name])]
        length = next((n for n in range(1, 50) if len({parts[-n:] for parts in places}) == len(places)), 50)
        above = "/".join(PurePath(root).parts[-length:-1]) if len(places) > 1 else ""
        named.append(f"{above}/{name}" if above else name)
    return named


def _options(cell: FinishedCell) -> dict[str, Any]:
    """The options that tell configurations apart; those of an ensemble are its members': the value that all share, or
    theirs in a list."""
    options = _of_today(cell.metrics["method"], cell.metrics["options"])
    if members := options.pop("members", None):
        members = [_of_today(member.get("method", ""), member) for member in members]
        for name in dict.fromkeys(name for member in members for name in member):
            values = [member.get(name) for member in members]
            options[name] = values[0] if all(value == values[0] for value in values) else values
        options["backbone"] = cell.metrics["backbone"]
    return {name: value for name, value in options.items() if name not in _UNTOLD}


def _of_today(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options under the names of today, so that cells of an older version stand beside new ones."""
    from patchbank.methods import METHODS

    return with_new_names(METHODS[method].former, options) if method in METHODS else dict(options)


def _images(cell: FinishedCell, images: dict[str, set[int]]) -> int | str:
    """How many images it learned from, as an option; "all" where this differs between datasets by nature only."""
    count: int = cell.metrics["n_train"]
    most = {max(counts) for counts in images.values()}
    return count if len(most) == 1 or count < max(images[cell.dataset]) else "all"


def _labelled(configurations: list[Configuration]) -> tuple[Configuration, ...]:
    """With labels, each once, in their order."""
    labels: dict[str, Configuration] = {}
    for configuration in configurations:
        base = label = _label(configuration.method, configuration.options, configurations)
        number = 1
        while label in labels:
            number += 1
            label = f"{base} #{number}"
        labels[label] = replace(configuration, label=label)
    return tuple(sorted(labels.values(), key=lambda c: (c.method, _natural(c), c.label)))


def _label(method: str, options: Mapping[str, Any], configurations: Sequence[Configuration], without: str = "") -> str:
    """The method, and the options whose value differs between configurations of that method."""
    same = [c for c in configurations if c.method == method]
    names = sorted(options, key=lambda name: (name not in _FIRST, list(options).index(name)))
    parts = []
    for name in names:
        value = options[name]
        if name == without or value is None or len(_values(same, name)) < 2 or _follows(name, same):
            continue
        parts.append(_short(value) if name == "backbone" else f"{name} {_short(value)}")
    if len({c.method for c in configurations}) == 1 and parts:
        return ", ".join(parts)
    return ", ".join([method, *parts])


def _follows(name: str, configurations: Sequence[Configuration]) -> bool:
    """Whether the geometry decides this option wherever the two differ."""
    if name == "geometry" or len(_values(configurations, "geometry")) < 2:
        return False
    return len(_values(configurations, "geometry", name)) == len(_values(configurations, "geometry"))


def _values(configurations: Sequence[Configuration], *names: str) -> set[str]:
    return {json.dumps([c.options.get(name) for name in names], sort_keys=True) for c in configurations}


def _short(value: Any) -> str:
    """An option's value in a label."""
    if isinstance(value, list):
        return "+".join(map(_short, value)) if any(isinstance(v, str) for v in value) else ",".join(map(str, value))
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return PurePath(value).name if isinstance(value, str) and value else str(value)


def _natural(configuration: Configuration) -> list[tuple[str, float]]:
    """For sorting: numeric options by their value."""
    return [(k, float(v) if _is_number(v) else -math.inf) for k, v in configuration.options.items()]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def sweeps(configurations: Sequence[Configuration]) -> list[Sweep]:
    """Every numeric option of which at least three values were tried with all else equal."""
    found = []
    for option in sorted({name for c in configurations for name, value in c.options.items() if _is_number(value)}):
        lines: dict[str, list[Configuration]] = defaultdict(list)
        for c in configurations:
            if _is_number(c.options.get(option)):
                rest = {k: v for k, v in c.options.items() if k != option}
                lines[json.dumps([c.method, rest], sort_keys=True)].append(c)
        for line in lines.values():
            if len(line) >= 3:
                points = sorted(((float(c.options[option]), c) for c in line), key=lambda point: point[0])
                label = _label(line[0].method, line[0].options, configurations, without=option)
                found.append(Sweep(option, label, tuple(points)))
    return found
