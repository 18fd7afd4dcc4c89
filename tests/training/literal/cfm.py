"""Crossmodal feature mapping, Costanzino et al. 2024."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.training.literal import Array, values

NOT_EXPORTED = "a graph sees one picture"
OPTIONS: dict[str, Any] = {
    "image_size": 96, "hidden": (32,), "epochs": 10, "batch": 128, "learning_rate": 0.003,
    "channels": ("rgb", "normals"),
}  # fmt: skip


def mapped(weights: dict[str, Array], name: str, vector: Array) -> Array:
    """One of the two networks: linear, GELU, linear."""
    hidden = weights[f"mapping.{name}.0.weight"] @ vector + weights[f"mapping.{name}.0.bias"]
    active = np.array([0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in hidden])
    found: Array = weights[f"mapping.{name}.2.weight"] @ active + weights[f"mapping.{name}.2.bias"]
    return found


def distances(weights: dict[str, Array], vector: Array) -> tuple[float, float]:
    """1 − cos of what each network predicts for one place."""
    standard = (vector - weights["statistics.offset"]) / weights["statistics.scale"]
    width = weights["mapping.to_b.0.weight"].shape[1]
    a, b = standard[:width], standard[width:]
    found = [(mapped(weights, "to_a", b), a), (mapped(weights, "to_b", a), b)]
    one, two = (1 - float(x @ y) / math.sqrt(float(x @ x) * float(y @ y)) for x, y in found)
    return one, two


def forward(network: nn.Module, vectors: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The product of both distances, 0 where a channel has nothing."""
    w = values(network)
    width, scores = w["mapping.to_b.0.weight"].shape[1], []
    for vector in vectors.astype(np.float64):
        present = vector[:width].any() and vector[width:].any()
        scores.append(math.prod(distances(w, vector)) if present else 0.0)
    return np.array(scores)


def loss(task: Any, numbers: torch.Tensor, seed: int) -> float:
    """The sum of both distances, mean over the places of the batch."""
    w = values(task.network)
    parts = [items.vectors[numbers].double().numpy() for items in (task.items, task._others)]
    found = [distances(w, vector) for vector in np.concatenate(parts, 1)]
    return float(np.mean(np.sum(found, axis=1)))
