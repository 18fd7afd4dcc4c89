"""`python -m benchmarks.gpu`: the engine on a GPU, beside the literal torch form on the same GPU.

`limit` is the time of the arithmetic alone, at the rate of one large float32 matrix product measured in the same run.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.__main__ import drawn
from benchmarks.baselines import greedy_loop
from benchmarks.record import environment
from patchbank import PatchCore
from patchbank.memory.coreset.farthest_first import farthest_first, row_norms
from patchbank.memory.search import make_index

RESULTS = Path(__file__).parents[1] / "results" / "gpu.json"
Row = dict[str, Any]


def timed(function: Callable[[], object], repeats: int = 3) -> float:
    """Median seconds, after one call to warm up, the device's queue empty before and after."""
    function()
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        started = time.perf_counter()
        function()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def flops_per_second() -> float:
    """Of a float32 matrix product of 8192 × 8192."""
    a = torch.randn(8192, 8192, device="cuda")
    return 2 * 8192**3 / timed(lambda: a @ a)


def drawn_points(n: int, d: int) -> torch.Tensor:
    """Points that vary in a few directions much more than in the rest, as features do."""
    generator = torch.Generator("cuda").manual_seed(0)
    return torch.randn(n, d, generator=generator, device="cuda") * torch.logspace(1, -1, d, device="cuda")


def coreset(rate: float) -> Row:
    """1 000 000 × 128 to 1 %."""
    points, steps = drawn_points(1_000_000, 128), 200
    start = int(row_norms(points).argmax())
    literal = timed(lambda: greedy_loop(points, start, steps)) * 10_000 / steps
    ours = timed(lambda: farthest_first(points, 10_000, row_norms(points)), repeats=1)
    return {"literal_s": literal, "patchbank_s": ours, "limit_s": 2e6 * 10_000 * 128 / rate}


def search(rate: float) -> Row:
    """100 000 queries × 100 000 × 1 024."""
    queries, bank = drawn_points(100_000, 1024), drawn_points(100_000, 1024).flip(0)
    index = make_index(bank)
    blocks = torch.split(queries, 10_000)  # the whole matrix would take 40 GB
    literal = timed(lambda: [torch.cdist(block, bank).min(1) for block in blocks])
    ours = timed(lambda: [index.nearest(block) for block in blocks])
    return {"literal_s": literal, "patchbank_s": ours, "limit_s": 2e10 * 1024 / rate}


def images(precision: str) -> Row:
    """Images per second end to end, WideResNet50 with random weights."""
    parts = drawn(64)
    model = PatchCore(backbone="wide_resnet50", weights="random", device="cuda", image_size=224, precision=precision)
    model.fit(parts[:32])
    seconds = timed(lambda: list(model.predict_many(parts)))
    network = model.extractor.backbone
    batch = torch.from_numpy(np.stack(parts[:16]).transpose(0, 3, 1, 2)).float()
    return {"images_per_second": 64 / seconds, "network_alone": 16 / timed(lambda: network(batch))}


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA GPU here: nothing to measure")
    rate = flops_per_second()
    rows = {"coreset, 1 000 000 × 128, 1 %": coreset(rate), "search, 100 000 × 100 000 × 1 024": search(rate)}
    for precision in ("float32", "bfloat16", "float16"):
        rows[f"images, wide_resnet50, {precision}"] = images(precision)
    for name, row in rows.items():
        print(f"{name:40}", ", ".join(f"{key} {value:.4g}" for key, value in row.items()))
    document = {"environment": environment(), "teraflops_measured": rate / 1e12, "rows": rows}
    RESULTS.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
