"""Patch distances → anomaly map and image score (PatchCore §3.3)."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from patchbank.data.lattice import EVEN, Lattice
from patchbank.prediction import Prediction

if TYPE_CHECKING:  # an exported model finds its regions without torch
    from torch import Tensor

IMAGE_SCORES = ("max", "smoothed", "top")
TOP_SHARE = 0.01
CELLS = 64  # along each side; with 16 the mean of several maps tells good from bad less well


def anomaly_map(
    distances: Tensor, size: tuple[int, int], sigma: float, inside: Tensor | None = None, lattice: Lattice = EVEN
) -> NDArray[np.float32]:
    """Patch distances h×w → map at the inspected size (height, width): bilinear, then a Gaussian of `sigma` pixels.

    `lattice`: where the patches lie; the outermost distances continue to the edges. The Gaussian is that of
    `scipy.ndimage.gaussian_filter`: cut at 4σ, edges mirrored. Both are linear and act on rows and columns apart, so
    the map is one matrix times the distances times another. With `inside` (h×w bool) the distances outside do not
    count: the Gaussian is normalised by what is inside.
    """
    down, across = (matrix.to(distances.device) for matrix in enlarging(distances.shape, size, sigma, lattice))
    if inside is None:
        return np.asarray((down @ distances @ across.T).cpu().numpy())
    there = inside.to(distances.dtype)
    weight = down @ there @ across.T
    smoothed = (down @ (distances * there) @ across.T) / weight.clamp(min=1e-6)
    return np.asarray(smoothed.cpu().numpy())


def enlarging(
    grid: tuple[int, ...], size: tuple[int, int], sigma: float, lattice: Lattice = EVEN
) -> tuple[Tensor, Tensor]:
    """The two matrices of `anomaly_map`, pixels×cells: down the columns, and across the rows."""
    down, across = (
        enlarge_and_smooth(cells, pixels, sigma, *lattice.along(axis, cells, pixels))
        for axis, (cells, pixels) in enumerate(zip(grid, size, strict=True))
    )
    return down, across


@lru_cache(maxsize=16)  # of 33 MB each for a side of 8192 pixels
def enlarge_and_smooth(cells: int, pixels: int, sigma: float, first: float, step: float) -> Tensor:
    """pixels×cells: what each cell adds to each pixel of one row or column; the centre of cell k is at first + k·step,
    where pixel centres have whole numbers."""
    import torch

    centre = np.clip((np.arange(pixels) - first) / step, 0, cells - 1)
    left = np.minimum(np.floor(centre).astype(int), max(cells - 2, 0))
    enlarge = np.zeros((pixels, cells))
    enlarge[np.arange(pixels), left] = 1 - (centre - left)
    enlarge[np.arange(pixels), np.minimum(left + 1, cells - 1)] += centre - left
    radius = int(4 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-9)) ** 2)
    mirrored = np.pad(enlarge, ((radius, radius), (0, 0)), mode="symmetric")
    smooth = sum(weight * mirrored[i : i + pixels] for i, weight in enumerate(kernel / kernel.sum()))
    return torch.from_numpy(np.asarray(smooth, dtype=np.float32))


def image_score(kind: str, distances: Tensor, smoothed: NDArray[np.float32]) -> float:
    """One number for an image from its patch distances h×w and its map at the inspected size.

    `max`: the largest patch distance (Eq. 6); `smoothed`: the maximum of the map; `top`: the mean of the top 1 % of
    patches.
    """
    if kind == "smoothed":
        return float(smoothed.max())
    if kind == "top":
        import torch

        count = max(1, round(TOP_SHARE * distances.numel()))
        return float(torch.topk(distances.flatten(), count).values.mean())
    return float(distances.max())


def highest_in_cells(anomaly: NDArray[np.float32], inspected: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """H×W map → CELLS×CELLS maxima, −inf where no pixel is `inspected` (H×W). A side below CELLS repeats its pixels."""
    if inspected is not None:
        anomaly = np.where(inspected, anomaly, np.float32(-np.inf))
    down, across = (np.arange(CELLS + 1) * size // CELLS for size in anomaly.shape)
    rows = [anomaly[top : max(bottom, top + 1)].max(axis=0) for top, bottom in pairwise(down.tolist())]
    return np.asarray(np.maximum.reduceat(np.stack(rows), across[:-1], axis=1), dtype=np.float32)


def peaks(prediction: Prediction, count: int = 3) -> list[tuple[int, int]]:
    """(column, row) of the highest pixel of each region, the strongest first; of the map where there are none."""
    anomaly = np.nan_to_num(prediction.map, nan=-np.inf)
    height, width = anomaly.shape
    boxes = [region.box for region in sorted(prediction.regions, key=lambda r: -r.score)[:count]]
    found = []
    for left, top, right, bottom in boxes or [(0, 0, width, height)]:
        y, x = np.unravel_index(anomaly[top:bottom, left:right].argmax(), (bottom - top, right - left))
        found.append((left + int(x), top + int(y)))
    return found
