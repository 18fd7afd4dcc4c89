"""SimpleNet, Liu et al. 2023: Eq. 4 to 8."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from tests.training.literal import Array, values

OPTIONS: dict[str, Any] = {"image_size": 64, "noise": 0.5, "epochs": 8, "batch": 96}


def adapted(weights: dict[str, Array], vector: Array) -> Array:
    """G of one feature, standardised."""
    standard = (vector - weights["statistics.offset"]) / weights["statistics.scale"]
    found: Array = weights["adaptor.weight"] @ standard + weights["adaptor.bias"]
    return found


def rest(weights: dict[str, Array], hidden: Array, mean: Array, variance: Array) -> float:
    """D after its first layer: batch norm, leaky ReLU, and the last layer."""
    normal = (hidden - mean) / np.sqrt(variance + 1e-5)
    normal = normal * weights["discriminator.1.weight"] + weights["discriminator.1.bias"]
    return float(weights["discriminator.3.weight"][0] @ np.where(normal > 0, normal, 0.2 * normal))


def forward(network: nn.Module, vectors: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """−D(G(x)) of each patch."""
    w, scores = values(network), []
    for vector in vectors.astype(np.float64):
        hidden = w["discriminator.0.weight"] @ adapted(w, vector) + w["discriminator.0.bias"]
        scores.append(-rest(w, hidden, w["discriminator.1.running_mean"], w["discriminator.1.running_var"]))
    return np.array(scores)


def loss(task: Any, numbers: torch.Tensor, seed: int) -> float:
    """max(0, 0.5 − D(q)) + max(0, 0.5 + D(q + ε)), mean over the features of the batch."""
    w, features = values(task.network), task.items.vectors[numbers].double().numpy()
    drawn = torch.randn(features.shape, generator=torch.Generator().manual_seed(seed)).double().numpy()
    good = [adapted(w, feature) for feature in features]
    spread = np.std(good, axis=0)
    off = [q + OPTIONS["noise"] * spread * of_patch for q, of_patch in zip(good, drawn, strict=True)]
    hidden = np.array([w["discriminator.0.weight"] @ q + w["discriminator.0.bias"] for q in (*good, *off)])
    scores = [rest(w, each, hidden.mean(0), hidden.var(0)) for each in hidden]  # batch norm sees both halves at once
    half = len(features)
    of_good = sum(max(0.0, 0.5 - score) for score in scores[:half])
    of_off = sum(max(0.0, 0.5 + score) for score in scores[half:])
    return (of_good + of_off) / half
