"""EfficientAD-S, Batzner et al. 2024: Algorithms 1 and 2, on the networks of Tables 6 and 8."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import conv2d

from patchbank.training.anomalies.draws import generators
from tests.training.literal import Array, values

OPTIONS: dict[str, Any] = {"image_size": 64, "width": 0.1, "epochs": 20, "learning_rate": 0.005}


def convolved(weights: dict[str, Array], name: str, x: Array, padding: int, stride: int = 1) -> Array:
    kernel, bias = (torch.from_numpy(weights[f"{name}.{part}"]) for part in ("weight", "bias"))
    found: Array = conv2d(torch.from_numpy(x), kernel, bias, stride=stride, padding=padding).numpy()
    return found


def pooled(x: Array) -> Array:
    """The mean of each 2×2, with a border of zeros that count."""
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    x = x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
    return np.mean([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)


def described(weights: dict[str, Array], name: str, x: Array) -> Array:
    """Table 6: 4×4, pool, 4×4, pool, 3×3, 4×4."""
    x = pooled(np.maximum(0, convolved(weights, f"{name}.0", x, 3)))
    x = pooled(np.maximum(0, convolved(weights, f"{name}.3", x, 3)))
    return convolved(weights, f"{name}.8", np.maximum(0, convolved(weights, f"{name}.6", x, 1)), 0)


def bilinear(x: Array, size: tuple[int, int]) -> Array:
    """Each new pixel lies between two old ones along each axis; beyond the first and last there is nothing new."""
    for axis, count in zip((2, 3), size, strict=True):
        old = x.shape[axis]
        at = [min(max((i + 0.5) * old / count - 0.5, 0), old - 1) for i in range(count)]
        slices = []
        for place in at:
            low = int(place)
            share = place - low
            slices.append((1 - share) * x.take(low, axis) + share * x.take(min(low + 1, old - 1), axis))
        x = np.stack(slices, axis)
    return x


def rebuilt(weights: dict[str, Array], x: Array, size: tuple[int, int], generator: torch.Generator | None) -> Array:
    """Table 8. `generator`: of the places that dropout sets to 0, a fifth."""
    x = bilinear(x, (256, 256))
    for i in range(5):
        x = np.maximum(0, convolved(weights, f"autoencoder.encode.{i}", x, 1, 2))
    x = convolved(weights, "autoencoder.latent", x, 0)
    assert x.shape[1:] == (64, 1, 1)
    for i, side in enumerate((3, 8, 15, 32, 63, 127)):
        x = np.maximum(0, convolved(weights, f"autoencoder.decode.{i}", bilinear(x, (side, side)), 2))
        if generator is not None:
            x = x * (torch.rand(x.shape, generator=generator).numpy() >= 0.2) / 0.8
    x = np.maximum(0, convolved(weights, "autoencoder.rebuild", bilinear(x, size), 1))
    return convolved(weights, "autoencoder.last", x, 1)


def seen(pictures: Array) -> Array:
    """With the mean and deviation of the colours of ImageNet."""
    mean, scale = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return (pictures - mean[:, None, None]) / scale[:, None, None]


def taught(weights: dict[str, Array], x: Array) -> Array:
    mean, scale = (weights[f"statistics.{name}"][:, None, None] for name in ("offset", "scale"))
    return (described(weights, "teacher", x) - mean) / scale


def forward(network: nn.Module, vectors: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Algorithm 2."""
    w = values(network)
    x = seen(vectors.astype(np.float64).reshape(1, *grid, 3).transpose(0, 3, 1, 2))
    target, student = taught(w, x), described(w, "student", x)
    channels = target.shape[1]
    of_rebuilding = rebuilt(w, x, (grid[0] // 4, grid[1] // 4), None)
    total = np.zeros(grid)
    pairs = [(target, student[:, :channels]), (of_rebuilding, student[:, channels:])]
    for (one, other), (first, second) in zip(pairs, w["scale.quantiles"], strict=True):
        enlarged = bilinear(((one - other) ** 2).mean(1, keepdims=True), grid)[0, 0]
        total += 0.1 * (enlarged - first) / (second - first)
    return (total / 2).reshape(-1)


def recoloured(picture: Array, which: int, factor: float) -> Array:
    """Brighter, of more contrast or more saturated by a factor, or less."""
    grey = 0.299 * picture[0] + 0.587 * picture[1] + 0.114 * picture[2]
    towards = [0.0, grey.mean(), grey][which]
    return np.clip(factor * picture + (1 - factor) * towards, 0, 1)


def loss(task: Any, numbers: torch.Tensor, seed: int) -> float:
    """Algorithm 1, lines 15 to 36."""
    w, generator, channels = values(task.network), torch.Generator().manual_seed(seed), task.network.outputs
    grid = task.items.grid(numbers)
    good = task.items.vectors(torch.tensor(task.items.chosen)[numbers]).double().numpy()
    good = good.reshape(-1, *grid, 3).transpose(0, 3, 1, 2)
    penalty = 0.0
    if task.others is not None:
        drawn = [task.others.texture(np.zeros((*grid, 3), np.float32), rng) for rng in generators(generator, len(good))]
        of_others = described(w, "student", seen(np.stack(drawn).astype(np.float64).transpose(0, 3, 1, 2)))
        penalty = float((of_others[:, :channels] ** 2).mean())
    which = torch.randint(3, (len(good),), generator=generator).tolist()
    factors = 0.8 + 0.4 * torch.rand(len(good), generator=generator).double().numpy()
    changed = seen(np.stack([recoloured(*each) for each in zip(good, which, factors, strict=True)]))
    x = seen(good)
    squared = (taught(w, x) - described(w, "student", x)[:, :channels]) ** 2
    hard = squared[squared >= np.quantile(squared, 0.999)].mean()
    target = taught(w, changed)
    again = rebuilt(w, changed, target.shape[2:], generator)
    like_rebuilt = described(w, "student", changed)[:, channels:]
    return float(hard + penalty + ((target - again) ** 2).mean() + ((again - like_rebuilt) ** 2).mean())
