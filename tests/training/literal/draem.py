"""DRAEM, Zavrtanik et al. 2021: Eq. 2 to 4, on networks written out layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import conv2d

from tests.training.literal import Array, values

OPTIONS: dict[str, Any] = {"image_size": 64, "width": 0.05, "epochs": 20, "batch": 2, "learning_rate": 0.003}


def convolved(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """B×C×h×w by a 3×3 convolution, 0 outside."""
    moved = None if bias is None else torch.from_numpy(bias)
    found: Array = conv2d(torch.from_numpy(x), torch.from_numpy(weight), moved, padding=1).numpy()
    return found


def layer(weights: dict[str, Array], name: str, number: int, x: Array, learning: bool) -> Array:
    """Convolution, batch norm by the batch (learning) or by what was kept, and max(0, ·)."""
    x = convolved(x, weights[f"{name}.{number}.weight"])
    norm = f"{name}.{number + 1}"
    if learning:
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    else:
        mean, variance = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
    gain, offset = weights[f"{norm}.weight"], weights[f"{norm}.bias"]
    shaped = [each[:, None, None] for each in (mean, variance, gain, offset)]
    return np.maximum(0, (x - shaped[0]) / np.sqrt(shaped[1] + 1e-5) * shaped[2] + shaped[3])


def block(weights: dict[str, Array], name: str, x: Array, learning: bool) -> Array:
    return layer(weights, name, 3, layer(weights, name, 0, x, learning), learning)


def halved(x: Array) -> Array:
    """The largest of each 2×2."""
    return np.maximum.reduce([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)])


def doubled(x: Array) -> Array:
    """Bilinear: a new pixel is 3/4 of the old one that it lies in and 1/4 of that beside it, along each axis."""
    for axis in (2, 3):
        before = np.concatenate([x.take([0], axis), x], axis).take(range(x.shape[axis]), axis)
        after = np.concatenate([x, x.take([-1], axis)], axis).take(range(1, x.shape[axis] + 1), axis)
        pairs = np.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        x = pairs.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])
    return x


def hourglass(weights: dict[str, Array], name: str, x: Array, levels: int, skips: bool, learning: bool) -> Array:
    """Down through `levels` blocks and up again."""
    sides = []
    for i in range(levels):
        x = block(weights, f"{name}.down.{i}", halved(x) if i else x, learning)
        sides.append(x)
    for i in range(levels - 1):
        x = layer(weights, f"{name}.enlarge.{i}", 0, doubled(x), learning)
        x = np.concatenate([x, sides[levels - 2 - i]], 1) if skips else x
        x = block(weights, f"{name}.up.{i}", x, learning)
    return convolved(x, weights[f"{name}.last.weight"], weights[f"{name}.last.bias"])


def both(weights: dict[str, Array], pictures: Array, learning: bool) -> tuple[Array, Array]:
    """Rebuilt pictures and the probabilities of an anomaly, B×h×w."""
    rebuilt = hourglass(weights, "rebuild", pictures, 5, False, learning)
    logits = hourglass(weights, "mark", np.concatenate([rebuilt, pictures], 1), 6, True, learning)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return rebuilt, powers[:, 1] / powers.sum(1)


def forward(network: nn.Module, vectors: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The probability that each pixel is anomalous."""
    picture = vectors.astype(np.float64).reshape(1, *grid, 3).transpose(0, 3, 1, 2)
    found: np.ndarray = both(values(network), picture, False)[1].reshape(-1)
    return found


def ssim(a: Array, b: Array) -> Array:
    """Structural similarity with an 11×11 Gaussian window of σ = 1.5 pixels. At the border its part inside counts."""
    at = np.arange(11) - 5
    window = np.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.5**2))

    def mean(x: Array) -> Array:
        planes = torch.from_numpy(x.reshape(-1, 1, *x.shape[2:]))
        kernel = torch.from_numpy(window)[None, None]
        totals = conv2d(torch.ones_like(planes), kernel, padding=5)
        found: Array = (conv2d(planes, kernel, padding=5) / totals).numpy().reshape(x.shape)
        return found

    spread_a, spread_b = mean(a * a) - mean(a) ** 2, mean(b * b) - mean(b) ** 2
    together = mean(a * b) - mean(a) * mean(b)
    similar = (2 * mean(a) * mean(b) + 0.01**2) * (2 * together + 0.03**2)
    return similar / ((mean(a) ** 2 + mean(b) ** 2 + 0.01**2) * (spread_a + spread_b + 0.03**2))


def loss(task: Any, numbers: torch.Tensor, seed: int) -> float:
    """Mean of 1 − SSIM, plus the mean squared difference, plus the focal loss with γ = 2."""
    grid = task.items.grid(numbers)
    good = task.items.vectors(numbers).reshape(-1, *grid, 3).permute(0, 3, 1, 2)
    damaged, mask = task.anomalies.applied(good, torch.Generator().manual_seed(seed))
    rebuilt, anomalous = both(values(task.network), damaged.double().numpy(), True)
    pictures, there = good.double().numpy(), mask[:, 0].numpy() == 1
    of_truth = np.where(there, anomalous, 1 - anomalous)
    focal = -((1 - of_truth) ** 2) * np.log(of_truth)
    return float((1 - ssim(pictures, rebuilt)).mean() + ((rebuilt - pictures) ** 2).mean() + focal.mean())
