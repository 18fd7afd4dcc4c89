"""`patchbank compare`: which differences between two evaluations of the same images are real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from patchbank._system.files import write_csv, write_text
from patchbank.cli import options as o
from patchbank.cli.console import note, say
from patchbank.cli.outputs import check_folder

_NAMES = {"dataset": "dataset", "a": "A", "b": "B"}
_COLUMNS = {
    "metric": "metric",
    "value_a": "value A",
    "value_b": "value B",
    "difference": "A − B",
    "difference_low": "from",
    "difference_high": "to",
    "p_value_holm": "p, corrected",
    "test": "test",
    "verdict": "verdict",
}


def compare(
    a: Annotated[Path, typer.Argument(help="A folder that `evaluate` or `benchmark` wrote.")],
    b: Annotated[
        Path | None, typer.Argument(help="Another; without it, the cells of the first with each other.")
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option("-O", "--output-dir", help="Folder for compare.csv, compare.md and compare.tex.")
    ] = None,
    as_json: o.Json = False,
) -> None:
    """Compare two results on the same images: each difference, its interval, and whether it could be chance."""
    if output_dir is not None:
        check_folder(output_dir)
    from patchbank.evaluation.compare import Row, pairs
    from patchbank.evaluation.compare import compare as run
    from patchbank.evaluation.scores import read_results
    from patchbank.evaluation.tables import aligned, latex, markdown

    first = read_results(a)
    second = read_results(b) if b is not None else first
    chosen = pairs(first, second)
    alone = {each.folder for each in [*first, *second]} - {each.folder for pair in chosen for each in pair}
    if alone:
        note(f"without a partner, left out: {', '.join(sorted(folder.name for folder in alone))}")
    found = run(chosen)
    rows = [row.to_dict() for row in found]
    if output_dir is not None:
        write_csv(output_dir / "compare.csv", list(Row.__dataclass_fields__), rows)
        write_text(output_dir / "compare.md", markdown(rows, _NAMES | _COLUMNS))
        write_text(output_dir / "compare.tex", latex(rows, _NAMES | _COLUMNS))
    if as_json:
        say(json.dumps({"rows": rows}))
        return
    for dataset, one, other in dict.fromkeys((row.dataset, row.a, row.b) for row in found):
        group = [row for row in found if (row.dataset, row.a, row.b) == (dataset, one, other)]
        say(f"{dataset}, {group[0].images} images: A = {one}, B = {other}")
        say(aligned([row.to_dict() for row in group], _COLUMNS))
    say("real: p ≤ 0.05 after Holm's correction for all rows; otherwise the difference could be chance")
