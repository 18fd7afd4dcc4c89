"""What each channel finds of which defect, and what a fusion of several does: the drawn solid parts, or other sets.

    python -m benchmarks.geometry --kinds ring,plate,body --seeds 0,1,2 --out geometry.json
    python -m benchmarks.geometry --data road --out road.json

Each set is learned from and inspected once, with a memory for each channel; fusions are map-sums.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.record import environment
from patchbank.cli.detectors import make_detector
from patchbank.data import gather
from patchbank.data.datasets import GOOD, Dataset, open_dataset
from patchbank.errors import give_up
from patchbank.memory.fused_scorer import FusedScorer
from patchbank.memory.fusion import weights_of
from patchbank.methods import PatchCore, create
from patchbank.metrics.image import auroc
from patchbank.scoring.maps import anomaly_map

CHANNELS = ("rgb", "curvature", "normals", "height", "shading", "fpfh", "holes")


def maps_of(dataset: Dataset, channels: tuple[str, ...], **options: Any) -> tuple[list[str], NDArray[np.float32]]:
    """Kind of defect of each test sample, and N×K×h×w maps of each channel: −log p among good samples, not weighted."""
    model = PatchCore(channels=channels, fusion="max", thumbnails_mb=0, **options).fit(dataset.train)
    scorer, post = model.scorer, model.require_fitted().post
    assert isinstance(scorer, FusedScorer)
    mean, spread = (column[:, None, None].numpy() for column in scorer.fusion.good_peaks.T)
    kinds, maps = [], []
    for sample in dataset.test:
        item = next(model.extractor.stream(gather(sample.path), give_up))
        by_channel = scorer.compare(scorer.prepare(item.vectors), item.grid).by_channel
        assert by_channel is not None
        grids = by_channel.reshape(-1, *item.grid)
        found = np.stack([anomaly_map(g, item.view.inspected, post.sigma, None, post.lattice) for g in grids])
        maps.append(np.logaddexp(0, (found - mean) / spread).astype(np.float32))
        kinds.append(sample.defect)
    return kinds, np.stack(maps)


def image_auroc(kinds: list[str], scores: NDArray[np.float64]) -> dict[str, float]:
    """Of each kind of defect against the good ones, and their mean."""
    names = np.array(kinds)
    good = scores[names == GOOD]
    found = {}
    for defect in sorted(set(kinds) - {GOOD}):
        bad = scores[names == defect]
        labels = np.concatenate([np.zeros(len(good), bool), np.ones(len(bad), bool)])
        found[defect] = float(auroc(labels, np.concatenate([good, bad])))
    return found | {"mean": float(np.mean(list(found.values())))}


def table(kinds: list[str], maps: NDArray[np.float32], channels: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Image AUROC of each channel, and of the map-sum of every two and more of them."""
    rows = {}
    for count in range(1, len(channels) + 1):
        for chosen in combinations(range(len(channels)), count):
            weights = np.array(weights_of([channels[k] for k in chosen]))[:, None, None]
            scores = (maps[:, list(chosen)] * weights).sum(1).max((1, 2)).astype(np.float64)
            rows["+".join(channels[k] for k in chosen)] = image_auroc(kinds, scores)
    return rows


def of_method(dataset: Dataset, name: str, seed: int) -> dict[str, float]:
    """Image AUROC of a method at its defaults, with the seconds of its fit and of one prediction. `name`: a method or
    preset, with options behind it, such as cpmf:views=27 or patchcore:channels=rgb+normals."""
    method, _, text = name.partition(":")
    assignments = [pair.replace("+", ",") for pair in text.split(",") if pair]  # as those of --set
    started = time.perf_counter()
    model = make_detector(method, assignments, seed=seed, thumbnails_mb=0).fit(dataset.train)
    fitted = time.perf_counter()
    scores = np.array([p.score for p in model.predict_many([sample.path for sample in dataset.test])])
    seconds = {"fit_s": fitted - started, "image_s": (time.perf_counter() - fitted) / len(scores)}
    return image_auroc([sample.defect for sample in dataset.test], scores) | seconds


