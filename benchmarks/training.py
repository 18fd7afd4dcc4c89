"""Methods that learn weights beside PatchCore, and each of them together with it, on labelled sets.

    python -m benchmarks.training ../shared/data --sets hazelnut_toy,tire --methods "patchcore simplenet" --out x.json
    python -m benchmarks.training ../shared/data --out x.json --table

Each method learns once for each set and seed, at its defaults, in a process of its own, so that its peak of memory is
its own; what is in the file already is not run again. Scores of all test images are kept, so that a PatchCore and
another method can be fused afterwards: the mean of their scores, each standardised by its calibration, as `Ensemble`
has it.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.__main__ import recall_at
from benchmarks.record import environment
from patchbank.calibration.calibration import standardised
from patchbank.data.datasets import GOOD, Dataset, open_dataset
from patchbank.evaluation.evaluate import evaluate
from patchbank.methods import create
from patchbank.metrics.image import auroc

SETS = ("hazelnut_toy", "tire", "mtd", "cubes", "elpv", "bsd")
RATE = 0.01  # of false alarms, at which recall is counted
KEPT = (
    "image_auroc", "pixel_auroc", "aupro", "false_alarm_rate", "recall_at_threshold", "latency_ms_p50", "bank_mb",
    "peak_rss_mb",
)  # fmt: skip


def apart(*given: Any) -> dict[str, Any]:
    """`one`, in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(one, *given).result()


def one(dataset: Dataset, name: str, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """The figures of one method on one set, with the scores of the test images and of the calibration."""
    warnings.simplefilter("ignore")
    started = time.perf_counter()
    model = create(name, seed=seed, thumbnails_mb=0, **options).fit(dataset.train)
    minutes = (time.perf_counter() - started) / 60
    found = evaluate(model, dataset, pictures=False)
    labels = np.array([case.defect != GOOD for case in found.cases])
    scores = np.array([case.score for case in found.cases])
    return {
        **{key: found.metrics.get(key) for key in KEPT},
        "recall_at_1": recall_at(scores[~labels], scores[labels], RATE),
        "fit_minutes": minutes,
        "max_minutes": options.get("max_minutes"),
        "how": model.calibration_.how,
        "scores": scores.tolist(),
        "labels": labels.tolist(),
        "good_scores": model.calibration_.scores.tolist(),
        "environment": environment(),
    }


def fused(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Image AUROC and recall of the mean of two methods' standardised scores."""
    labels = np.array(a["labels"], dtype=bool)
    both = [standardised(np.array(each["scores"]), np.array(each["good_scores"])) for each in (a, b)]
    scores = np.mean(both, axis=0)
    return {
        "image_auroc": float(auroc(labels, scores)),
        "recall_at_1": recall_at(scores[~labels], scores[labels], RATE),
    }


def rows(results: dict[str, Any], sets: list[str]) -> list[str]:
    """A table of all methods and of each together with PatchCore; the mean over seeds."""
    lines = ["| method | " + " | ".join(sets) + " | mean | recall at 1 % |", "|---" * (len(sets) + 3) + "|"]
    names = sorted({key.split("/")[1] for key in results})
    seeds = sorted({key.split("/")[2] for key in results})

    def line(label: str, found: list[list[dict[str, Any]]]) -> None:
        if all(found):
            by_set = [np.mean([each["image_auroc"] for each in of_set]) for of_set in found]
            recall = np.mean([np.mean([each["recall_at_1"] for each in of_set]) for of_set in found])
            cells = [f"{value:.3f}" for value in (*by_set, np.mean(by_set), recall)]
            lines.append(f"| {label} | " + " | ".join(cells) + " |")

    for name in names:
        keys = [[f"{each}/{name}/{seed}" for seed in seeds] for each in sets]
        line(name, [[results[key] for key in of_set if key in results] for of_set in keys])
        if name != "patchcore":
            pairs = [[(key, key.replace(f"/{name}/", "/patchcore/")) for key in of_set] for of_set in keys]
            line(
                f"patchcore + {name}",
                [[fused(results[b], results[a]) for a, b in p if a in results and b in results] for p in pairs],
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("root", type=Path, help="the folder of the sets")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--methods", default="patchcore simplenet", help='such as "patchcore simplenet"')
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--max-minutes", type=float, help="of each training")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="print what is there, and run nothing")
    given = parser.parse_args()
    results: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    sets = given.sets.split(",")
    if given.table:
        print("\n".join(rows(results, sets)))
        return
    for name in sets:
        dataset = open_dataset(given.root / name)
        for method in given.methods.split():
            for seed in map(int, given.seeds.split(",")):
                if (key := f"{name}/{method}/{seed}") in results:
                    continue
                options: dict[str, Any] = {"threads": given.threads}
                if given.max_minutes is not None and method != "patchcore":
                    options["max_minutes"] = given.max_minutes
                results[key] = apart(dataset, method, seed, options)
                given.out.write_text(json.dumps(results, indent=1))
                shown = {k: round(v, 4) for k, v in results[key].items() if isinstance(v, float)}
                print(key, shown, flush=True)


if __name__ == "__main__":
    main()
