"""A table of results, where it comes from, and how it is written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
NOT_RECORDED = "not recorded"
_NUMBERS = re.compile(r"[\d\s./%±×()–<>*\\-]+")
_USED: set[str] = set()  # files that some table has


@dataclass(frozen=True)
class Table:
    """Rows of one result, and what a reader needs to repeat it.

    Args:
        columns: their headings.
        rows: as many texts as there are columns.
        sources: files below benchmarks/results.
        command: what repeats it.
        title: what the table shows.
        note: how it was measured.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    sources: Sequence[str]
    command: str
    title: str = ""
    note: str = ""

    def markdown(self) -> str:
        """The table with its title above, and date, commit, machine and command below it."""
        above = f"**{self.title}.** {self.note}".strip() if self.title else self.note
        if not self.rows:
            return f"{above}\n\nNo result is kept yet. `{self.command}` makes one.".strip()
        lines = [f"| {' | '.join(self.columns)} |", "|" + "---|" * len(self.columns)]
        lines += [f"| {' | '.join(map(_unbroken, row))} |" for row in self.rows]
        origins = "\n".join(_origin(name, self.command) for name in self.sources)
        return "\n\n".join(part for part in (above, "\n".join(lines), origins) if part)


def read(name: str) -> Any:
    """The content of a file below benchmarks/results."""
    _USED.add(name)
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def matching(pattern: str) -> list[str]:
    """Names of the files below benchmarks/results that a pattern matches."""
    return sorted(path.name for path in RESULTS.glob(pattern))


def unused() -> list[str]:
    """Files below benchmarks/results that no table has read."""
    return [name for name in matching("*.json") if name not in _USED]


def number(value: Any, form: Callable[[float], str] | str = ".3f") -> str:
    """A number as a text, an en dash for none."""
    if value is None or isinstance(value, str):
        return value or "–"
    return form(value) if callable(form) else format(value, form)


def percent(value: float | None, form: str = ".0f") -> str:
    return "–" if value is None else f"{format(100 * value, form)} %"


def grouped(value: float) -> str:
    """A whole number with blanks between thousands."""
    return f"{value:,.0f}".replace(",", " ")


def _unbroken(cell: str) -> str:
    """A cell of numbers with spaces that no line breaks at."""
    return cell.replace(" ", "\u00a0") if _NUMBERS.fullmatch(cell) else cell


def _origin(name: str, command: str) -> str:
    """A line on one file: date, commit, machine, command; of runs that differ all of each."""
    runs = _environments(json.loads((RESULTS / name).read_text(encoding="utf-8")))
    repeat = [run["command"] for run in runs if run.get("command")] or [command]
    commands = ", ".join(f"`{each}`" for each in dict.fromkeys(repeat) if each != "not kept")
    facts = [
        f"`benchmarks/results/{name}`",
        f"date: {_all(run.get('date') for run in runs)}",
        f"commit: {_all(run.get('commit') for run in runs)}",
        f"machine: {_all(map(_machine, runs))}",
        f"command: {commands or NOT_RECORDED}",
    ]
    return f"<sub>{'; '.join(facts)}.</sub>"


def _all(values: Iterable[str | None]) -> str:
    """Each different value once, those that are not recorded last."""
    found = sorted({value or NOT_RECORDED for value in values}, key=lambda value: (value == NOT_RECORDED, value))
    return " and ".join(found)


def _environments(content: Any) -> list[dict[str, Any]]:
    """The environment of a file as a whole, or those of its runs, empty where none was kept; at least one."""
    if isinstance(content, dict):
        if isinstance(content.get("environment"), dict):
            return [content["environment"]]
        content = list(content.values())
    runs = [part.get("environment") or {} for part in content if isinstance(part, dict)]
    return runs or [{}]


def _machine(found: dict[str, Any]) -> str | None:
    if found.get("machine"):
        return str(found["machine"])
    if not found.get("processor"):
        return None
    cores = f"{found['cores']} cores, {found['threads']} threads"
    gpu = f", {found['gpu']}" if found.get("gpu") else ""
    return f"{found['processor']}, {cores}{gpu}, Python {found['python']}, torch {found['torch']}"