def markdown(results: dict[str, Any], names: list[str], defects: list[str]) -> str:
    """A table of the mean over sets, in percent points of image AUROC."""
    lines = [f"| | {' | '.join(defects)} | mean |", "|---" * (len(defects) + 2) + "|"]
    for name in names:
        rows = [of_set[name] if name in of_set else of_set["channels"][name] for of_set in results.values()]
        cells = [f"{np.mean([row[key] for row in rows]):.3f}" for key in (*defects, "mean")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cost(dataset: Dataset) -> dict[str, dict[str, float]]:
    """Milliseconds of one prediction, median of 15 in turn, with the share of decoding and geometry; and the seconds of
    each fit."""
    wanted: dict[str, Any] = {
        "rgb": PatchCore(channels=("rgb",)),
        "rgb+curvature+normals": PatchCore(channels=("rgb", "curvature", "normals")),
        "default": PatchCore(),
        "btf": create("btf"),
        "cpmf": create("cpmf"),
        "m3dm.lite": create("m3dm.lite"),
    }
    found: dict[str, dict[str, float]] = {}
    for name, model in wanted.items():
        started = time.perf_counter()
        model.fit(dataset.train)
        found[name] = {"fit_s": time.perf_counter() - started}
    paths = [sample.path for sample in dataset.test][:15]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in wanted}
    for path in [paths[0], *paths]:
        for name, model in wanted.items():
            started = time.perf_counter()
            timings = model.predict(path).timings
            times[name].append((1e3 * (time.perf_counter() - started), timings["decode_ms"]))
    for name, taken in times.items():
        found[name] |= dict(zip(("image_ms", "decode_ms"), np.median(taken[1:], axis=0).tolist(), strict=True))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", default="ring,plate,body")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--data", type=Path, action="append", help="sets to take instead of drawn ones")
    parser.add_argument("--channels", default=",".join(CHANNELS))
    parser.add_argument("--methods", default="", help='such as "btf cpmf:views=9 m3dm.lite"')
    parser.add_argument("--counts", default="40,20,6", help="drawn parts: train, test good, each defect")
    parser.add_argument("--drawn", type=Path, help="where drawn sets are kept")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cost", action="store_true", help="time the first set instead")
    parser.add_argument("--table", default="", help="channels joined by + and methods to print, separated by blanks")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    channels = tuple(name for name in given.channels.split(",") if name)
    results: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    results.pop("environment", None)
    with tempfile.TemporaryDirectory() as scratch:
        paths = given.data or drawn(given, Path(scratch))
        if given.cost:
            results["cost"] = cost(open_dataset(paths[0]))
            keep(results, given.out)
            print(json.dumps(results["cost"], indent=1))
            return
        for path in paths:
            dataset, found = open_dataset(path), results.setdefault(path.name, {})
            started = time.perf_counter()
            if channels and not found.get("channels"):
                found["channels"] = table(*maps_of(dataset, channels), channels)
            for name in given.methods.split():
                if name not in found:
                    found[name] = of_method(dataset, name, seed=0)
            keep(results, given.out)
            print(f"{path.name}: {time.perf_counter() - started:.0f} s", flush=True)
    if given.table:
        defects = sorted({key for row in next(iter(results.values()))["channels"].values() for key in row} - {"mean"})
        print(markdown(results, given.table.split(), defects))


def keep(results: dict[str, Any], path: Path) -> None:
    """Write what is there so far, with the machine of the last run."""
    path.write_text(json.dumps({"environment": environment(), **results}, indent=1))


def drawn(given: Any, scratch: Path) -> list[Path]:
    """The drawn sets, `KIND-SEED` each."""
    from patchbank.demo.solid import write_solid_dataset

    paths = []
    for seed in map(int, given.seeds.split(",")):
        for kind in given.kinds.split(","):
            path = (given.drawn or scratch) / f"{kind}-{seed}"
            if not path.exists():
                train, good, defective = map(int, given.counts.split(","))
                write_solid_dataset(path, kind, train=train, test_good=good, per_defect=defective, seed=seed)
            paths.append(path)
    return paths


if __name__ == "__main__":
    main()
