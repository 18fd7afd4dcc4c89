"""Realised against target false-alarm rates over random splits of good parts: `python -m benchmarks.calibration ROOT`.

ROOT is a dataset with good images to train and to test on; they are put together and split anew, a fifth to test on, so
that they are exchangeable. Features are computed once (PatchCore at 224 pixels, 2 000 patches kept); the bank, the
calibration and the scores of each split are the package's own.

`--burst K` takes K pictures of each part (shifted by up to 2 pixels, with noise and another brightness) and compares
counting pictures, counting the parts that were named, and counting the parts that were found. Each test part is
inspected once. `--parts N` uses N parts only.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import environment
from patchbank import PatchCore
from patchbank.calibration.calibration import CORRECTED
from patchbank.calibration.monitor import FitMonitor
from patchbank.calibration.schemes import Calibrator
from patchbank.data import Sample, gather, read_image
from patchbank.data.datasets import GOOD, open_dataset
from patchbank.errors import PatchbankWarning, give_up
from patchbank.features.extractor import Extractor
from patchbank.features.store import PatchFeatures
from patchbank.fitting import Learner

RATES = (0.005, 0.01, 0.05, 0.1)
RESULTS = Path(__file__).parent / "results"
WAYS = {"leave-one-out": "leave-one-out", CORRECTED: CORRECTED, "held-out": "held-out"}
COUNTING = ("pictures", "parts found", "parts named")


class _Cached:
    """Stands in for the extractor: features of images that were computed before."""

    def __init__(self, items: list[PatchFeatures], extractor: Extractor):
        self.items, self.extractor = {item.source.name: item for item in items}, extractor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.extractor, name)

    def stream(self, sources: list[Sample], *_: object, **__: object) -> Iterator[PatchFeatures]:
        return (replace(self.items[source.name], source=source) for source in sources)

    learn = stream
    collect = Extractor.collect


def burst(source: Sample, pictures: int, rng: np.random.Generator) -> Iterator[Sample]:
    """Several pictures of the part that an image shows."""
    rgb = read_image(source).astype(np.float32)
    for number in range(pictures):
        moved = np.roll(rgb, tuple(rng.integers(-2, 3, 2)), (0, 1))
        noisy = moved * rng.uniform(0.97, 1.03) + rng.normal(0, 2, rgb.shape)
        picture = np.clip(noisy, 0, 255).astype(np.uint8)
        yield Sample.of(f"{source.name} {number}", picture, group=source.name)


def rates(
    model: PatchCore, cached: _Cached, train: list[Sample], test: list[Sample], way: str, monitor: FitMonitor
) -> list[float]:
    """The share of test images above the threshold of each target rate, calibrated one way."""
    learner = Learner(model, cached)  # type: ignore[arg-type]
    calibrator = Calibrator(way, model.false_alarm_rate, model.seed, learner, scaled=model.scales_by_position(("rgb",)))
    patches = len(next(iter(cached.items.values())).vectors)
    learned, _, calibration = calibrator.run([(source, patches) for source in train], monitor)
    seen = cached.stream(test)
    scorer, post = learned.scorer, learned.post
    scores = np.array([post.score(scorer, scorer.prepare(i.vectors), i.grid, i.view, i.area).score for i in seen])
    return [float((scores > calibration.at_rate(rate).threshold).mean()) for rate in RATES]


def split(model: PatchCore, cached: _Cached, parts: list[list[Sample]], seed: int) -> dict[str, list[float]]:
    """The realised rates of one split, for each way."""
    order = np.random.default_rng(seed).permutation(len(parts)).tolist()
    test = [replace(parts[i][0], group="") for i in order[: len(parts) // 5]]
    train = [source for i in order[len(parts) // 5 :] for source in parts[i]]
    if len(parts[0]) == 1:
        alone = [replace(source, group="") for source in train]
        return {name: rates(model, cached, alone, test, way, FitMonitor(give_up)) for name, way in WAYS.items()}
    found: dict[str, list[float]] = {}
    for counted in COUNTING:
        given = train if counted == "parts named" else [replace(source, group="") for source in train]
        found[counted] = rates(
            model, cached, given, test, "auto", FitMonitor(give_up, finds_groups=counted == "parts found")
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--burst", type=int, default=1, metavar="K")
    parser.add_argument("--parts", type=int, metavar="N")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.root)
    paths = [*dataset.train, *(s.path for s in dataset.test if s.defect == GOOD)]
    rng = np.random.default_rng(0)
    if arguments.parts:
        paths = [paths[i] for i in sorted(rng.choice(len(paths), arguments.parts, replace=False))]
    model = PatchCore(image_size=224, bank_size=2000, threads=arguments.threads)
    if arguments.burst > 1:
        parts = [list(burst(source, arguments.burst, rng)) for source in gather(paths)]
    else:
        parts = [[source] for source in gather(paths)]
    given = [source for part in parts for source in part]
    cached = _Cached(list(model.extractor.stream(given, give_up)), model.extractor)
    warnings.simplefilter("ignore", PatchbankWarning)  # groups that were found are told at every split
    rows = []
    for seed in range(arguments.splits):
        rows.append(split(model, cached, parts, seed))
        print(json.dumps(rows[-1]), flush=True)
    table = {
        way: [
            {"asked": rate, "mean": float(np.mean(values)), "standard_error": float(np.std(values) / len(rows) ** 0.5)}
            for rate, values in zip(RATES, np.array([row[way] for row in rows]).T, strict=True)
        ]
        for way in rows[0]
    }
    document = {
        "images": len(given), "parts": len(parts), "splits": len(rows), "ways": table, "environment": environment(),
    }  # fmt: skip
    name = f"calibration-{dataset.name}" + (f"-burst{arguments.burst}" if arguments.burst > 1 else "")
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    for way, entries in table.items():
        print(way, "  ".join(f"{e['asked']:.1%}: {e['mean']:.2%} ± {e['standard_error']:.2%}" for e in entries))


if __name__ == "__main__":
    main()
