"""What the memories of several channels say of good samples that are left out of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchbank.features.store import FeatureStore
from patchbank.sample import parts_of
from patchbank.scorer import PatchScores
from patchbank.scoring.maps import anomaly_map

Found: TypeAlias = tuple[int, NDArray[np.float64]]  # number of the sample, and K×P, K×h×w or K distances

_LOOKED_AT = 48  # samples
_NOBODY = -1  # the number of no sample


def good_distances(members: Sequence[Any], features: FeatureStore, stores: Sequence[FeatureStore]) -> list[Found]:
    """What K scorers say of some good samples, each without its own patches, as far as a scorer can leave them out.

    Args:
        members: the scorers, fitted.
        features: of all channels.
        stores: those of each.

    Returns:
        The number of each sample, and K×P or K×h×w distances of its patches (K, for methods without a map).
    """
    upright = [i for i, ref in enumerate(features.refs) if not ref.angle]
    some = upright[:: max(1, -(-len(upright) // _LOOKED_AT))]
    if len(set(parts_of(features.refs))) < 2:  # nothing is left without it
        return _unknown(members, stores)
    known = []
    for i in some:
        of_members = []
        for member, store in zip(members, stores, strict=True):
            vectors = store.of_image(i)
            points = vectors if store.prepared else member.prepare(vectors)
            cells = _cells(features.inspected[i], points.device) if members[0].keeps_grid else None
            scores = member.compare(points, features.refs[i].grid, cells, i)
            found = scores.distances if scores.distances is not None else torch.as_tensor(scores.image)
            of_members.append(found.double().cpu().numpy())
        distances = np.stack(of_members)
        if np.isfinite(distances).all():  # not so where a bank comes from one image
            known.append((i, distances))
    return known or _unknown(members, stores)


def _unknown(members: Sequence[Any], stores: Sequence[FeatureStore]) -> list[Found]:
    """In place of distances that nobody knows, of no sample: such that their mean and spread are the spread of the
    patches."""
    spreads = []
    for member, store in zip(members, stores, strict=True):
        vectors = store.of_image(0)
        points = (vectors if store.prepared else member.prepare(vectors)).float()
        spreads.append(float(points.std(0).square().sum().sqrt()) if len(points) > 1 else 1.0)
    return [(_NOBODY, np.maximum(spreads, 1e-12)[:, None] * np.array([[0.0, 2.0]]))]


def peaks_of(features: FeatureStore, i: int, standard: Tensor, sigma: float) -> NDArray[np.float32]:
    """K: the largest value of each channel's map of sample i, whose standardised distances are K×P, K×h×w, or K."""
    if standard.ndim == 1:
        return standard.numpy()
    if i == _NOBODY:
        return np.asarray(standard.amax(1).numpy())
    view, inspected = features.views[i], _cells(features.inspected[i], standard.device)
    on_grid = PatchScores(standard[0], by_channel=standard).on_grid(features.refs[i].grid, inspected).by_channel
    assert on_grid is not None
    if inspected is not None and inspected.shape != on_grid.shape[1:]:
        inspected = None  # a finer grid: what is not inspected has distances of 0
    maps = [anomaly_map(grid, view.inspected, sigma, inspected) for grid in on_grid]
    return np.asarray([each.max() for each in maps], np.float32)


def largest(found: Sequence[Found]) -> NDArray[np.float64]:
    """N×K: the largest distance of each channel over the patches of each sample."""
    return np.stack([distances.reshape(len(distances), -1).max(1) for _, distances in found])


def _cells(inspected: NDArray[np.bool_] | None, device: torch.device) -> Tensor | None:
    return None if inspected is None else torch.from_numpy(inspected).to(device)
