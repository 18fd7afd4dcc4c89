"""Defects planted among the good training images: how many an audit finds, and what leaving them out brings.

`python -m benchmarks.contamination ROOT`; PatchCore at 224 pixels. The planted images leave the test set.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.record import environment
from patchbank import PatchCore
from patchbank.audit import audit
from patchbank.data.datasets import GOOD, open_dataset
from patchbank.evaluation.evaluate import evaluate

RESULTS = Path(__file__).parent / "results"


def run(root: Path, share: float, seed: int, threads: int | None) -> dict[str, float]:
    dataset = open_dataset(root, seed=seed)
    defects = [sample for sample in dataset.test if sample.defect != GOOD]
    count = round(share * len(dataset.train) / (1 - share))  # the planted are that share of all
    drawn = set(np.random.default_rng(seed).choice(len(defects), count, replace=False).tolist())
    planted = {str(sample.path) for i, sample in enumerate(defects) if i in drawn}
    test = replace(dataset, test=tuple(s for s in dataset.test if str(s.path) not in planted))
    train = sorted([*map(str, dataset.train), *planted])
    contaminated = PatchCore(image_size=224, threads=threads)
    found = audit(train, contaminated)
    first = [suspect.image for suspect in found.ranked[:count]]
    dropped = {suspect.image for suspect in found.suspicious}
    cleaned = PatchCore(image_size=224, threads=threads).fit([p for p in train if p not in dropped])
    clean = PatchCore(image_size=224, threads=threads).fit(list(dataset.train))
    scores = {
        name: evaluate(model, test, pictures=False).metrics["image_auroc"]
        for name, model in (("contaminated", contaminated), ("dropped", cleaned), ("clean", clean))
    }
    return {
        "share": share, "images": len(train), "planted": count, "in_first": len(planted & set(first)),
        "suspicious": len(dropped), "planted_suspicious": len(planted & dropped), **scores,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contamination", description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--shares", default="0.02,0.05,0.1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    rows = []
    for share in map(float, arguments.shares.split(",")):
        rows.append(run(arguments.root, share, arguments.seed, arguments.threads))
        print(json.dumps(rows[-1]), flush=True)
    document = {"rows": rows, "environment": environment()}
    name = f"contamination-{arguments.root.name}.json"
    (RESULTS / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
