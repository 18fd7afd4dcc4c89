"""`patchbank datasets`: which layouts are read, and where the public datasets are."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from patchbank.cli import options as o


def datasets(as_json: o.Json = False) -> None:
    """List the layouts that are read, and the public datasets: where to get them, their terms, how to lay them out."""
    from patchbank.datasets.public import PUBLIC, TREES

    if as_json:
        typer.echo(json.dumps({"layouts": TREES, "datasets": [asdict(dataset) for dataset in PUBLIC]}))
        return
    typer.echo("Layouts (recognised, or --layout):")
    for layout, tree in TREES.items():
        typer.echo(f"  {layout:8} {tree}")
    for dataset in PUBLIC:
        typer.echo(f"\n{dataset.name} ({dataset.layout} layout): {dataset.source}")
        typer.echo(f"  terms: {dataset.terms}")
        typer.echo(f"  {dataset.note}:")
        for path in dataset.tree:
            typer.echo(f"    {path}")
