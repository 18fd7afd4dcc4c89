"""Rows of results as a Markdown table for people and a LaTeX table for papers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

# of a benchmark: column of results.csv → heading
SHOWN = {
    "dataset": "dataset", "label": "variant", "method": "method", "backbone": "backbone", "seed": "seed",
    "n_train": "trained on", "image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO",
    "false_alarm_rate": "false alarms", "recall_at_threshold": "recall", "fit_seconds": "fit, s",
    "latency_ms_p50": "one image, ms", "images_per_second": "images/s", "bank_mb": "bank, MB",
    "peak_rss_mb": "peak memory, MB",
}  # fmt: skip
_DIGITS = {"fit_seconds": 1, "latency_ms_p50": 1, "images_per_second": 1, "bank_mb": 1, "peak_rss_mb": 0}
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "–": "--", "−": "$-$", "×": r"$\times$", "±": r"$\pm$", "≤": r"$\leq$", "|": r"\textbar{}",
}  # fmt: skip


def markdown(rows: Sequence[Row], shown: Mapping[str, str] | None = None) -> str:
    """The rows as a Markdown table; `shown`: column → heading, those of a benchmark where it is None."""
    shown = shown or _of_benchmark(rows)
    lines = ["| " + " | ".join(shown.values()) + " |", "|" + "---|" * len(shown)]
    lines += ["| " + " | ".join(cell(row, key).replace("|", r"\|") for key in shown) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def latex(rows: Sequence[Row], shown: Mapping[str, str] | None = None) -> str:
    """The rows as a `tabular` in the manner of booktabs (`\\usepackage{booktabs}`), numbers to the right."""
    shown = shown or _of_benchmark(rows)
    columns = "".join("r" if right else "l" for right in _numeric(rows, shown))
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [" & ".join(map(escaped, shown.values())) + r" \\", r"\midrule"]
    for row in rows:
        cells = [escaped(cell(row, key)) for key in shown]
        lines.append(" & ".join(_with_minus(words) for words in cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _of_benchmark(rows: Sequence[Row]) -> Mapping[str, str]:
    """Its columns; variants where a preset has some."""
    return {key: name for key, name in SHOWN.items() if key != "label" or any(row["label"] for row in rows)}


def aligned(rows: Sequence[Row], shown: Mapping[str, str]) -> str:
    """The rows with blanks between the columns, for a terminal; numbers to the right."""
    table = [list(shown.values()), *([cell(row, key) for key in shown] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    right = _numeric(rows, shown)
    lines = [[c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)] for line in table]
    return "".join("  ".join(line).rstrip() + "\n" for line in lines)


def cell(row: Row, key: str) -> str:
    """A value in words; "–" for none."""
    value = row[key]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if not isinstance(value, float):
        return str(value)
    if key.startswith("p_value") and value < 0.001:
        return "< 0.001"
    return f"{value:.{_DIGITS.get(str(row.get('metric', key)), 3)}f}"


def _numeric(rows: Sequence[Row], shown: Mapping[str, str]) -> list[bool]:
    return [any(isinstance(row[key], (int, float)) for row in rows) for key in shown]


def _with_minus(words: str) -> str:
    return f"$-${words[1:]}" if words[:1] == "-" and words[1:2].isdigit() else words


def escaped(words: str) -> str:
    """Words in which LaTeX sees no command."""
    return "".join(_LATEX.get(character, character) for character in words)


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """One value per name: those of a nested document joined by "_", pairs of an interval named low and high; lists and
    what has no one value (notes, the environment, each kind of defect) are left out."""
    row: dict[str, Any] = {}
    for key, value in values.items():
        if key in ("notes", "environment", "per_defect"):
            continue
        if isinstance(value, Mapping):
            row |= {f"{key}_{inner}": each for inner, each in flat(value).items()}
        elif isinstance(value, (list, tuple)):
            if len(value) == 2 and all(isinstance(each, (int, float)) for each in value):
                row |= {f"{key}_low": value[0], f"{key}_high": value[1]}
        else:
            row[key] = value
    return row
