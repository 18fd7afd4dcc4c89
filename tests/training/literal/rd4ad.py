"""Reverse distillation, Deng and Li 2022: Eq. 1 to 3, with convolutions of torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.training.literal import Array, values

OPTIONS: dict[str, Any] = {"image_size": 96, "epochs": 6, "batch": 2, "levels": (1, 2, 3), "width": 0.5}
STRIDES = (4, 8, 16)


def convolved(x: Array, weight: Array, bias: Array | None = None, stride: int = 1) -> Array:
    """Padded so that a stride of 1 keeps the size."""
    pad = weight.shape[-1] // 2
    given = None if bias is None else torch.from_numpy(bias)
    return F.conv2d(torch.from_numpy(x), torch.from_numpy(weight), given, stride, pad).numpy()  # type: ignore[no-any-return]


def enlarged(x: Array, weight: Array) -> Array:
    """Deconvolution whose kernel is as large as its stride: each position becomes a block."""
    size = weight.shape[-1]
    found = np.zeros((len(x), weight.shape[1], x.shape[2] * size, x.shape[3] * size))
    for i in range(size):
        for j in range(size):
            found[:, :, i::size, j::size] = np.einsum("bchw,co->bohw", x, weight[:, :, i, j])
    return found


class Reading:
    """The network by its weights; batch norms take the statistics of the batch while it learns."""

    def __init__(self, network: nn.Module, learns: bool):
        self.w, self.learns = values(network), learns

    def normed(self, x: Array, name: str) -> Array:
        w = self.w
        if self.learns:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
        else:
            mean, variance = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        factor = w[f"{name}.weight"] / np.sqrt(variance + 1e-5)
        found: Array = (x - mean[:, None, None]) * factor[:, None, None] + w[f"{name}.bias"][:, None, None]
        return found

    def embedded(self, teacher: list[Array]) -> Array:
        """Multi-scale feature fusion, then the block that halves the resolution."""
        together = []
        for j, x in enumerate(teacher):
            for step in range(len(teacher) - 1 - j):
                name = f"to_deepest.{j}.{step}"
                x = np.maximum(self.normed(convolved(x, self.w[f"{name}.0.weight"], stride=2), f"{name}.1"), 0)
            together.append(x)
        fused = np.maximum(self.normed(convolved(np.concatenate(together, 1), self.w["fuse.0.weight"]), "fuse.1"), 0)
        first = convolved(fused, self.w["embed.first.0.weight"], stride=2)
        return self.block("embed", first, convolved(fused, self.w["embed.shortcut.0.weight"], stride=2))

    def block(self, name: str, first: Array, shortcut: Array) -> Array:
        hidden = np.maximum(self.normed(first, f"{name}.first.1"), 0)
        second = self.normed(convolved(hidden, self.w[f"{name}.second.0.weight"]), f"{name}.second.1")
        return np.maximum(self.normed(shortcut, f"{name}.shortcut.1") + second, 0)

    def distances(self, vectors: Array, grid: tuple[int, int]) -> list[Array]:
        """Cells B×P×D → 1 − cos of each level, B×h×w."""
        standard = (vectors - self.w["statistics.offset"]) / self.w["statistics.scale"]
        channels = [self.w[f"heads.{j}.bias"].size for j in range(len(STRIDES))]
        teacher = maps_of(standard, grid, channels)
        x, found = self.embedded(teacher), []
        for j in reversed(range(len(teacher))):
            first, shortcut = (enlarged(x, self.w[f"decoder.{j}.{part}.0.weight"]) for part in ("first", "shortcut"))
            x = self.block(f"decoder.{j}", first, shortcut)[:, :, : teacher[j].shape[2], : teacher[j].shape[3]]
            student = convolved(x, self.w[f"heads.{j}.weight"], self.w[f"heads.{j}.bias"])
            product = (teacher[j] * student).sum(1)
            found.insert(0, 1 - product / np.sqrt((teacher[j] ** 2).sum(1)) / np.sqrt((student**2).sum(1)))
        return found


def maps_of(cells: Array, grid: tuple[int, int], channels: list[int]) -> list[Array]:
    """A cell has, channel by channel, the values of a level row by row."""
    maps, start = [], 0
    for count, stride in zip(channels, STRIDES, strict=True):
        side = STRIDES[-1] // stride
        one = np.zeros((len(cells), count, grid[0] * side, grid[1] * side))
        for position in range(grid[0] * grid[1]):
            row, column = divmod(position, grid[1])
            part = cells[:, position, start : start + count * side**2].reshape(-1, count, side, side)
            one[:, :, row * side : (row + 1) * side, column * side : (column + 1) * side] = part
        maps.append(one)
        start += count * side**2
    return maps


def between(values_: Array, at: float) -> tuple[int, int, float]:
    """The two positions on both sides of a place, the border's value beyond the border, and how far it is on."""
    low = max(math.floor(at), 0)
    return low, min(low + 1, len(values_) - 1), max(at, 0.0) - low


def larger(one: Array, factor: int) -> Array:
    """Bilinear, h×w → `factor` times as many rows and columns; positions are squares whose centres are compared."""
    for _ in range(2):  # rows, then columns
        rows = []
        for i in range(len(one) * factor):
            low, high, share = between(one, (i + 0.5) / factor - 0.5)
            rows.append((1 - share) * one[low] + share * one[high])
        one = np.array(rows).T
    return one


def forward(network: nn.Module, vectors: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Eq. 3: the sum of the levels, each enlarged to the finest."""
    found = Reading(network, learns=False).distances(vectors.astype(np.float64)[None], grid)
    return np.sum([larger(one[0], stride // STRIDES[0]) for one, stride in zip(found, STRIDES, strict=True)], axis=0)


def loss(task: Any, numbers: torch.Tensor, seed: int) -> float:
    """Eq. 2: the sum over levels of the mean over positions."""
    images, grid = task.items.vectors(numbers).double().numpy(), task.items.grid(numbers)
    return sum(float(one.mean()) for one in Reading(task.network, learns=True).distances(images, grid))
