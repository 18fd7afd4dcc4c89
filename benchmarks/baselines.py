"""What people run today, written down as plainly as possible: the other side of every ratio."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from torch import Tensor


def greedy_loop(points: Tensor, start: int, count: int) -> list[int]:
    """Farthest-first traversal, one pass over all points per selection: `addmv`, `minimum`, `argmax`."""
    squared = points.square().sum(1)
    distances = torch.full((len(points),), torch.inf)
    selected = [start]
    for _ in range(count - 1):
        new = points[selected[-1]]
        distances = torch.minimum(distances, torch.addmv(squared, points, new, alpha=-2) + squared[selected[-1]])
        distances[selected[-1]] = -torch.inf
        selected.append(int(distances.argmax()))
    return selected


def nearest_by_distance_matrix(queries: Tensor, bank: Tensor) -> Tensor:
    """The whole distance matrix, then its minimum."""
    return torch.cdist(queries, bank).min(1).values


def pixel_auroc(maps: NDArray[np.float32], masks: NDArray[np.bool_]) -> float:
    """scikit-learn on all pixels."""
    return float(roc_auc_score(masks.ravel(), maps.ravel()))


def pro_at(maps: NDArray[np.float32], masks: NDArray[np.bool_], threshold: float) -> tuple[float, float]:
    """One point of the PRO curve with scipy: false-positive rate and mean per-region overlap at one threshold."""
    above = maps >= threshold
    overlaps: list[float] = []
    for binary, mask in zip(above, masks, strict=True):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        overlaps.extend(ndimage.mean(binary, labels, range(1, count + 1)) if count else [])
    return float(above[~masks].mean()), float(np.mean(overlaps))
