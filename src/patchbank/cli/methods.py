"""`patchbank methods`: what there is to choose from, and what it costs."""

from __future__ import annotations

import json

import typer

from patchbank.cli import options as o


def methods(as_json: o.Json = False) -> None:
    """List the methods: what each computes, what it needs, what it was measured to cost."""
    from patchbank.detectors import DETECTORS

    rows = [{"name": name, "computes": d.summary, "needs": d.needs, "cost": d.cost} for name, d in DETECTORS.items()]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        typer.echo(f"{row['name']:12} {row['computes']}")
        typer.echo(f"{'':12} needs {row['needs']}; {row['cost']}")
    typer.echo("costs: 210 photographs of 600×800 pixels at 384×512, 2 CPU cores (docs/choosing.md has more)")
