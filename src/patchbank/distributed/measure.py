"""The rates of this machine, for `patchbank plan`: a few seconds of each stage on drawn images and features."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from patchbank.data import gather
from patchbank.distributed.rates import Rates, crowded
from patchbank.features.extractor import Extractor
from patchbank.memory.coreset.farthest_first import row_norms
from patchbank.memory.coreset.shard import Candidates, Doubles, Indices, ShardTraversal
from patchbank.memory.coreset.sharded import POOL, select_from_shards, select_in_pool
from patchbank.memory.search import make_index
from patchbank.memory.search.prefix import Floats

if TYPE_CHECKING:
    from patchbank.detector import Detector

_IMAGES, _ROWS, _KEPT = 6, 100_000, 32_000  # with fewer centres their cache would not be outgrown
_SEARCHED = 5_000  # vectors of the bank of a search
_SETTLED = 500  # centres after which the first rounds, which look at all points, are over
_EACH = 3  # times that a stage is taken, the fastest counts


def measure(detector: Detector, dimension: int | None = None) -> tuple[Rates, Extractor]:
    """What one worker of this machine's kind does in a second, on the threads of the detector; and the extractor, which
    knows patches and their dimension. `dimension`: of features that are not the extractor's."""
    extractor = detector.extractor
    with detector.context.active():
        images = _images_per_second(extractor)
        points = _drawn(_ROWS, dimension or extractor.dimension)
        anchor = row_norms(points)
        bounds = np.random.default_rng(0).random(1_000_000)
        scanned = len(bounds) / _fastest(lambda: np.partition(bounds, -POOL))
        index = make_index(points[:_SEARCHED].clone())
        searched = 4096 * _SEARCHED / _fastest(lambda: index.nearest(points[-4096:]))
        pool = points[:POOL].numpy()
        far = np.full(len(pool), np.inf)
        seconds = _fastest(lambda: select_in_pool(pool, np.arange(len(pool)), far.copy(), -np.inf, -1, 256))
        pool_pairs = len(pool) * 256 / seconds
        centres, seconds_after = _selection(points, anchor)
    set_up, of_pair = _parts_of(centres[:-1], seconds_after - centres[1:] * POOL / pool_pairs)
    first = int((centres < _SETTLED).sum())
    selected = (_KEPT - centres[first]) / (len(centres) - 1 - first)
    return Rates(
        images, 1 / set_up, 1 / of_pair, scanned, pool_pairs, searched, float(selected), float(first)
    ), extractor


def _selection(points: Tensor, anchor: Tensor) -> tuple[Doubles, Doubles]:
    """How many centres there are before each round and at the end, and the seconds until the end of each round."""
    select_from_shards(_One(points[:5000].contiguous(), anchor[:5000]), 64, points.shape[1])  # compiled
    centres, seconds, started = [0], list[float](), time.perf_counter()

    def after_round(new: int) -> None:
        centres.append(centres[-1] + new)
        seconds.append(time.perf_counter() - started)

    select_from_shards(_One(points, anchor), _KEPT, points.shape[1], progress=after_round)
    return np.array(centres, np.float64), np.array(seconds)


def _parts_of(centres: Doubles, seconds: Doubles) -> tuple[float, float]:
    """The seconds that workers take for each point, and for each pair of `Rates.pairs`: of all that passed until
    `seconds`, with `centres` each time; least squares of relative errors."""
    late = centres >= _SETTLED
    passed = np.maximum(seconds[late], 1e-3)
    pairs = centres[late] * crowded(centres[late], _ROWS)
    columns = np.stack([np.ones_like(pairs), pairs], 1) * _ROWS
    found = np.linalg.lstsq(columns / passed[:, None], np.ones_like(passed), rcond=None)[0]
    set_up, of_pair = np.maximum(found, [1e-9, 1e-13])  # on a machine that was busy in the wrong moment
    return float(set_up), float(of_pair)


class _One:
    """One shard, to see how many centres a round brings."""

    def __init__(self, points: Tensor, anchor: Tensor):
        self._shard = ShardTraversal(points, anchor.numpy(), 0)

    def __len__(self) -> int:
        return 1

    def advance(self, centres: Floats, indices: Indices, most: int) -> list[Candidates]:
        self._shard.add(centres, indices)
        return [self._shard.candidates(most)]

    def radius(self) -> float:
        return self._shard.radius()


def _images_per_second(extractor: Extractor) -> float:
    rng, side = np.random.default_rng(0), extractor.geometry.image_size
    sources = gather([rng.integers(0, 255, (side, side, 3), dtype=np.uint8) for _ in range(_IMAGES)])
    return _IMAGES / _fastest(lambda: list(extractor.stream(sources)))


def _drawn(rows: int, dimension: int) -> Tensor:
    """Clusters whose spread falls from axis to axis, as that of features does."""
    rng = np.random.default_rng(0)
    axes = (1 / np.sqrt(1 + np.arange(dimension))).astype(np.float32)
    points = rng.standard_normal((rows, dimension), dtype=np.float32) * axes
    points += (3 * axes * rng.standard_normal((64, dimension), dtype=np.float32))[rng.integers(0, 64, rows)]
    return torch.from_numpy(points)


def _fastest(function: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_EACH):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
