"""Realised against asked false-alarm rates over random splits of good images: `python -m benchmarks.calibration ROOT`.

ROOT is a dataset with good images to train and to test on; they are put together and split anew, a fifth to test on, so
that they are exchangeable. Features are computed once (PatchCore at 224 pixels, 2 000 patches kept); the bank, the
calibration and the scores of each split are the package's own.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import numpy as np
import torch

from patchbank import PatchCore
from patchbank.calibration import CORRECTED, Calibration
from patchbank.datasets import GOOD, open_dataset
from patchbank.detectors.work import Work
from patchbank.environment import environment
from patchbank.extraction import give_up
from patchbank.features import FeatureSet, ImageFeatures
from patchbank.images import Source, gather

RATES = (0.005, 0.01, 0.05, 0.1)
RESULTS = Path(__file__).parent / "results"


class _Cached:
    """Stands in for the extractor: features of images that were computed before."""

    def __init__(self, items: list[ImageFeatures], extractor: object):
        self.items, self.extractor = items, extractor

    def __getattr__(self, name: str) -> object:
        return getattr(self.extractor, name)

    def learn(self, sources: list[Source], *_: object) -> list[ImageFeatures]:
        wanted = {source.name for source in sources}
        return [item for item in self.items if item.source.name in wanted]


def fitted(model: PatchCore, numbers: list[int]) -> tuple[PatchCore, FeatureSet]:
    """A bank of some of the images."""
    detector, items = copy.copy(model), model._extractor.items  # type: ignore[union-attr]
    features = FeatureSet(torch.cat([items[i].vectors for i in numbers]))
    for i in numbers:
        features.add(items[i])
    detector._fit_memory(features, None)
    return detector, features


def split(model: PatchCore, count: int, seed: int) -> dict[str, list[float]]:
    """The realised rates of one split, for each way."""
    rng, work = np.random.default_rng(seed), Work(give_up)
    order = rng.permutation(count).tolist()
    test, train = order[: count // 5], order[count // 5 :]
    part, others = train[: len(train) // 5], train[len(train) // 5 :]
    items = model._extractor.items  # type: ignore[union-attr]
    tested, kept_back = ([items[i].source for i in numbers] for numbers in (test, part))
    everything, features = fitted(model, train)
    left_out = everything._leave_one_out(features, None)
    apart, _ = fitted(model, others)
    held_out = apart._score_good(kept_back, work)
    new = everything._score_good(tested, work).scores
    apart._absorb(kept_back, work)
    ways: dict[str, tuple[Calibration, np.ndarray]] = {
        "leave-one-out": (left_out, new),
        CORRECTED: (left_out.corrected(held_out), new),
        "held-out": (held_out, apart._score_good(tested, work).scores),
    }
    return {
        way: [float((scores > calibration.at_rate(rate).threshold).mean()) for rate in RATES]
        for way, (calibration, scores) in ways.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.root)
    paths = [*dataset.train, *(s.path for s in dataset.test if s.defect == GOOD)]
    model = PatchCore(image_size=224, bank_size=2000, threads=arguments.threads)
    model._extractor = _Cached(list(model._open().stream(gather(paths), give_up)), model._open())  # type: ignore[assignment]
    rows = []
    for seed in range(arguments.splits):
        rows.append(split(model, len(paths), seed))
        print(json.dumps(rows[-1]), flush=True)
    table = {
        way: [
            {"asked": rate, "mean": float(np.mean(values)), "standard_error": float(np.std(values) / len(rows) ** 0.5)}
            for rate, values in zip(RATES, np.array([row[way] for row in rows]).T, strict=True)
        ]
        for way in rows[0]
    }
    document = {"images": len(paths), "splits": len(rows), "ways": table, "environment": environment()}
    (RESULTS / f"calibration-{dataset.name}.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    for way, entries in table.items():
        print(way, "  ".join(f"{e['asked']:.1%}: {e['mean']:.2%} ± {e['standard_error']:.2%}" for e in entries))


if __name__ == "__main__":
    main()
