"""`patchbank report`: the report of a benchmark made anew from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patchbank.cli.console import say
from patchbank.cli.outputs import check_file


def report(
    output: Annotated[Path, typer.Argument(help="A folder that `patchbank benchmark` wrote.")],
) -> None:
    """Compare all finished cells of a benchmark folder in one page: report.html, made anew; nothing is run."""
    if output.is_dir():
        check_file(output / "report.html", "the report", "the folder")
    from patchbank.report.grid import write_grid_report

    say(f"report: {write_grid_report(output)}")
