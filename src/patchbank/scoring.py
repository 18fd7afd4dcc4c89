"""Patch distances → anomaly map and image score (PatchCore §3.3)."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from patchbank.prediction import Region

IMAGE_SCORES = ("max", "smoothed", "top")
TOP_SHARE = 0.01


def anomaly_map(distances: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Patch distances h×w → map at the inspected size (height, width): bilinear, then a Gaussian of `sigma` pixels."""
    values = F.interpolate(distances[None, None], size=size, mode="bilinear", align_corners=False)
    return gaussian_blur(values, sigma)[0, 0]


def gaussian_blur(values: Tensor, sigma: float) -> Tensor:
    """B×1×H×W blurred as `scipy.ndimage.gaussian_filter` does: cut at 4σ, edge pixels mirrored."""
    radius = int(4 * sigma + 0.5)
    if radius == 0:
        return values
    kernel = _gaussian(sigma, radius).to(values.device)
    vertical, horizontal = kernel[None, None, :, None], kernel[None, None, None, :]
    values = F.conv2d(_mirror(values, radius, dim=2), vertical)
    return F.conv2d(_mirror(values, radius, dim=3), horizontal)


@lru_cache(maxsize=8)
def _gaussian(sigma: float, radius: int) -> Tensor:
    x = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    return (kernel / kernel.sum()).float()


def _mirror(values: Tensor, radius: int, dim: int) -> Tensor:
    """Extend by `radius` on both sides of a dimension, d c b a | a b c d | d c b a, as often as needed."""
    length = values.shape[dim]
    positions = torch.arange(-radius, length + radius, device=values.device) % (2 * length)
    return values.index_select(dim, torch.minimum(positions, 2 * length - 1 - positions))


def reweight(patch: Tensor, nearest: Tensor, neighbourhood: Tensor) -> float:
    """The factor of Eq. 7 for the worst patch: 1 − exp‖m_test − m*‖ / Σ_{m ∈ N_b(m*)} exp‖m_test − m‖.

    `patch` m_test: D; `nearest` m*: D; `neighbourhood` N_b(m*): b×D, m* among them. A softmax, so it cannot overflow.
    """
    to_nearest = torch.linalg.vector_norm(patch - nearest)
    to_others = torch.linalg.vector_norm(neighbourhood - patch, dim=1)
    return float(1 - torch.exp(to_nearest - torch.logsumexp(to_others, 0)))


def image_score(kind: str, distances: Tensor, smoothed: Tensor) -> float:
    """One number for an image from its patch distances h×w and its map at the inspected size.

    `max`: the largest patch distance (Eq. 6); `smoothed`: the maximum of the map; `top`: the mean of the top 1 % of patches.
    """
    if kind == "smoothed":
        return float(smoothed.max())
    if kind == "top":
        count = max(1, round(TOP_SHARE * distances.numel()))
        return float(torch.topk(distances.flatten(), count).values.mean())
    return float(distances.max())


def find_regions(anomaly_map: NDArray[np.float32], threshold: float) -> tuple[Region, ...]:
    """8-connected regions of the map at or above the threshold, largest first; NaN is below everything."""
    above = np.nan_to_num(anomaly_map, nan=-np.inf) >= threshold
    if not above.any():
        return ()
    count, labels, stats, _ = cv2.connectedComponentsWithStats(above.astype(np.uint8), connectivity=8)
    peaks = np.full(count, -np.inf, dtype=np.float32)
    np.maximum.at(peaks, labels[above], anomaly_map[above])
    regions = []
    for (left, top, width, height, area), peak in zip(stats[1:].tolist(), peaks[1:].tolist(), strict=True):
        regions.append(Region((left, top, left + width, top + height), area, peak))
    return tuple(sorted(regions, key=lambda r: (-r.area, r.box)))
