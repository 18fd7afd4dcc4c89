"""FastFlow from its equations."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tests.training.literal import values
from tests.training.literal.flows import State, distance, enlarge, flow, maps_of, standardised, surprise, under

OPTIONS: dict[str, Any] = {"image_size": 64, "steps": 3, "hidden_ratio": 0.3, "epochs": 2, "batch": 4}


def convolved(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    around = [side // 2 for side in weight.shape[2:]]
    return F.conv2d(*(torch.from_numpy(each) for each in (x[None], weight, bias)), padding=around)[0].numpy()


def subnet(state: State, kept: np.ndarray) -> np.ndarray:
    hidden = np.maximum(convolved(kept, state["subnet.0.weight"], state["subnet.0.bias"]), 0)
    return convolved(hidden, state["subnet.2.weight"], state["subnet.2.bias"])


def of_levels(network, vectors: np.ndarray, grid) -> list[tuple[np.ndarray, np.ndarray]]:
    """z C×h×w of each level, and log |det| of each position."""
    weights = values(network)
    maps = maps_of(standardised(weights, vectors), grid, network.levels)
    return [flow(under(weights, f"flows.{i}."), one, 2.0, subnet) for i, one in enumerate(maps)]


def forward(network, vectors: np.ndarray, grid) -> np.ndarray:
    """½‖z‖² / C."""
    found = [distance(*level) for level in of_levels(network, vectors, grid)]
    return np.mean([enlarge(one, found[0].shape) for one in found], axis=0)


def loss(task, numbers: torch.Tensor, seed: int) -> float:
    """−log p / C, mean over positions and images, and over levels; of features with noise."""
    grid, vectors = task.items.grid(numbers), task.items.vectors(numbers)
    drawn = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(seed))
    vectors = vectors.numpy() + task.noise * values(task.network)["statistics.scale"] * drawn.numpy()
    images = [[surprise(*level) for level in of_levels(task.network, one, grid)] for one in vectors]
    return float(np.mean([np.mean([image[level] for image in images]) for level in range(len(images[0]))]))
