"""Milliseconds per image of the networks: `python -m benchmarks.backbones`."""

from __future__ import annotations

import statistics
import time

import torch

from patchbank.backbones import open_backbone

SIZES = ((224, 224), (256, 256), (320, 320), (384, 384), (384, 512))


def milliseconds(name: str, size: tuple[int, int], runtime: str, repeats: int = 15) -> float:
    """Median time of one image through the network at batch 1, levels 2 and 3, after two to warm up."""
    backbone = open_backbone(name, runtime=runtime, weights=None if name.startswith("efficientnet") else "random")
    image = torch.rand(1, 3, *size) * 255
    times = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        backbone(image)
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times[2:])


def main() -> None:
    print("| backbone | runtime | " + " | ".join(f"{h}×{w}" for h, w in SIZES) + " |")
    print("|---|---|" + "---|" * len(SIZES))
    lites = [f"efficientnet_lite{i}" for i in range(3)]
    for name, runtime in [*((n, "openvino") for n in lites), ("efficientnet_lite0", "torch"), ("resnet18", "openvino"),
                          ("wide_resnet50", "openvino")]:  # fmt: skip
        cells = [f"{milliseconds(name, size, runtime):.1f}" for size in SIZES]
        print(f"| {name} | {runtime} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
