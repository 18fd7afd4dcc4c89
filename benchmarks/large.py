"""A fit of 20 000 images under a budget of 4 GiB, end to end: `python -m benchmarks.large`.

The images are the demo's woven parts, drawn at 224×224 into a folder (`--folder` keeps it for the next run). Each plan
runs in a process of its own; its peak is what the system says of that process, file pages in use included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.record import environment
from patchbank.demo.synthetic import draw

RESULTS = Path(__file__).parent / "results" / "large.json"


def write_parts(folder: Path, count: int) -> None:
    """Good parts 0 to count, those that are not there yet."""

    def write(i: int) -> None:
        path = folder / f"{i:06}.jpg"
        if not path.exists():
            image = draw("weave", None, np.random.default_rng([7, i]))[0][:224, :224]
            Image.fromarray(image).save(path, quality=92)

    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(count)))


def fit(folder: Path, budget: str, *options: str) -> dict[str, Any]:
    """Seconds by stage, and the peak of the process."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "patchbank", "fit", str(folder), "-o", f"{out}/m.patchbank", "--json"]
        command += ["--memory-budget", budget, *options]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        stdout, stderr = process.stdout.read(), process.stderr.read()  # type: ignore[union-attr]
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
    if status:
        raise SystemExit(stderr)
    summary = json.loads(stdout)
    return {
        "options": " ".join(options), "budget": budget, "plan": stderr.strip(), "images": summary["images"],
        "patches": summary["patches"], "bank_vectors": summary["bank_vectors"],
        "covering_radius": summary["covering_radius"], "threshold": summary["threshold"],
        "peak_gib": usage.ru_maxrss / 2**20, "seconds": seconds, "fit_seconds": summary["fit_seconds"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large", description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, help="where the drawn parts are, or go")
    parser.add_argument("--budget", default="4GiB")
    parser.add_argument("--plans", default="disk,stream", help="which of the two")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        write_parts(folder, arguments.images)
        rows = []
        for plan in arguments.plans.split(","):
            rows.append(fit(folder, arguments.budget, *(("--streaming",) if plan == "stream" else ())))
            print(json.dumps(rows[-1]), flush=True)
    RESULTS.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
