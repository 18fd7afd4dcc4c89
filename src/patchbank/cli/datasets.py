"""`patchbank datasets`: which layouts are read, and where the public datasets are."""

from __future__ import annotations

import json
from dataclasses import asdict

from patchbank.cli import options as o
from patchbank.cli.console import say


def datasets(as_json: o.Json = False) -> None:
    """List the layouts that are read, and the public datasets: where to get them, their terms, how to lay them out."""
    from patchbank.data.datasets.public import PUBLIC, TREES

    if as_json:
        say(json.dumps({"layouts": TREES, "datasets": [asdict(dataset) for dataset in PUBLIC]}))
        return
    say("Layouts (recognised, or --layout):")
    for layout, tree in TREES.items():
        say(f"  {layout:8} {tree}")
    for dataset in PUBLIC:
        say(f"\n{dataset.name} ({dataset.layout} layout): {dataset.source}")
        say(f"  terms: {dataset.terms}")
        say(f"  {dataset.note}:")
        for path in dataset.tree:
            say(f"    {path}")
