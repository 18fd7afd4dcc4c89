"""`patchbank doctor`: what this machine has, and which backends are active."""

from __future__ import annotations

import json
from typing import Any

import typer

from patchbank.cli import options as o
from patchbank.cli.console import say


def doctor(as_json: o.Json = False) -> None:
    """Say what this machine has and what will be used. Exits with 1 where the default backbone cannot run."""
    facts = examine()
    if as_json:
        say(json.dumps(facts))
    else:
        for key, value in facts.items():
            say(f"{key:24} {value if value is not None else '–'}")
    raise typer.Exit(0 if facts["default_backbone"].startswith("works") else 1)


def examine() -> dict[str, Any]:
    """Environment, memory, runtime in use, and whether the default backbone gives features."""
    import torch

    from patchbank._system.environment import environment, package_version
    from patchbank._system.ram import available_bytes
    from patchbank.features.backbones import engines

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        **environment(),
        "free_memory_gb": round(available_bytes() / 1e9, 1),
        "device_for_auto": str(device),
        "runtimes": ", ".join(r for r in engines.RUNTIMES[1:] if engines.is_available(r)),
        "runtime_for_auto": engines.choose(device, "auto"),
        "search_for_auto": "pruned, or blocked where bounds exclude little" if device.type == "cpu" else "blocked",
        "timm": package_version("timm"),
        "transformers": package_version("transformers"),
        "default_backbone": _try_default(device),
    }


def _try_default(device: Any) -> str:
    import torch

    from patchbank.features.backbones import open_backbone
    from patchbank.methods import PatchCore

    name = PatchCore().backbone
    try:
        maps = open_backbone(name, device=device)(torch.zeros(1, 3, 64, 64))
    except Exception as error:  # whatever is broken on this machine, the doctor says it and goes on
        return f"{name} fails: {error}"
    return f"works: {name}, {len(maps)} levels"
