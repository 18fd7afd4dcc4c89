"""Load on a service of this machine: requests per second and latencies at 1, 8 and 32 clients, with nothing lost.

`python -m benchmarks.service MODEL IMAGE… [--requests 200] [--batch 1 16]` starts `patchbank serve` on 127.0.0.1 for
each setting, with a history in a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.record import environment
from patchbank._system.files import write_text

CLIENTS = (1, 8, 32)
RESULTS = Path(__file__).parent / "results" / "service.json"


def load(address: str, name: str, images: list[bytes], clients: int, requests: int) -> dict[str, Any]:
    """So many requests by so many clients, each sending its next one when it has its answer."""
    latencies: list[float] = []
    ids: list[int] = []
    refused = 0
    lock, numbers = threading.Lock(), iter(range(requests))

    def client() -> None:
        nonlocal refused
        with httpx.Client(base_url=address, timeout=60) as session:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                started = time.perf_counter()
                answer = session.post(
                    f"/v1/models/{name}/inspect",
                    content=images[number % len(images)],
                    headers={"content-type": "application/octet-stream"},
                )
                took = time.perf_counter() - started
                with lock:
                    if answer.status_code == 200:
                        latencies.append(took)
                        ids.append(answer.json()["results"][0]["id"])
                    else:
                        refused += 1

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(client) for _ in range(clients)]:
            done.result()
    seconds = time.perf_counter() - started
    with httpx.Client(base_url=address, timeout=60) as session:
        lost = sum(session.get(f"/v1/history/{id}").status_code != 200 for id in ids)
    p50, p95, p99 = (1e3 * np.quantile(latencies, [0.5, 0.95, 0.99])).tolist()
    return {
        "clients": clients, "requests": requests, "answered": len(ids), "refused": refused, "lost": lost,
        "requests_per_second": len(ids) / seconds, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99,
    }  # fmt: skip


@contextlib.contextmanager
def serving(arguments: list[str]) -> Iterator[str]:
    """The address of `patchbank serve` with these arguments, until the block ends."""
    command = [sys.executable, "-m", "patchbank", "serve", *arguments, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        found = re.search(r"http://\S+:\d+", process.stderr.readline())
        if found is None:
            sys.exit(f"patchbank serve did not start: {process.stderr.read()}")
        yield found.group()
    finally:
        process.terminate()
        process.wait(60)


def measure(model: Path, images: list[bytes], batch: int, requests: int) -> list[dict[str, Any]]:
    """A row for each number of clients."""
    with tempfile.TemporaryDirectory() as folder:
        history = str(Path(folder, "history.sqlite"))
        with serving([str(model), "--batch", str(batch), "--history", history]) as address:
            load(address, model.stem, images, 4, 8)  # what is compiled at first
            rows = [load(address, model.stem, images, clients, requests) for clients in CLIENTS]
    return [{"batch": batch, **row} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    options = parser.parse_args()
    images = [path.read_bytes() for path in options.images]
    rows = [row for batch in options.batch for row in measure(options.model, images, batch, options.requests)]
    print("| batch | clients | requests/s | p50, ms | p95, ms | p99, ms | answered | refused | lost |")
    print("|---|---|---|---|---|---|---|---|---|")
    for r in rows:
        figures = " | ".join(f"{r[key]:.1f}" for key in ("requests_per_second", "p50_ms", "p95_ms", "p99_ms"))
        print(f"| {r['batch']} | {r['clients']} | {figures} | {r['answered']} | {r['refused']} | {r['lost']} |")
    write_text(RESULTS, json.dumps({"rows": rows, "environment": environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
