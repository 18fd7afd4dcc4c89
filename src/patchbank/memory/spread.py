"""How far the vectors of a region spread, in units of their level (FAPM §2.2)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchbank.features.storage import take

SAMPLE = 32  # vectors of each region that the spread of a level is measured on


def cluster_spread(squared: NDArray[np.float64]) -> NDArray[np.float64]:
    """Eq. 1: d = 1 − 2/(1 + exp(‖v_far − v'‖²)), in 0..1."""
    return np.tanh(squared / 2)


def to_nearest_other(vectors: Tensor, rng: np.random.Generator) -> Tensor:
    """Squared distances of some of N×C vectors to their nearest other one."""
    some = torch.from_numpy(rng.choice(len(vectors), min(SAMPLE, len(vectors)), replace=False))
    if not isinstance(vectors, Tensor):  # of one region: all are needed at one place
        vectors = take(vectors, torch.arange(len(vectors)))
    to_all = torch.cdist(vectors[some], vectors, compute_mode="donot_use_mm_for_euclid_dist").square()
    to_all[torch.arange(len(some)), some] = torch.inf
    nearest = to_all.min(1).values
    return nearest[torch.isfinite(nearest)]
