"""Realised against target false-alarm rates over random splits of good parts: `python -m benchmarks.calibration ROOT`.

ROOT is a dataset with good images to train and to test on; they are put together and split anew, a fifth to test on, so
that they are exchangeable. Recall is that of all defective images. Features are computed once (PatchCore at 224 pixels,
2 000 patches kept); the bank, the calibration and the scores of each split are the package's own. One bank serves for
leave-one-out scores as they are and corrected. `--held-out` makes another that a fifth is held out of. `--keep FOLDER`
keeps the scores of each split there and reads them again: a run that was cut short goes on, and another correction of
the same scores takes seconds.

`--burst K` takes K pictures of each part (shifted by up to 2 pixels, with noise and another brightness) and compares
counting pictures, counting the parts that were named, and counting the parts that were found. Each test part is
inspected once. `--parts N` uses N parts only.

`--image-size 512` measures at another size. `--sizes 160,224` measures an ensemble of these image sizes instead, as it
is fitted and predicts, and `--best` the members of `--quality best`, with 2 000 patches each.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.record import environment
from patchbank import PatchCore
from patchbank.calibration.calibration import CORRECTED, Calibration
from patchbank.calibration.monitor import FitMonitor
from patchbank.calibration.schemes import Calibrator, Learned
from patchbank.data import Sample, gather, read_image
from patchbank.data.datasets import GOOD, open_dataset
from patchbank.errors import PatchbankWarning, give_up
from patchbank.features.cache import FeatureCache
from patchbank.features.extractor import Extractor
from patchbank.features.store import PatchFeatures
from patchbank.fitting import Learner

RATES = (0.01, 0.02, 0.05, 0.1)
SIZE, PATCHES = 224, 2000
RESULTS = Path(__file__).parent / "results"
Rates = tuple[list[float], list[float]]  # for each of RATES: the share of good images above, and of defective ones
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


@dataclass(frozen=True)
class Setting:
    """`bad`: the defective images, none for no recall; `held_out`: whether that scheme is measured, too; `keep`: where
    scores are kept."""

    model: PatchCore
    cached: _Cached
    bad: list[Sample]
    held_out: bool
    keep: Path | None

    def calibrator(self, way: str) -> Calibrator:
        """One that learns from cached features."""
        model, learner = self.model, Learner(self.model, self.cached)  # type: ignore[arg-type]
        return Calibrator(way, model.false_alarm_rate, model.seed, learner, scaled=model.scales_by_position(("rgb",)))

    def readable(self, sources: list[Sample]) -> list[tuple[Sample, int]]:
        """Images with their numbers of patches."""
        return [(source, len(self.cached.items[source.name].vectors)) for source in sources]

    def scores(self, learned: Learned, sources: list[Sample]) -> NDArray[np.float64]:
        """Of images that were not learned from."""
        scorer, post = learned.scorer, learned.post
        seen = self.cached.stream(sources)
        return np.array([post.score(scorer, scorer.prepare(i.vectors), i.grid, i.view, i.area).score for i in seen])

    def rates(self, learned: Learned, test: list[Sample], calibrations: dict[str, Calibration]) -> dict[str, Rates]:
        """The shares above the threshold of each target rate, for each calibration."""
        return _rates(self.scores(learned, test), self.scores(learned, self.bad), calibrations)

    def single(self, train: list[Sample], test: list[Sample], seed: int) -> dict[str, Rates]:
        """Of parts that have one picture each."""
        file = self.keep / f"{seed}.npz" if self.keep else None
        found = dict(np.load(file)) if file and file.exists() else self.scored(train, test)
        if file:
            np.savez(file, **found)
        plain = _calibration(found["left_out"], np.arange(len(train)))
        ways = {"leave-one-out": plain, CORRECTED: plain.corrected(_calibration(found["apart"], found["place"]))}
        rates = _rates(found["good"], found["bad"], ways)
        if self.held_out:
            learned, _, held_out = self.calibrator("held-out").run(self.readable(train), FitMonitor(give_up))
            rates |= self.rates(learned, test, {"held-out": held_out})
        return rates

    def scored(self, train: list[Sample], test: list[Sample]) -> dict[str, NDArray[Any]]:
        """Scores of the training images, `left_out`; of some in a memory without them, `apart`, and their `place`; of
        `good` and `bad` images that were not learned from."""
        monitor, calibrator = FitMonitor(give_up), self.calibrator("leave-one-out")
        learned, _, plain = calibrator.run(self.readable(train), monitor)
        as_compared = replace(learned, post=replace(learned.post, scale=None))
        scores, rest = calibrator.score_without_some(as_compared, monitor)
        apart = scores.calibration(plain.false_alarm_rate, rest)
        place = np.array([plain.images.index(name) for name in apart.images])
        return {
            "left_out": plain.scores, "apart": apart.scores, "place": place,
            "good": self.scores(learned, test), "bad": self.scores(learned, self.bad),
        }  # fmt: skip

    def bursts(self, train: list[Sample], test: list[Sample]) -> dict[str, Rates]:
        """Of parts that have several, by what is counted."""
        found: dict[str, Rates] = {}
        for counted in COUNTING:
            given = train if counted == "parts named" else [replace(source, group="") for source in train]
            monitor = FitMonitor(give_up, finds_groups=counted == "parts found")
            learned, _, calibration = self.calibrator("auto").run(self.readable(given), monitor)
            found |= self.rates(learned, test, {counted: calibration})
        return found


def _calibration(scores: NDArray[np.float64], place: NDArray[np.int64]) -> Calibration:
    return Calibration(scores, scores, 0.01, images=tuple(map(str, place.tolist())))


def _rates(
    good: NDArray[np.float64], bad: NDArray[np.float64], calibrations: dict[str, Calibration]
) -> dict[str, Rates]:
    found = {}
    for name, calibration in calibrations.items():
        thresholds = [calibration.at_rate(rate).threshold for rate in RATES]
        found[name] = _above(good, thresholds), _above(bad, thresholds)
    return found


def _above(scores: NDArray[np.float64], thresholds: list[float]) -> list[float]:
    return [float((scores > limit).mean()) if len(scores) else float("nan") for limit in thresholds]


def of_ensemble(model: Any, sources: list[Sample], bad: list[Sample], seed: int) -> dict[str, Rates]:
    """The realised rates of one split for an ensemble, fitted anew."""
    order = np.random.default_rng(seed).permutation(len(sources)).tolist()
    test, train = ([sources[i] for i in part] for part in np.split(order, [len(sources) // 5]))
    model.fit(train)
    good, found = (np.array([p.score for p in model.predict_many(given)]) for given in (test, bad))
    return _rates(good, found, {"ensemble": model.calibration_})


def split(setting: Setting, parts: list[list[Sample]], seed: int) -> dict[str, Rates]:
    """The realised rates of one split, for each way."""
    order = np.random.default_rng(seed).permutation(len(parts)).tolist()
    test = [replace(parts[i][0], group="") for i in order[: len(parts) // 5]]
    train = [source for i in order[len(parts) // 5 :] for source in parts[i]]
    if len(parts[0]) == 1:
        return setting.single([replace(source, group="") for source in train], test, seed)
    return setting.bursts(train, test)


def summary(rows: list[dict[str, Rates]]) -> dict[str, list[dict[str, float]]]:
    """Means over splits, for each way and target."""
    found = {}
    for way in rows[0]:
        alarms, recall = (np.array([row[way][k] for row in rows]) for k in (0, 1))
        errors = alarms.std(0) / len(rows) ** 0.5
        found[way] = [
            {"asked": rate, "mean": float(alarms[:, k].mean()), "standard_error": float(errors[k])}
            | ({} if np.isnan(recall).any() else {"recall": float(recall[:, k].mean())})
            for k, rate in enumerate(RATES)
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    parser.add_argument("--burst", type=int, default=1, metavar="K")
    parser.add_argument("--parts", type=int, metavar="N")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--image-size", type=int, default=SIZE)
    parser.add_argument("--sizes", type=lambda text: [int(n) for n in text.split(",")], metavar="SIZE,SIZE")
    parser.add_argument("--best", action="store_true")
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.root)
    paths = [*dataset.train, *(s.path for s in dataset.test if s.defect == GOOD)]
    rng = np.random.default_rng(0)
    if arguments.parts:
        paths = [paths[i] for i in sorted(rng.choice(len(paths), arguments.parts, replace=False))]
    model = PatchCore(image_size=arguments.image_size, bank_size=PATCHES, threads=arguments.threads)
    if arguments.burst > 1:
        parts = [list(burst(source, arguments.burst, rng)) for source in gather(paths)]
    else:
        parts = [[source] for source in gather(paths)]
    given = [source for part in parts for source in part]
    bad = gather([s.path for s in dataset.test if s.defect != GOOD]) if arguments.burst == 1 else []
    warnings.simplefilter("ignore", PatchbankWarning)  # groups that were found are told at every split
    if arguments.sizes or arguments.best:
        _measure_ensemble(arguments, dataset.name, given, bad)
        return
    kept = arguments.keep is not None and all((arguments.keep / f"{k}.npz").exists() for k in range(arguments.splits))
    needed = [] if kept and not arguments.held_out and arguments.burst == 1 else [*given, *bad]
    cached = _Cached(list(model.extractor.stream(needed, give_up)), model.extractor)
    setting = Setting(model, cached, bad, arguments.held_out, arguments.keep)
    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in range(arguments.splits):
        rows.append(split(setting, parts, seed))
        print(json.dumps(rows[-1]), flush=True)
    name = f"calibration-{dataset.name}" + (f"-burst{arguments.burst}" if arguments.burst > 1 else "")
    name += f"-{arguments.image_size}" if arguments.image_size != SIZE else ""
    _write(name, rows, {"images": len(given), "parts": len(parts), "defective": len(bad)})


def _measure_ensemble(arguments: argparse.Namespace, name: str, sources: list[Sample], bad: list[Sample]) -> None:
    sets = PatchCore.presets["best"]["members"] if arguments.best else [{"image_size": n} for n in arguments.sizes]
    members = [{**options, "bank_size": PATCHES} for options in sets]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model: Any = PatchCore(members=members, threads=arguments.threads, thumbnails_mb=0)
        for number, member in enumerate(model.members):
            member.feature_cache = FeatureCache(Path(folder) / str(number), 20 * 10**9)
        for seed in range(arguments.splits):
            rows.append(of_ensemble(model, sources, bad, seed))
            print(json.dumps(rows[-1]), flush=True)
    counts = {"images": len(sources), "parts": len(sources), "defective": len(bad), "members": sets}
    _write(f"calibration-{name}-{'best' if arguments.best else 'ensemble'}", rows, counts)


def _write(name: str, rows: list[dict[str, Rates]], counts: dict[str, Any]) -> None:
    table = summary(rows)
    document = {**counts, "splits": len(rows), "ways": table, "environment": environment()}
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    for way, entries in table.items():
        print(way, "  ".join(f"{e['asked']:.1%}: {e['mean']:.2%} ± {e['standard_error']:.2%}" for e in entries))


if __name__ == "__main__":
    main()
