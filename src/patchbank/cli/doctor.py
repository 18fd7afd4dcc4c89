"""`patchbank doctor`: what this machine has, and which backends are active."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from patchbank.cli import options as o
from patchbank.cli.choices import QUALITIES
from patchbank.cli.console import say
from patchbank.cli.detectors import at_quality
from patchbank.cli.features import feature_lines, features


def doctor(
    images: Annotated[
        Path | None,
        typer.Argument(help="A folder of images, or a dataset: what size of defect is seen in them."),
    ] = None,
    device: o.Device = "auto",
    threads: o.Threads = None,
    as_json: o.Json = False,
) -> None:
    """Say what this machine has, what will be used, and what is missing for which feature. Exits with 1 where the
    default backbone cannot run."""
    facts = examine(device) | ({} if images is None else _seen_in(images))
    optional = features()
    if as_json:
        say(json.dumps({**facts, "features": optional}))
    else:
        for key, value in facts.items():
            say(f"{key:24} {value if value is not None else '–'}")
        say("\nOptional features:")
        for line in feature_lines(optional):
            say(line)
    raise typer.Exit(0 if facts["default_backbone"].startswith("works") else 1)


_LOOKED_AT = 200  # images


def examine(wanted: str = "auto") -> dict[str, Any]:
    """Environment, memory, engine in use, and whether the default backbone gives features on a device."""
    from patchbank._system.environment import environment, package_version
    from patchbank._system.ram import available_bytes
    from patchbank.features.backbones import engines
    from patchbank.methods import PatchCore

    device = PatchCore(device=wanted).torch_device
    return {
        **environment(),
        "free_memory_gb": round(available_bytes() / 1e9, 1),
        f"device_for_{wanted}": str(device),
        "engines": ", ".join(r for r in engines.RUNTIMES[1:] if engines.is_available(r)),
        "engine_for_auto": engines.choose(device, "auto"),
        "search_for_auto": "pruned, or blocked where bounds exclude little" if device.type == "cpu" else "blocked",
        "timm": package_version("timm"),
        "transformers": package_version("transformers"),
        "default_backbone": _try_default(device),
    }


def _seen_in(folder: Path) -> dict[str, Any]:
    """How images of a folder would be inspected at each quality, and the smallest defect to rely on."""
    from collections import Counter

    from patchbank.cli.console import Failures
    from patchbank.data import Geometry, ValueRange, gather, image_size
    from patchbank.data.datasets import open_dataset
    from patchbank.features.resolution import resolution_of
    from patchbank.registry import create
    from patchbank.sample import RGB_CHANNEL

    failures = Failures()
    samples = gather(open_dataset(folder, on_error=failures).train, failures)[:_LOOKED_AT]
    usual = Counter(image_size(sample) for sample in samples).most_common(1)[0][0]
    found: dict[str, Any] = {"images": f"{len(samples)} looked at, most of {usual[0]}×{usual[1]} pixels"}
    for quality in QUALITIES:
        model = create(at_quality("patchcore", quality)).parts()[-1]
        size = model.option("image_size")
        zoom = model.zoom_of(samples, ValueRange(), (RGB_CHANNEL,))
        seen = resolution_of(Geometry("whole", size, zoom=zoom), usual, model.option("enlarge"))
        found[f"quality_{quality}"] = seen.sentence(suggests=quality == "balanced")
    return found


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
