"""The rates of this machine, for `patchbank plan`: a few seconds of each stage on drawn images and features."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from patchbank.data import gather
from patchbank.distributed.rates import Rates
from patchbank.features.extractor import Extractor
from patchbank.memory.coreset.farthest_first import row_norms
from patchbank.memory.coreset.shard import Candidates, Indices, ShardTraversal
from patchbank.memory.coreset.sharded import POOL, Begun, select_from_shards, select_in_pool
from patchbank.memory.search import make_index
from patchbank.memory.search.prefix import Floats

if TYPE_CHECKING:
    from patchbank.detector import Detector

_IMAGES, _ROWS, _KEPT, _FEW = 6, 100_000, 5_000, 1_000  # fewer rows fill a pool in another way
_EACH = 3  # times that a stage is taken, the fastest counts


def measure(detector: Detector) -> tuple[Rates, Extractor]:
    """What one worker of this machine's kind does in a second, on the threads of the detector; and the extractor, which
    knows patches and their dimension."""
    extractor = detector.extractor
    with detector.context.active():
        images = _images_per_second(extractor)
        points = _drawn(_ROWS, extractor.dimension)
        anchor = row_norms(points)
        few, many = (_seconds_of_selection(points, anchor, count) for count in (_FEW, _KEPT))
        bounds = np.random.default_rng(0).random(1_000_000)
        scanned = len(bounds) / _fastest(lambda: np.partition(bounds, -POOL))
        index = make_index(points[:_KEPT].clone())
        searched = 4096 * _KEPT / _fastest(lambda: index.nearest(points[-4096:]))
        pool = points[:POOL].numpy()
        far = np.full(len(pool), np.inf)
        seconds = _fastest(lambda: select_in_pool(pool, np.arange(len(pool)), far.copy(), -np.inf, -1, 256))
        begun = Begun(np.empty(0, np.int64), np.empty((0, points.shape[1]), np.float32))
        select_from_shards(_One(points, anchor), _KEPT, points.shape[1], begun=begun)
    selected = _KEPT / begun.traffic.rounds / POOL
    pool_pairs = len(pool) * 256 / seconds
    # what grows with the centres, less what the driver does for each; the rest grows with the points
    of_centre = max(many - few, 1e-9) / (_KEPT - _FEW)
    points_per_second = _ROWS / max(few - of_centre * _FEW, 1e-3)
    centres = 1 / max(of_centre - POOL / pool_pairs, 1e-7)
    return Rates(images, points_per_second, centres, scanned, pool_pairs, searched, selected), extractor


def _seconds_of_selection(points: Tensor, anchor: Tensor, count: int) -> float:
    select_from_shards(_One(points[:5000].contiguous(), anchor[:5000]), 64, points.shape[1])  # compiled
    started = time.perf_counter()
    select_from_shards(_One(points, anchor), count, points.shape[1])
    return time.perf_counter() - started


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
