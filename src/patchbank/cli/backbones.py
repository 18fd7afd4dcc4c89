"""`patchbank backbones`: which networks there are, and where their weights are."""

from __future__ import annotations

import json

from patchbank.cli import options as o
from patchbank.cli.console import say


def backbones(as_json: o.Json = False) -> None:
    """List the backbones with the state of their weights."""
    from patchbank.features.backbones import list_backbones

    rows = []
    for spec in list_backbones():
        path = spec.weights.find()
        rows.append(
            {
                "name": spec.name,
                "levels": list(spec.levels),
                "default_levels": list(spec.default_levels),
                "weights": str(path) if path else None,
                "source": spec.weights.describe(),
            }
        )
    if as_json:
        say(json.dumps(rows))
        return
    for row in rows:
        state = "here" if row["weights"] else "to fetch"
        say(f"{row['name']:20} weights {state:9} {row['source']}")
    say("timm/<name>          any timm network       pip install patchbank[timm]")
    say("hf/<name-or-path>    any transformers one   pip install patchbank[hf]")
    say("dinov2_vit{s,b,l}14  DINOv2, the same       pip install patchbank[hf]")
