"""Local scale: the equations of its module."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.training.literal import Array, values

OPTIONS: dict[str, Any] = {"image_size": 96, "epochs": 2, "batch": 96, "hidden": 64, "coreset": 0.2, "stiffness": 0.01}


def scale(w: dict[str, Array], difference: Array, nearest: Array) -> float:
    """s of one difference to one vector of the bank."""
    direction = difference / w["statistics.scale"]
    direction = direction / math.sqrt(sum(direction**2)) * math.sqrt(len(direction))
    x = np.concatenate([direction, (nearest - w["statistics.offset"]) / w["statistics.scale"]])
    for layer in (0, 2):
        x = w[f"layers.{layer}.weight"] @ x + w[f"layers.{layer}.bias"]
        x = np.where(x > 0, x, 0.2 * x)
    # at an output of 0 the scale is 1
    return math.log1p(math.exp(float(w["layers.4.weight"][0] @ x + w["layers.4.bias"][0])) * (math.e - 1))


def to_nearest(w: dict[str, Array], vector: Array, left_out: Array | None = None) -> tuple[float, float]:
    """The distance to the nearest vector of the bank that is not left out, and s there."""
    distances = np.sqrt(((w["bank"] - vector) ** 2).sum(1))
    if left_out is not None:
        distances[left_out] = np.inf
    nearest = w["bank"][distances.argmin()]
    return float(distances.min()), scale(w, vector - nearest, nearest)


def forward(network: nn.Module, vectors: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Eq. 1."""
    w = values(network)
    found = [to_nearest(w, vector) for vector in vectors.astype(np.float64)]
    return np.array([distance / s for distance, s in found])


def loss(task: Any, numbers: torch.Tensor, seed: int) -> float:
    """Eq. 2."""
    w, generator = values(task.network), torch.Generator().manual_seed(seed)
    good = task.items.vectors[numbers].double().numpy()
    images = [max(i for i, start in enumerate(task.items.starts) if start <= row) for row in numbers.tolist()]
    left_out = [task.owner.numpy() == task.part_of[image] for image in images]
    left_out = [own & (not own.all()) for own in left_out]
    found = [to_nearest(w, x, own) for x, own in zip(good, left_out, strict=True)]
    far, kind = torch.rand(2, len(good), generator=generator).double().numpy()
    noise = torch.randn(good.shape, generator=generator).double().numpy()
    mean_distance, moved = np.mean([distance for distance, _ in found]), []
    for i, x in enumerate(good):
        step = w["statistics.scale"] / math.sqrt(sum(w["statistics.scale"] ** 2)) * noise[i]
        if kind[i] >= 0.5:
            step = (good[i - 1] - x) / math.sqrt(sum((good[i - 1] - x) ** 2))
        moved.append(x + (1 + 3 * far[i]) * mean_distance * step)
    anomalous = [to_nearest(w, x, own) for x, own in zip(moved, left_out, strict=True)]
    highest = sorted(math.log(d / s) for d, s in found)[-max(1, int(0.05 * len(good))) :]
    ranked = [math.log1p(math.exp(g - math.log(d / s))) for g in highest for d, s in anomalous]
    stiff = np.mean([math.log(s) ** 2 for _, s in (*found, *anomalous)])
    return float(np.mean(ranked) + OPTIONS["stiffness"] * stiff)
