"""What a record costs in SQLite and in PostgreSQL; and load on one service with SQLite, one with PostgreSQL, and two
that share PostgreSQL, with nothing lost.

`python -m benchmarks.stations POSTGRESQL MODEL IMAGE… [--requests 200]` takes the address of an empty database on this
machine, and takes the settings in turns, `--rounds` times (0: records alone).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import environment
from benchmarks.service import load, serving
from patchbank._system.files import write_text
from patchbank.service.history import History
from patchbank.service.records import Record

CLIENTS = 8  # of each service
SETTINGS = (("SQLite", 1), ("PostgreSQL", 1), ("PostgreSQL", 2))
RESULTS = Path(__file__).parent / "results" / "stations.json"


@contextlib.contextmanager
def stations(model: Path, history: str, count: int) -> Iterator[list[str]]:
    """The addresses of so many services; `history` is the address of a database, or empty for SQLite."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        kept = ["--history", history, "--images", folder] if history else ["--history", str(Path(folder, "history"))]
        yield [stack.enter_context(serving([str(model), *kept])) for _ in range(count)]


def measure(model: Path, images: list[bytes], history: str, count: int, requests: int) -> list[dict[str, Any]]:
    """What each service does while all are under load."""
    with stations(model, history, count) as addresses, ThreadPoolExecutor(count) as pool:
        list(pool.map(lambda one: load(one, model.stem, images, 4, 8), addresses))  # what is compiled at first
        return list(pool.map(lambda one: load(one, model.stem, images, CLIENTS, requests), addresses))


def summary(name: str, count: int, runs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """The median over the rounds; requests are added up over the services, latencies are their mean."""

    def median(value: Any) -> float:
        return float(np.median([value(run) for run in runs]))

    return {
        "history": name, "services": count, "clients": CLIENTS, "rounds": len(runs),
        "requests_per_second": median(lambda run: sum(row["requests_per_second"] for row in run)),
        **{f"{p}_ms": median(lambda run, p=p: np.mean([row[f"{p}_ms"] for row in run])) for p in ("p50", "p95", "p99")},
        **{k: sum(row[k] for run in runs for row in run) for k in ("answered", "refused", "lost")},
    }  # fmt: skip


def recording(address: str, image: bytes, together: int, rounds: int = 200) -> dict[str, Any]:
    """Milliseconds until so many records of a group are durable, both histories in turns: a median."""
    from patchbank.service.stations.history import SharedHistory
    from patchbank.service.stations.images import FolderImages

    with tempfile.TemporaryDirectory() as folder:
        kept = 10**9
        histories = {
            "SQLite": History(Path(folder, "history"), kept),
            "PostgreSQL": SharedHistory(address, FolderImages(Path(folder, "images")), kept),
        }
        took: dict[str, list[float]] = {name: [] for name in histories}
        for _ in range(rounds):
            for name, history in histories.items():
                records = [record(image) for _ in range(together)]
                started = time.perf_counter()
                history.record(records)
                took[name].append(time.perf_counter() - started)
        for history in histories.values():
            history.close()
    return {"together": together, **{f"{name}_ms": 1e3 * float(np.median(found)) for name, found in took.items()}}


def record(image: bytes) -> Record:
    """An inspection with one region and an image."""
    return Record(
        at=time.time(), model="parts", version="0" * 12, name="part.png", score=1.0, p_value=0.5, threshold=2.0,
        map_threshold=2.0, is_anomalous=False, size=(256, 320), timings={"network_ms": 4.1}, image=image,
        regions=[{"box": [70, 40, 90, 60], "area": 400, "score": 49.7}], map_png=bytes(3000),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("history")
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    images = [path.read_bytes() for path in options.images]
    records = [recording(options.history, images[0], together) for together in (1, 8)]
    print("| records together | SQLite, ms | PostgreSQL, ms |", "|---|---|---|", sep="\n")
    for r in records:
        print(f"| {r['together']} | {r['SQLite_ms']:.1f} | {r['PostgreSQL_ms']:.1f} |", flush=True)
    runs: dict[tuple[str, int], list[list[dict[str, Any]]]] = {setting: [] for setting in SETTINGS}
    for _ in range(options.rounds):
        for name, count in SETTINGS:
            history = options.history if name == "PostgreSQL" else ""
            runs[name, count].append(measure(options.model, images, history, count, options.requests))
    rows = [summary(name, count, found) for (name, count), found in runs.items() if found]
    print("| history | services | requests/s | p50, ms | p95, ms | p99, ms | answered | refused | lost |")
    print("|---|---|---|---|---|---|---|---|---|")
    for r in rows:
        figures = " | ".join(f"{r[key]:.1f}" for key in ("requests_per_second", "p50_ms", "p95_ms", "p99_ms"))
        print(f"| {r['history']} | {r['services']} | {figures} | {r['answered']} | {r['refused']} | {r['lost']} |")
    write_text(RESULTS, json.dumps({"recording": records, "rows": rows, "environment": environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
