"""Two evaluations of the same images: which differences are real, and which could be chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchbank.data.datasets import GOOD
from patchbank.errors import DatasetError
from patchbank.evaluation.pixels import LEAST_IMAGES, MOST_SHIFT
from patchbank.evaluation.scores import Result
from patchbank.metrics import auroc, average_precision
from patchbank.metrics.paired import Difference, delong, mcnemar
from patchbank.metrics.resampling import difference_interval, draws, holm, weighted_ap

LEVEL = 0.05
REAL, CHANCE, EQUAL, UNTESTED = "real", "could be chance", "equal", "not tested"
UNTESTABLE = "none: too few images"
_PIXEL = ("pixel_auroc", "pixel_ap", "aupro")
_PLAIN = ("image_f1_max", "pixel_f1_max", "iou_at_threshold", "region_recall_at_threshold", "latency_ms_p50", "bank_mb")


@dataclass(frozen=True)
class Row:
    """One metric of two results: the difference is `value_a` − `value_b`, with its 95 % interval and the two-sided
    p-value of none, as it is and corrected for the number of rows; None where `test` begins with "none". `images`: how
    many both have."""

    dataset: str
    a: str
    b: str
    metric: str
    value_a: float
    value_b: float
    difference: float
    difference_low: float | None
    difference_high: float | None
    p_value: float | None
    p_value_holm: float | None
    test: str
    verdict: str
    images: int

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True)
class _Common:
    """The images that both results have: N numbers in each, and which are defective; `is_all`: no other images."""

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    is_defective: NDArray[np.bool_]
    is_all: bool

    def enough(self) -> bool:
        """Whether there are enough images of both kinds to say anything of others."""
        n_bad = int(np.sum(self.is_defective))
        return min(n_bad, self.is_defective.size - n_bad) >= LEAST_IMAGES


def pairs(a: Sequence[Result], b: Sequence[Result]) -> list[tuple[Result, Result]]:
    """Which results to compare. One and one: these. A grid with itself: its cells on one dataset with one seed, each
    with each. Otherwise cells of the same dataset, method, backbone and seed, where unique in both; without such, all
    of one dataset and seed. Raises `DatasetError` where none match."""
    if [each.folder for each in a] == [each.folder for each in b]:
        found = [(x, y) for x, y in combinations(a, 2) if _run_of(x) == _run_of(y)]
    elif len(a) == len(b) == 1:
        found = [(a[0], b[0])]
    else:
        mine, theirs = _unique(a), _unique(b)
        found = [(mine[cell], theirs[cell]) for cell in mine if cell in theirs]
        found = _others(found) or _others(product(a, b))
    if not found:
        raise DatasetError(
            f"nothing to compare: no two different results are of one dataset and seed ({_named(a)}; against: "
            f"{_named(b)})"
        )
    return found


def compare(chosen: Sequence[tuple[Result, Result]]) -> list[Row]:
    """The rows of all pairs, the p-values corrected over all of them. Raises `DatasetError` for a pair without common
    images."""
    rows = [row for (a, b), names in zip(chosen, _names(chosen), strict=True) for row in _rows(a, b, names)]
    tested = [i for i, row in enumerate(rows) if row.p_value is not None]
    corrected = holm([p for row in rows if (p := row.p_value) is not None])
    for i, p_value in zip(tested, corrected, strict=True):
        verdict = EQUAL if rows[i].difference == 0 else REAL if p_value <= LEVEL else CHANCE
        rows[i] = replace(rows[i], p_value_holm=p_value, verdict=verdict)
    return rows


def _rows(a: Result, b: Result, names: tuple[str, str]) -> Iterator[Row]:
    common = _common(a, b)
    for metric, values, test, found in _differences(a, b, common):
        low, high = found.interval or (None, None)
        yield Row(
            a.metrics["dataset"],
            *names,
            metric,
            *values,
            found.value,
            low,
            high,
            found.p_value,
            None,
            test,
            EQUAL if found.value == 0 else UNTESTED,
            len(common.a),
        )


_Found = tuple[str, tuple[float, float], str, Difference]


def _differences(a: Result, b: Result, common: _Common) -> Iterator[_Found]:
    labels, scores = common.is_defective, (a.scores[common.a], b.scores[common.b])
    if labels.any() and not labels.all():
        areas = (auroc(labels, scores[0]), auroc(labels, scores[1]))
        precisions = (average_precision(labels, scores[0]), average_precision(labels, scores[1]))
        if common.enough():
            yield "image_auroc", areas, "DeLong", delong(labels, *scores)
            steps = [weighted_ap(w, labels, scores[0]) - weighted_ap(w, labels, scores[1]) for w in draws(labels)]
            yield "image_ap", precisions, "bootstrap", _bootstrapped(precisions, steps)
        else:
            yield "image_auroc", areas, UNTESTABLE, _plain(areas)
            yield "image_ap", precisions, UNTESTABLE, _plain(precisions)
    yield from _pixels(a, b, common)
    yield from _aupimo(a, b, common)
    rejected = (a.is_anomalous[common.a], b.is_anomalous[common.b])
    for metric, kind in (("recall_at_threshold", labels), ("false_alarm_rate", ~labels)):
        if kind.any():
            first, second = (each[kind] for each in rejected)
            yield metric, (float(first.mean()), float(second.mean())), "McNemar", mcnemar(first, second)
    for metric in _PLAIN if common.is_all else ():
        if (values := _both(a.metrics, b.metrics, metric)) is not None:
            yield metric, values, "none", _plain(values)


def _pixels(a: Result, b: Result, common: _Common) -> Iterator[_Found]:
    """By histograms of the images that count in both, moved to the exact values where all images are common."""
    if a.pieces is None or b.pieces is None:
        return
    first, second = a.pieces.of(common.a), b.pieces.of(common.b)
    both = np.intersect1d(first.counting(), second.counting())
    first, second = first.of(both), second.of(both)
    is_defective = first.is_defective()
    n_bad = int(np.sum(is_defective))
    test = "bootstrap"
    if not np.allclose(first.sizes(), second.sizes(), rtol=1e-4):
        test = "none: other pixels inspected"
    elif n_bad < LEAST_IMAGES or 0 < both.size - n_bad < LEAST_IMAGES:
        test = UNTESTABLE
    whole = np.ones((1, both.size), np.float32)
    binned = first.metrics(whole), second.metrics(whole)
    drawn = [(first.metrics(w), second.metrics(w)) for w in (draws(is_defective) if test == "bootstrap" else ())]
    for metric in _PIXEL:
        about = (float(binned[0][metric][0]), float(binned[1][metric][0]))
        values = _both(a.metrics, b.metrics, metric) if common.is_all else about
        if values is not None and np.isfinite(about).all():
            shift = (values[0] - values[1]) - (about[0] - about[1])
            if max(abs(values[0] - about[0]), abs(values[1] - about[1])) > MOST_SHIFT:
                yield metric, values, "none: bins too coarse", _plain(values)
            else:
                steps = [one[metric] - other[metric] for one, other in drawn]
                yield metric, values, test, _bootstrapped(values, steps, shift)


def _aupimo(a: Result, b: Result, common: _Common) -> Iterator[_Found]:
    """The mean difference over the defective images, at the thresholds of each method's own good images."""
    first, second = a.aupimo[common.a], b.aupimo[common.b]
    both = np.isfinite(first) & np.isfinite(second)
    if both.any():
        first, second = first[both], second[both]
        values = (float(first.mean()), float(second.mean()))
        enough = first.size >= LEAST_IMAGES
        every = np.ones(first.size, np.bool_)
        steps = [(w @ (first - second)) / first.size for w in (draws(every) if enough else ())]
        yield "aupimo", values, "bootstrap" if enough else UNTESTABLE, _bootstrapped(values, steps)


