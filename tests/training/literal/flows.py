"""Flows of affine couplings in numpy and float64, step by step, from the weights of a network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

State = dict[str, np.ndarray]
Subnet = Callable[[State, np.ndarray], np.ndarray]


def under(weights: State, name: str) -> State:
    """Those of one module."""
    return {key[len(name) :]: value for key, value in weights.items() if key.startswith(name)}


def flow(state: State, x: np.ndarray, clamp: float, subnet: Subnet) -> tuple[np.ndarray, np.ndarray]:
    """C×… numbers → z, and the sum of s over all couplings."""
    count, log_det = len(x), np.zeros(x.shape[1:])
    for step in range(sum(name.endswith("order") for name in state)):
        own = under(state, f"couplings.{step}.")
        x = x[own["order"].astype(int)]
        kept, changed = x[: count - count // 2], x[count - count // 2 :]
        said = 0.1 * subnet(own, kept)
        s, t = clamp * np.tanh(said[: count // 2]), said[count // 2 :]
        x = np.concatenate([kept, changed * np.exp(s) + t])
        log_det += s.sum(0)
    return x, log_det


def surprise(z: np.ndarray, log_det: np.ndarray) -> np.ndarray:
    """−log p / C: log p(x) = log N(z; 0, I) + log |det|."""
    log_normal = sum(-0.5 * one**2 - 0.5 * np.log(2 * np.pi) for one in z)
    return -(log_normal + log_det) / len(z)


def distance(z: np.ndarray, log_det: np.ndarray) -> np.ndarray:
    """½‖z‖² / C."""
    return sum(0.5 * one**2 for one in z) / len(z)


def maps_of(cells: np.ndarray, grid, levels) -> list[np.ndarray]:
    """Cells P×D → C×h×w of each level: in a cell, numbers go by channel, then row, then column."""
    rows, columns, start, maps = *grid, 0, []
    for channels, stride in zip(levels.channels, levels.strides, strict=True):
        side = levels.strides[-1] // stride
        found = np.zeros((channels, rows * side, columns * side))
        for p, cell in enumerate(cells[:, start : start + channels * side**2]):
            top, left = p // columns * side, p % columns * side
            found[:, top : top + side, left : left + side] = cell.reshape(channels, side, side)
        maps.append(found)
        start += channels * side**2
    return maps


def enlarge(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """h×w → size: bilinear between the centres, the outermost continue to the edges."""
    for axis, wanted in enumerate(size):
        length = values.shape[axis]
        centres = np.clip((np.arange(wanted) + 0.5) * length / wanted - 0.5, 0, length - 1)
        along = np.moveaxis(values, axis, 0)
        found = []
        for centre in centres:
            low = int(np.floor(centre))
            high = min(low + 1, length - 1)
            found.append(along[low] * (1 - (centre - low)) + along[high] * (centre - low))
        values = np.moveaxis(np.array(found), 0, axis)
    return values


def standardised(state: State, cells: np.ndarray) -> np.ndarray:
    return (cells.astype(float) - state["statistics.offset"]) / state["statistics.scale"]
