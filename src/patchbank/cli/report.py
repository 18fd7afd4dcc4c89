"""`patchbank report`: the report of a benchmark made anew from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    output: Annotated[Path, typer.Argument(help="A folder that `patchbank benchmark` wrote.")],
) -> None:
    """Compare all finished cells of a benchmark folder in one page: report.html, made anew; nothing is run."""
    from patchbank.report.grid import write_grid_report

    typer.echo(f"report: {write_grid_report(output)}")
