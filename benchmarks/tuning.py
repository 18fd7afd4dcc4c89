"""How often `fit --tune` chooses better than the default, over all sets: `python -m benchmarks.tuning`.

    python -m benchmarks.tuning ../shared/data --cache FOLDER --out benchmarks/results/tuning.json

For each set and seed the options are chosen from good images alone, as `patchbank fit --tune` does. Then PatchCore
learns with the default and, where they differ, with the chosen options; both are judged by the labelled test images.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.__main__ import of_scores
from benchmarks.accuracy.distances import SETS, Split, split_of
from benchmarks.record import environment
from patchbank import PatchCore
from patchbank.data import gather
from patchbank.evaluation.tuning import tune


def judged(options: dict[str, Any], split: Split, threads: int | None) -> dict[str, float]:
    """Figures of a PatchCore with these options on the labelled test images."""
    model = PatchCore(**options, threads=threads, thumbnails_mb=0).fit(split.train)
    good, bad = (np.array([p.score for p in model.predict_many(paths)]) for paths in (split.good, split.bad))
    return of_scores(good, bad)


def run(split: Split, seed: int, threads: int | None) -> dict[str, Any]:
    """What tuning chooses on the good images of a split, why, and how it does beside the default."""
    started = time.perf_counter()
    found = tune(lambda **options: PatchCore(**options, threads=threads, seed=seed), gather(split.train), seed)
    row = {"options": found.options, "reason": found.reason, "seconds": time.perf_counter() - started}
    default = judged({"seed": seed}, split, threads)
    chosen = judged({"seed": seed, **found.options}, split, threads) if found.options else default
    return {**row, "default": default, "chosen": chosen}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tuning", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="the folder of the sets")
    parser.add_argument("--cache", type=Path, required=True, help="a folder for sets that are drawn")
    parser.add_argument("--sets", type=lambda t: t.split(","), default=list(SETS))
    parser.add_argument("--seeds", type=lambda t: [int(n) for n in t.split(",")], default=[0])
    parser.add_argument("--most", type=int, default=200, help="images to learn from, and defective ones to find")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    rows: dict[str, Any] = json.loads(given.out.read_text())["rows"] if given.out.exists() else {}
    for seed in given.seeds:
        for name in given.sets:
            if (key := f"{name}/{seed}") in rows:
                continue
            root = given.root if (given.root / name).is_dir() else given.cache
            row = rows[key] = run(split_of(root, name, 0, given.most), seed, given.threads)
            given.out.write_text(json.dumps({"environment": environment(), "most": given.most, "rows": rows}, indent=1))
            auc, chosen = row["default"]["image_auroc"], row["chosen"]["image_auroc"]
            print(f"{key}: {row['options'] or 'the default'}: {auc:.3f} -> {chosen:.3f}; {row['reason']}", flush=True)


if __name__ == "__main__":
    main()
