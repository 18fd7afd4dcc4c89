"""`python -m benchmarks.cluster_simulation`: a fit on 8 to 1 024 workers and 10⁴ to 10⁷ images, as discrete events.

The rates are those that `patchbank plan` measures. Unlike the plan, workers differ here: each is slower by a factor
that is drawn once, each call by another that is drawn anew, and workers are lost at random times. A lost worker starts
again, computes the features of its share anew and brings its bounds up to date with all centres so far; whoever waits
for it waits. Everything random is drawn from a seed.
"""

from __future__ import annotations

import argparse
import heapq
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.record import environment
from patchbank import PatchCore
from patchbank.distributed.measure import measure
from patchbank.distributed.rates import Rates, Work, forecast, round_seconds, rounds_of, setup_seconds

RESULTS = Path(__file__).parent / "results" / "cluster_simulation.json"


@dataclass(frozen=True)
class Cluster:
    """How its machines behave. `slower`, `noise`: standard deviations of the logarithms of a worker's lasting factor
    and of that of one call; `losses`: of one worker in an hour; `start`: seconds until a new one is there."""

    slower: float = 0.1
    noise: float = 0.15
    losses: float = 1 / (24 * 30)
    start: float = 30.0


class Simulation:
    """One fit."""

    def __init__(self, work: Work, workers: int, rates: Rates, cluster: Cluster, seed: int):
        self.work, self.workers, self.rates, self.cluster = work, workers, rates, cluster
        self.rng = np.random.default_rng(seed)
        self.factor = np.exp(self.rng.normal(0, cluster.slower, workers))
        self.next_loss = self.rng.exponential(3600 / cluster.losses, workers)
        self.lost = 0

    def _stage(self, now: float, seconds: float, calls: int, again: float) -> float:
        """All workers do work of `seconds` in some calls from now on; when the last is done. `again`: what a worker
        that is lost must make up for beside the call."""
        noise = np.exp(self.rng.normal(0, self.cluster.noise, (calls, self.workers))).mean(0) if calls < 100 else 1.0
        took = seconds * self.factor * noise
        events = [(now + each, worker) for worker, each in enumerate(took)]
        heapq.heapify(events)
        end = now
        while events:
            end, worker = heapq.heappop(events)
            if self.next_loss[worker] < end:
                self.lost += 1
                lost = max(self.next_loss[worker], now)
                self.next_loss[worker] = lost + self.rng.exponential(3600 / self.cluster.losses)
                anew = again * self.factor[worker] + took[worker]  # the call from its beginning
                heapq.heappush(events, (lost + self.cluster.start + anew, worker))
        return end

    def run(self) -> dict[str, float]:
        """Seconds by stage, and how many workers were lost."""
        plan = forecast(self.work, self.workers, self.rates)
        features = self._stage(0.0, plan.features, max(1, self.work.learned // self.workers // 8), plan.features / 2)
        rounds = rounds_of(self.work, self.workers, self.rates)
        worker, driver = round_seconds(self.work, self.workers, self.rates)
        now = features
        setup = setup_seconds(self.work, self.workers, self.rates)
        for _ in range(self.work.selections):
            now = self._stage(now, setup, 1, plan.features)
            for number in range(rounds):
                # the bounds of a new worker know of no centre: all rounds so far are made up for, at one go
                now = self._stage(now, worker, 1, plan.features + setup + worker * number) + driver
        end = self._stage(now, plan.calibration, 8, plan.features + worker * rounds)
        return {
            "features_s": features, "selection_s": now - features, "calibration_s": end - now, "seconds": end,
            "plan_s": plan.seconds, "rounds": rounds, "lost": self.lost, "worker_gb": plan.worker_bytes / 1e9,
            "up_gb": plan.up / 1e9, "down_gb": plan.down / 1e9,
        }  # fmt: skip


def main() -> None:
    """Print the table, and keep it with the other results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--image-size", type=int, default=224)
    options = parser.parse_args()
    rates, extractor = measure(PatchCore(image_size=options.image_size, threads=1))
    side = extractor.geometry.image_size
    rows, columns = extractor.grid(extractor.geometry.view(side, side))
    cluster, table = Cluster(), []
    print("   images workers  GB each rounds   up GB  down GB    plan s         s lost")
    for images in (10**4, 10**5, 10**6, 10**7):
        for workers in (8, 64, 256, 1024):
            work = Work(images, rows * columns, extractor.dimension, 10_000)
            found = Simulation(work, workers, rates, cluster, options.seed).run()
            table.append({"images": images, "workers": workers, **found})
            print(
                f"{images:9} {workers:7} {found['worker_gb']:8.2f} {found['rounds']:6} {found['up_gb']:7.2f} "
                f"{found['down_gb']:8.2f} {found['plan_s']:9.0f} {found['seconds']:9.0f} {found['lost']}"
            )
    facts = {"environment": environment(), "rates": asdict(rates), "cluster": asdict(cluster), "seed": options.seed}
    RESULTS.write_text(json.dumps({**facts, "table": table}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
