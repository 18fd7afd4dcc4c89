"""How many bad parts are found, over all real sets at once, for several settings of PatchCore.

    python -m benchmarks.accuracy ../shared/data --cache FOLDER --splits 0,1,2 --out x.json
    python -m benchmarks.accuracy ../shared/data --cache FOLDER --out x.json --table

For each set, split and setting one model is fitted, and the distances of all patches are kept in the cache folder. From
there each variant of map and score takes seconds. Split 0 is the set's own; the others draw anew which good images are
learned from, since recall at 1 % false alarms hangs on single good images. Sets that are missing below the root are
drawn by the demo. Judge by the means: a gain is at least 0.005 in the mean, with no two sets that lose more than 0.01.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy.distances import SETS, Distances, Split, distances_of, options_from, split_of
from benchmarks.accuracy.variants import Maps, Scored, Variant, scored, together
from benchmarks.record import environment
from patchbank.features.cache import FeatureCache
from patchbank.metrics import PixelMetrics, auroc

SETTINGS = {
    "384": "image_size=384 enlarge=false",
    "512": "image_size=512",
    "768": "image_size=768",
    "768L2": "image_size=768 backbone=efficientnet_lite2",
    "256": "image_size=256 enlarge=false bank_size=4000",
}
ROWS = {  # what is compared: settings whose maps are put together, and how maps are made
    "before": (("384",), Variant(10, False)),
    "384, σ 8": (("384",), Variant(8, False)),
    "384, σ 8, position scale": (("384",), Variant(8, True)),
    "512, σ 8": (("512",), Variant(8, False)),
    "512, σ 6, position scale": (("512",), Variant(6, True)),
    "balanced: 512, σ 8, position scale": (("512",), Variant(8, True)),
    "fast: 256, σ 8, position scale": (("256",), Variant(8, True)),
    "384 + 512 + 768": (("384", "512", "768"), Variant(8, True)),
    "768 by Lite2": (("768L2",), Variant(8, True)),
    "512 + 768 by Lite2": (("512", "768L2"), Variant(8, True)),
    "768 + 768 by Lite2": (("768", "768L2"), Variant(8, True)),
    "512 + 768 + 768 by Lite2": (("512", "768", "768L2"), Variant(8, True)),
    "best: 384 + 768 + 768 by Lite2": (("384", "768", "768L2"), Variant(8, True)),
}
KEYS = ("image_auroc", "recall_at_1", "recall_at_5", "aupro")
_MAP = 256  # pixels of the shorter side of a map, for AUPRO


def recall_at(good: NDArray[np.float64], bad: NDArray[np.float64], rate: float) -> float:
    """The share of defective images above the lowest threshold that at most that share of the good ones exceeds."""
    return float((bad > np.sort(good)[::-1][int(rate * len(good))]).mean())


def of_scores(good: NDArray[np.float64], bad: NDArray[np.float64]) -> dict[str, float]:
    """The figures of image scores."""
    return {
        "image_auroc": float(auroc(np.arange(len(good) + len(bad)) >= len(good), np.r_[good, bad])),
        "recall_at_1": recall_at(good, bad, 0.01),
        "recall_at_5": recall_at(good, bad, 0.05),
    }


def figures(parts: Sequence[Scored], split: Split) -> dict[str, Any]:
    """The figures of one variant on one split; `parts`: of each member, where it is an ensemble."""
    good, bad, maps = (parts[0].good, parts[0].bad, parts[0].maps) if len(parts) == 1 else together(parts)
    return of_scores(good, bad) | ({"aupro": aupro(maps, len(good), split)} if any(split.masks) else {})


def aupro(maps: Maps, good: int, split: Split) -> float:
    """Area under the per-region-overlap curve up to a false-positive rate of 0.3, of maps of a few pixels."""
    pixels = PixelMetrics()
    for number, smoothed in enumerate(maps):
        factor = _MAP / min(smoothed.shape)
        size = (round(smoothed.shape[1] * factor), round(smoothed.shape[0] * factor))
        mask = np.zeros(size[::-1], bool)
        if number >= good:
            path = split.masks[number - good]
            if not path:
                continue
            whole = cv2.imread(path, cv2.IMREAD_GRAYSCALE) > split.mask_above
            mask = cv2.resize(whole.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5
        pixels.update(cv2.resize(smoothed, size, interpolation=cv2.INTER_AREA), mask)
    return float(pixels.compute().aupro)


def run(given: argparse.Namespace) -> None:
    """Fit what is not in the cache folder yet."""
    features = FeatureCache(given.cache / "features", given.cache_gb * 10**9)
    for name in given.sets:
        for setting in given.settings:
            for number in given.splits:
                path = given.cache / f"{name}-{setting}-{number}.npz"
                if path.exists():
                    continue
                started = time.perf_counter()
                split = split_of(given.root if name not in given.drawn else given.cache, name, number, given.most)
                options = options_from(SETTINGS.get(setting, setting)) | {"threads": given.threads}
                distances_of(options, split, features).save(path)
                print(f"{name}, {setting}, split {number}: {time.perf_counter() - started:.0f} s", flush=True)


def judge(given: argparse.Namespace) -> dict[str, Any]:
    """All figures of what is in the cache folder: row → set → split."""
    found: dict[str, Any] = {}
    for name in given.sets:
        for number in given.splits:
            split, made = None, dict[str, Distances]()
            for label, (settings, variant) in ROWS.items():
                paths = [given.cache / f"{name}-{setting}-{number}.npz" for setting in settings]
                if not all(path.exists() for path in paths):
                    continue
                split = split or split_of(
                    given.root if name not in given.drawn else given.cache, name, number, given.most
                )
                for setting, path in zip(settings, paths, strict=True):
                    made[setting] = made.get(setting) or Distances.load(path)
                parts = [scored(made[setting], variant) for setting in settings]
                found.setdefault(label, {}).setdefault(name, {})[str(number)] = figures(parts, split)
    return found


def table(found: dict[str, Any], sets: list[str]) -> str:
    """Means over splits for each set (image AUROC / recall at 1 % false alarms), and over sets."""
    lines = [
        "| | " + " | ".join(sets) + " | mean image AUROC | recall at 1 % | at 5 % | AUPRO |",
        "|---" * (len(sets) + 5) + "|",
    ]
    for label, of_sets in found.items():
        if set(of_sets) != set(sets):
            continue
        means = {
            n: {k: np.mean([r[k] for r in s.values()]) for k in KEYS if k in next(iter(s.values()))}
            for n, s in of_sets.items()
        }
        cells = [f"{means[n]['image_auroc']:.3f} / {means[n]['recall_at_1']:.2f}" for n in sets]
        overall = [np.mean([m[key] for m in means.values() if key in m]) for key in KEYS]
        cells += [f"{value:.3f}" for value in overall]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="the folder of the sets")
    parser.add_argument("--cache", type=Path, required=True, help="a folder for features and distances")
    parser.add_argument("--cache-gb", type=int, default=8, help="of features; distances are kept beside them")
    parser.add_argument("--sets", type=lambda t: t.split(","), default=list(SETS))
    parser.add_argument("--settings", type=lambda t: t.split(","), default=["384", "512"])
    parser.add_argument("--splits", type=lambda t: [int(n) for n in t.split(",")], default=[0])
    parser.add_argument("--most", type=int, default=200, help="images to learn from, and defective ones to find")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="judge what is there, and fit nothing")
    given = parser.parse_args()
    given.drawn = [name for name in given.sets if not (given.root / name).is_dir()]
    given.cache.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    if not given.table:
        run(given)
    found = judge(given)
    given.out.write_text(json.dumps({"environment": environment(), "most": given.most, "rows": found}, indent=1))
    print(table(found, given.sets))


if __name__ == "__main__":
    main()