def _bootstrapped(values: tuple[float, float], steps: Sequence[NDArray[np.float64]], shift: float = 0.0) -> Difference:
    """The difference with what was drawn for it, if anything was."""
    if not steps:
        return _plain(values)
    return Difference(values[0] - values[1], *difference_interval(np.concatenate(steps), shift))


def _plain(values: tuple[float, float]) -> Difference:
    return Difference(values[0] - values[1], None, None)


def _both(a: Mapping[str, Any], b: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    first, second = a.get(key), b.get(key)
    return None if first is None or second is None else (float(first), float(second))


def _common(a: Result, b: Result) -> _Common:
    if a.metrics["dataset"] != b.metrics["dataset"]:
        raise DatasetError(
            f"{a.folder} is of the dataset {a.metrics['dataset']} and {b.folder} of {b.metrics['dataset']}: results "
            "can be compared on the same images only"
        )
    place = {path: i for i, path in enumerate(b.paths)}
    kept = [(i, place[path]) for i, path in enumerate(a.paths) if path in place]
    if not kept:
        raise DatasetError(
            f"{a.folder} and {b.folder} have no test image in common ({a.paths[0]} …, {b.paths[0]} …); evaluate both "
            "on one dataset with one split"
        )
    mine, theirs = (np.array(column, dtype=np.int64) for column in zip(*kept, strict=True))
    is_defective = np.array([a.defects[i] != GOOD for i in mine])
    if differing := [a.paths[i] for i, j in kept if (a.defects[i] == GOOD) != (b.defects[j] == GOOD)]:
        raise DatasetError(f"{differing[0]} is good in one of {a.folder} and {b.folder} and defective in the other")
    return _Common(mine, theirs, is_defective, len(kept) == len(a.paths) == len(b.paths))


def _names(chosen: Sequence[tuple[Result, Result]]) -> list[tuple[str, str]]:
    """The labels of each pair, with the names of their folders where another pair of the dataset has the same."""
    labels = [_labels(a, b) for a, b in chosen]
    keys = [(a.metrics["dataset"], *names) for (a, _), names in zip(chosen, labels, strict=True)]
    count = Counter(keys)
    return [
        (f"{names[0]} ({a.folder.name})", f"{names[1]} ({b.folder.name})") if count[key] > 1 else names
        for (a, b), names, key in zip(chosen, labels, keys, strict=True)
    ]


def _labels(a: Result, b: Result) -> tuple[str, str]:
    """Two names that differ, as short as they can be."""
    differ = [i for i in (1, 2, 3) if a.cell[i] != b.cell[i]]
    if not differ:
        return f"{a.cell[1]} ({a.folder})", f"{b.cell[1]} ({b.folder})"

    def name(cell: tuple[Any, ...]) -> str:
        words = [str(cell[1])] if 1 in differ or len(differ) < 3 else []
        words += [str(cell[2])] if 2 in differ else []
        words += [f"seed {cell[3]}"] if 3 in differ else []
        return " ".join(words)

    return name(a.cell), name(b.cell)


def _others(found: Iterable[tuple[Result, Result]]) -> list[tuple[Result, Result]]:
    """Those of one dataset and seed, none with itself."""
    return [(x, y) for x, y in found if x.folder != y.folder and _run_of(x) == _run_of(y)]


def _unique(results: Sequence[Result]) -> dict[tuple[str, str, str, int], Result]:
    cells = [each.cell for each in results]
    return {each.cell: each for each in results if cells.count(each.cell) == 1}


def _run_of(result: Result) -> tuple[str, int]:
    return result.cell[0], result.cell[3]


def _named(results: Sequence[Result]) -> str:
    return ", ".join(sorted({f"{each.cell[0]} seed {each.cell[3]}" for each in results}))
