"""Patch distances of one model on one split of one set: what every score and map is made of."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchbank import PatchCore
from patchbank.data.datasets import GOOD, open_dataset
from patchbank.demo.synthetic import KINDS, write_dataset
from patchbank.errors import warn
from patchbank.features.cache import FeatureCache
from patchbank.scoring.post import Compared

SETS = ("mtd", "tire", "hazelnut_toy", "cubes", "elpv", "bsd", *KINDS)


@dataclass(frozen=True)
class Split:
    """Good images to learn from and to test on, defective ones with the files of their masks."""

    train: list[Path]
    good: list[Path]
    bad: list[Path]
    masks: list[str]
    mask_above: int


@dataclass(frozen=True)
class One:
    """An image: h×w distances, and the (height, width) of its map at the inspected size."""

    distances: NDArray[np.float32]
    inspected: tuple[int, int]


@dataclass(frozen=True)
class Distances:
    """Of training images, each without its own patches; of good and of defective test images."""

    loo: list[One]
    good: list[One]
    bad: list[One]

    def save(self, path: Path) -> None:
        """As an npz file."""
        found: dict[str, Any] = {}
        for group in ("loo", "good", "bad"):
            for i, one in enumerate(getattr(self, group)):
                found[f"{group}.{i}"] = one.distances
                found[f"{group}.{i}.size"] = np.array(one.inspected)
        np.savez(path, **found)

    @classmethod
    def load(cls, path: Path) -> Distances:
        """The inverse of `save`."""
        with np.load(path) as file:

            def group(name: str) -> Iterator[One]:
                i = 0
                while f"{name}.{i}" in file:
                    height, width = file[f"{name}.{i}.size"].tolist()
                    yield One(file[f"{name}.{i}"], (height, width))
                    i += 1

            return cls(*(list(group(name)) for name in ("loo", "good", "bad")))


def split_of(root: Path, name: str, number: int, most: int) -> Split:
    """Split 0 is the set's own; others draw good images anew. At most `most` images to learn from and to find."""
    if name in KINDS and not (root / name).is_dir():
        write_dataset(root, name)
    dataset = open_dataset(root / name)
    rng = np.random.default_rng(0)
    train = _some(list(dataset.train), most, rng)
    tested = [sample for sample in dataset.test if sample.defect == GOOD]
    bad = _some([sample for sample in dataset.test if sample.defect != GOOD], most, rng)
    good = train + [sample.path for sample in tested]
    order = range(len(good)) if number == 0 else np.random.default_rng(number).permutation(len(good)).tolist()
    parts = [[good[i] for i in sorted(part)] for part in (order[: len(train)], order[len(train) :])]
    masks = [str(sample.mask or "") for sample in bad]
    return Split(*parts, [sample.path for sample in bad], masks, dataset.mask_above)


def _some(items: Sequence[Any], most: int, rng: np.random.Generator) -> list[Any]:
    if len(items) <= most:
        return list(items)
    return [items[i] for i in sorted(rng.choice(len(items), most, replace=False))]


def distances_of(options: dict[str, Any], split: Split, cache: FeatureCache | None) -> Distances:
    """Fit a PatchCore with these options; its distances on the split."""
    model = PatchCore(**options, calibration="held-out", thumbnails_mb=0)
    model.feature_cache = cache
    model.fit(split.train)
    fitted = model.require_fitted()
    number = {ref.name: i for i, ref in enumerate(fitted.scorer.refs)}

    def walk(paths: list[Path], known: bool) -> Iterator[One]:
        for item in model.extractor.stream(model.gather(paths), warn):
            points = fitted.scorer.prepare(item.vectors)
            exclude = number.get(item.source.name) if known else None
            compared: Compared = fitted.post.compared(fitted.scorer, points, item.grid, item.view, item.area, exclude)
            distances = compared.scores.distances
            assert distances is not None
            yield One(distances.reshape(item.grid).numpy(), item.view.inspected)

    return Distances(list(walk(split.train, True)), list(walk(split.good, False)), list(walk(split.bad, False)))


def options_from(text: str) -> dict[str, Any]:
    """A setting of the command line, `image_size=512 backbone=efficientnet_lite2`, as options."""
    found: dict[str, Any] = {}
    for word in text.split():
        key, _, value = word.partition("=")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found
