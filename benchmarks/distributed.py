"""`python -m benchmarks.distributed`: a greedy coreset over workers against that of one process, the same features.

What travels (bytes from and to all workers together), rounds, seconds, and the memory of a worker, for drawn features:
clusters with noise, as patch features have them. Indices and radius must be equal, or the run ends with an error.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import environment
from patchbank import PatchCore
from patchbank._system.threads import set_default
from patchbank.distributed import connect
from patchbank.distributed.cluster import ClusterFit
from patchbank.distributed.measure import measure
from patchbank.distributed.rates import Rates, Work, forecast
from patchbank.distributed.rows import Selections, ShardedRows
from patchbank.distributed.shard import FEATURES
from patchbank.memory.coreset.farthest_first import farthest_first, row_norms

RESULTS = Path(__file__).parent / "results"


def draw(rows: int, dimension: int, seed: int = 0) -> torch.Tensor:
    """rows×dimension: clusters whose spread falls from axis to axis."""
    rng = np.random.default_rng(seed)
    axes = (1 / np.sqrt(1 + np.arange(dimension))).astype("f4")
    centres = rng.standard_normal((64, dimension)).astype("f4") * axes * 3
    points = rng.standard_normal((rows, dimension)).astype("f4") * axes
    points += centres[rng.integers(0, len(centres), rows)]
    return torch.from_numpy(points)


def over_workers(cluster: ClusterFit, points: torch.Tensor, count: int) -> tuple[dict[str, Any], torch.Tensor, float]:
    """The row of the table, the indices and the radius."""
    crew, selections = cluster.crew, Selections()
    starts = [len(points) * worker // len(crew) for worker in range(len(crew) + 1)]
    before = crew.ask("private", [()] * len(crew))
    crew.tell("hold", [(points[a:b].clone(), a) for a, b in pairwise(starts)])
    rows = ShardedRows(crew, FEATURES, starts, points.shape[1], selections)
    started = time.perf_counter()
    indices, radius = rows.farthest_first(count, row_norms(rows), None, 0.0)  # type: ignore[arg-type]
    seconds = time.perf_counter() - started
    after, traffic = crew.ask("private", [()] * len(crew)), selections.traffic[0]
    return (
        {
            "workers": len(crew), "rounds": traffic.rounds, "up_mb": traffic.up / 1e6, "down_mb": traffic.down / 1e6,
            "features_mb": points.numel() * 4 / 1e6, "seconds": seconds,
            "worker_mb": max(after) / 1e6,
            "worker_grows_mb": max(b - a for a, b in zip(before, after, strict=True)) / 1e6,
        },
        indices,
        radius,
    )  # fmt: skip


def rates_together(count: int, dimension: int) -> Rates:
    """What each of some workers that share this machine does in a second, on average, while the others work too."""
    context = get_context("spawn")
    barrier = context.Barrier(count)
    with ProcessPoolExecutor(count, context, partial(barrier.wait, 300)) as pool:  # none begins before all are there
        found = list(pool.map(_rates, [dimension] * count))
    return Rates(**{name: float(np.mean([asdict(rates)[name] for rates in found])) for name in asdict(found[0])})


def _rates(dimension: int) -> Rates:
    return measure(PatchCore(image_size=96, threads=1), dimension)[0]


def main() -> None:
    """Print the table, and keep it with the other results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=156_800)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--workers", default="1,2,4")
    options = parser.parse_args()
    points, count = draw(options.rows, options.dimension), int(options.rows * options.share)
    set_default(1)  # as each worker
    farthest_first(points[:4096], 64, row_norms(points[:4096]))  # compiled
    started = time.perf_counter()
    alone = farthest_first(points, count, row_norms(points))
    seconds = time.perf_counter() - started
    print(f"{options.rows} × {options.dimension}, {count} kept; one process: {seconds:.1f} s", flush=True)
    rates = dict[int, Rates]()
    table = []
    for workers in map(int, options.workers.split(",")):
        with connect("local", workers) as cluster:
            over_workers(cluster, points[:4096].clone(), 64)  # compiled there too
            row, indices, radius = over_workers(cluster, points, count)
        if not torch.equal(indices, alone.indices) or radius != alone.radius:
            raise SystemExit(f"{workers} workers select other rows than one process")
        work, cores = Work(1, options.rows, options.dimension, count), os.cpu_count() or 1
        at_once = min(workers, cores)
        if at_once not in rates:
            rates[at_once] = rates_together(at_once, options.dimension)
        row["rates"] = asdict(rates[at_once])
        row["plan_s"] = forecast(work, workers, rates[at_once].shared(workers / at_once)).selection
        print(json.dumps(row), flush=True)
        table.append(row)
    found = {"environment": environment(), "rows": options.rows, "dimension": options.dimension, "kept": count}
    path = RESULTS / f"distributed-{options.rows}.json"
    path.write_text(json.dumps({**found, "alone_s": seconds, "table": table}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
