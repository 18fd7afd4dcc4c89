"""`patchbank methods`: what there is to choose from, and what it costs."""

from __future__ import annotations

import json

from patchbank.cli import options as o
from patchbank.cli.console import say


def methods(as_json: o.Json = False) -> None:
    """List the methods: what each computes, what it needs, what it costs."""
    from patchbank.methods import METHODS

    rows = [{"name": name, "computes": d.summary, "needs": d.needs, "cost": d.cost} for name, d in METHODS.items()]
    if as_json:
        say(json.dumps(rows))
        return
    for row in rows:
        say(f"{row['name']:12} {row['computes']}")
        cost = f"; {row['cost']}" if row["cost"] else ""
        say(f"{'':12} needs {row['needs']}{cost}")
    say("Measured times and sizes: docs/experiments/methods.md")
