"""A bank that took images in against one that was fitted to all of them: `python -m benchmarks.living ROOT`.

PatchCore at 224 pixels learns from seven tenths of the training images, takes the others in with `add`, then forgets
them again; beside it one fit of all of them, keeping as many patches as the grown bank.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import environment
from patchbank import PatchCore
from patchbank.data.datasets import Dataset, open_dataset
from patchbank.evaluation.evaluate import evaluate

RESULTS = Path(__file__).parent / "results"


def row(name: str, model: PatchCore, dataset: Dataset, seconds: float) -> dict[str, Any]:
    metrics = evaluate(model, dataset, pictures=False).metrics
    return {
        "bank": name, "vectors": len(model.bank_), "covering_radius": model.bank_.covering_radius, "seconds": seconds,
        **{key: metrics[key] for key in ("image_auroc", "pixel_auroc", "false_alarm_rate", "recall_at_threshold")},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.living", description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.root)
    order = np.random.default_rng(0).permutation(len(dataset.train))
    first, later = ([dataset.train[i] for i in sorted(part)] for part in np.split(order, [round(0.7 * len(order))]))
    options: dict[str, Any] = {"image_size": 224, "threads": arguments.threads, "calibration": "leave-one-out"}
    rows = []

    def timed(name: str, work: Any) -> PatchCore:
        started = time.perf_counter()
        model: PatchCore = work()
        rows.append(row(name, model, dataset, time.perf_counter() - started))
        print(json.dumps(rows[-1]), flush=True)
        return model

    model = timed(f"fitted to {len(first)}", lambda: PatchCore(**options).fit(first))
    timed(f"{len(later)} added", lambda: model.add(later))
    size = len(model.bank_)

    timed(f"{len(later)} forgotten again", lambda: model.forget([str(path) for path in later]))
    timed(f"fitted to {len(dataset.train)}", lambda: PatchCore(**options, bank_size=size).fit(list(dataset.train)))
    document = {"rows": rows, "environment": environment()}
    (RESULTS / f"living-{dataset.name}.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
