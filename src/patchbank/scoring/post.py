"""Patch scores → score and map of one image: the same for every method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchbank._system.threads import on_this_thread
from patchbank.calibration.position_scale import PositionScale
from patchbank.data import Lattice, View
from patchbank.features.area import Area
from patchbank.scoring.maps import anomaly_map, highest_in_cells, image_score
from patchbank.scoring.patch_scores import PatchScores


@dataclass(frozen=True, eq=False)
class Scored:
    """One image: its score, the `smoothed` map at the inspected size (None without one), the map's peak (NaN without
    one), the scores of its patches on a grid; how far the patches at the peak are from good ones in each of several
    channels, K standardised distances, None for one channel; whether the score is the peak, but for a re-weighting."""

    score: float
    smoothed: NDArray[np.float32] | None
    peak: float
    patches: PatchScores
    by_channel: NDArray[np.float32] | None = None
    is_peak: bool = False

    def cells(self, area: Area | None) -> NDArray[np.float32] | None:
        """How high the map is in each of several cells, for an ensemble; None where the score is not its peak."""
        if self.smoothed is None or not self.is_peak:
            return None
        return highest_in_cells(self.smoothed, None if area is None else area.cells(self.smoothed.shape))


@dataclass(frozen=True, eq=False)
class Compared:
    """One image after the comparison with the memory, before its map.

    Attributes:
        scores: in the order of the vectors of the `grid`, or on a finer grid of their own.
        grid: (rows, columns) of the patches.
        inspected: (height, width) of the map.
        area: what of it is inspected; None for all.
        normal: what the image score is shifted and divided by.
        fuse: maps of several channels, K×H×W, to one.
    """

    scores: PatchScores
    grid: tuple[int, int]
    inspected: tuple[int, int]
    area: Area | None
    normal: tuple[float, float]
    fuse: Callable[[Tensor], Tensor] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of its distances."""
        tensors = (self.scores.distances, self.scores.nearest, self.scores.by_channel)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


@dataclass(frozen=True)
class Post:
    """What follows the comparison.

    Attributes:
        image_score: how patch distances become a score, one of `maps.IMAGE_SCORES`.
        sigma: of the map's Gaussian, in pixels at the inspected size.
        lattice: where the patches lie.
        scale: what the map is divided by at each place; None for nothing.
    """

    image_score: str
    sigma: float
    lattice: Lattice
    scale: PositionScale | None = None

    def score(
        self,
        scorer: Any,
        points: Tensor,
        grid: tuple[int, int],
        view: View,
        area: Area | None,
        exclude: int | None = None,
    ) -> Scored:
        """One image by its prepared patches; `exclude`: the number of a training image, left out of the memory."""
        return self.finish(self.compared(scorer, points, grid, view, area, exclude))

    def compared(
        self,
        scorer: Any,
        points: Tensor,
        grid: tuple[int, int],
        view: View,
        area: Area | None,
        exclude: int | None = None,
    ) -> Compared:
        """The first half of `score`: the patches against the memory."""
        cells = None
        if area is not None and scorer.keeps_grid:
            cells = torch.from_numpy(area.cells(grid)).to(points.device)
        scores = scorer.compare(points, grid, cells, exclude)
        fusion = getattr(scorer, "fusion", None)
        fuse = fusion if fusion and fusion.is_of_maps else None
        return Compared(scores, grid, view.inspected, area, scorer.normal, fuse)

    def finish(self, compared: Compared) -> Scored:
        """The second half: patch scores → map and image score."""
        scores, grid, inspected, area = compared.scores, compared.grid, compared.inspected, compared.area
        normal, fuse = compared.normal, compared.fuse
        if scores.distances is None:
            assert scores.image is not None
            return Scored(_normalised(float(scores.image), normal), None, np.nan, scores)
        device = scores.distances.device
        if scores.distances.ndim == 1:
            on_grid = None if area is None else torch.from_numpy(area.cells(grid)).to(device)
            scores = scores.on_grid(grid, on_grid)
        assert scores.distances is not None
        fine = (scores.distances.shape[0], scores.distances.shape[1])
        cells = None if area is None else torch.from_numpy(area.cells(fine)).to(device)
        with on_this_thread():
            if fuse is None or scores.by_channel is None:
                smoothed = anomaly_map(scores.distances, inspected, self.sigma, cells, self.lattice)
            else:
                maps = [anomaly_map(one, inspected, self.sigma, cells, self.lattice) for one in scores.by_channel]
                smoothed = fuse(torch.from_numpy(np.stack(maps))).numpy()
            if self.scale is not None:
                smoothed = smoothed / self.scale.at(inspected)
            seen, distances = smoothed, scores.distances
            if area is not None:
                seen, distances = smoothed[area.cells(inspected)], distances[cells]
            if scores.image is None:
                score = image_score(self.image_score, distances, seen) * float(scores.factor)
            else:
                score = float(scores.image)
        by_channel = None if scores.by_channel is None else at_peak(scores.by_channel, smoothed, self.lattice, cells)
        is_peak = scores.image is None and self.image_score == "smoothed" and normal == (0, 1)
        patches = replace(scores, image=None)
        return Scored(_normalised(score, normal), smoothed, float(seen.max()), patches, by_channel, is_peak)


def at_peak(
    by_channel: Tensor, smoothed: NDArray[np.float32], lattice: Lattice, inspected: Tensor | None
) -> NDArray[np.float32]:
    """K×h×w distances and the fused map → K: their means over the 3×3 patches around the peak of the map."""
    seen = smoothed if inspected is None else np.where(_enlarged(inspected, smoothed.shape), smoothed, -np.inf)
    peak = np.unravel_index(int(seen.argmax()), seen.shape)
    place = []
    for axis in (0, 1):
        count = int(by_channel.shape[1 + axis])
        first, step = lattice.along(axis, count, smoothed.shape[axis])
        place.append(min(max(round((int(peak[axis]) - first) / step), 0), count - 1))
    row, column = place
    around = by_channel[:, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
    means: NDArray[np.float32] = around.mean((1, 2)).cpu().numpy()
    return means


def _enlarged(cells: Tensor, size: tuple[int, ...]) -> NDArray[np.bool_]:
    rows, columns = (np.arange(size[axis]) * cells.shape[axis] // size[axis] for axis in (0, 1))
    return cells.cpu().numpy()[rows][:, columns]


def _normalised(score: float, normal: tuple[float, float]) -> float:
    return (score - normal[0]) / normal[1]
