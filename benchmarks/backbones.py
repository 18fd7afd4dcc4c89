"""Images per second of each backbone in each runtime: `python -m benchmarks.backbones`.

224×224, levels 2 and 3, no patches made of the maps; random weights where the pretrained ones are not in a package.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from benchmarks.record import environment
from patchbank.features.backbones import list_backbones, open_backbone
from patchbank.features.backbones.engines import RUNTIMES, is_available

RESULTS = Path(__file__).parent / "results" / "backbones.json"
BATCHES = (1, 32)


def images_per_second(name: str, runtime: str, batch: int, seconds: float) -> float:
    """Median over as many calls as fit into the time, at least three, after one to warm up."""
    backbone = open_backbone(name, runtime=runtime, weights=None if name.startswith("efficientnet") else "random")
    images = 255 * torch.rand(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    times, begun = [], time.perf_counter()
    while len(times) < 4 or time.perf_counter() - begun < seconds:
        started = time.perf_counter()
        backbone(images)
        times.append(time.perf_counter() - started)
    return batch / statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backbones", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each cell")
    parser.add_argument("--only", default="", help="backbones whose name contains this")
    arguments = parser.parse_args()
    runtimes = [runtime for runtime in RUNTIMES[1:] if is_available(runtime)]
    print("| backbone | " + " | ".join(f"{r}, {b}" for r in runtimes for b in BATCHES) + " |")
    print("|---|" + "---|" * len(runtimes) * len(BATCHES))
    table = {}
    for spec in [s for s in list_backbones() if arguments.only in s.name]:
        table[spec.name] = {
            f"{runtime}, {batch}": round(images_per_second(spec.name, runtime, batch, arguments.seconds), 1)
            for runtime in runtimes
            for batch in BATCHES
        }
        print(f"| {spec.name} | " + " | ".join(f"{v:.3g}" for v in table[spec.name].values()) + " |", flush=True)
    text = json.dumps({"environment": environment(), "images_per_second": table}, indent=2)
    if not arguments.only:  # the file holds whole runs
        RESULTS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
