"""Points without a network: farthest point sampling, nearest neighbours and interpolation, in plain torch.

Distances are differences of coordinates, never ‖a‖² + ‖b‖² − 2a·b: that loses the spacing of points that lie far from
the origin, as those of a camera do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from patchbank._system.threads import on_this_thread

_BLOCK = 1 << 24  # distances at a time


def farthest_points(points: Tensor, count: int) -> Tensor:
    """Indices of `count` points, or of all if there are fewer: the first one, then always the one that is farthest from
    those selected, the lowest index among equals (PointNet++, Qi et al. 2017, section 3.2).

    Args:
        points: N×3.
        count: how many to select.
    """
    count = min(count, len(points))
    columns = points.T.contiguous()
    distance = torch.full((len(points),), torch.inf, dtype=points.dtype, device=points.device)
    selected = torch.zeros(count, dtype=torch.int64, device=points.device)
    with on_this_thread():  # a step is a tenth of a millisecond of work: handing it to threads takes longer
        for i in range(1, count):
            difference = columns - columns[:, selected[i - 1], None]
            torch.minimum(distance, difference.square_().sum(0), out=distance)
            selected[i] = distance.argmax()
    return selected


def nearest_points(queries: Tensor, points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Distances and indices, each Q×k, of the k points nearest to each query, nearest first; of all if there are fewer.

    Args:
        queries: Q×3.
        points: N×3, in the same unit.
        k: neighbours of each query.
    """
    k = min(k, len(points))
    distance = torch.empty(len(queries), k, dtype=points.dtype, device=points.device)
    index = torch.empty(len(queries), k, dtype=torch.int64, device=points.device)
    step = max(1, _BLOCK // max(len(points), 1))
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        block = torch.cdist(queries[rows], points, compute_mode="donot_use_mm_for_euclid_dist")
        distance[rows], index[rows] = block.topk(k, dim=1, largest=False)
    return distance, index


def interpolation(centres: Tensor, points: Tensor, k: int = 3) -> tuple[Tensor, Tensor]:
    """Indices and weights, each N×k, with which the k nearest centres enter into each point.

    w_i ∝ 1/‖p − c_i‖², with a sum of 1 (PointNet++, Eq. 2 with p = 2, as in M3DM).

    A point that coincides with a centre takes that centre's feature.

    Args:
        centres: G×3.
        points: N×3, in the same unit.
        k: centres of each point; all if there are fewer.
    """
    distance, index = nearest_points(points, centres, k)
    # relative to the nearest: no unit, and no constant that matters in one unit and not in another
    closeness = (distance[:, :1] / distance).square()
    closeness = torch.where(distance == distance[:, :1], torch.ones_like(distance), closeness)  # also where both are 0
    return index, closeness / closeness.sum(1, keepdim=True)


def interpolate(centres: Tensor, centre_features: Tensor, points: Tensor, k: int = 3) -> Tensor:
    """N×D features of points from the G×D of their k nearest of G centres, weighted as by `interpolation`."""
    index, weight = interpolation(centres, points, k)
    return torch.einsum("nk,nkd->nd", weight, centre_features[index])
