"""Flows of affine couplings in numpy and float64, step by step, from the weights of a network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

State = dict[str, np.ndarray]
Subnet = Callable[[State, np.ndarray], np.ndarray]


def state_of(network, part: str = "") -> State:
    """The weights under a name, in float64."""
    values = {name: value.cpu().numpy() for name, value in network.state_dict().items() if name.startswith(part)}
    return {
        name[len(part) :]: value if value.dtype == np.int64 else value.astype(float) for name, value in values.items()
    }


def surprise(state: State, x: np.ndarray, clamp: float, subnet: Subnet) -> np.ndarray:
    """−log p / C of C×… numbers: log p(x) = log N(z; 0, I) + Σ s over all couplings."""
    count, log_det = len(x), 0.0
    for step in range(sum(name.endswith("order") for name in state)):
        own = {name.split(".", 2)[2]: value for name, value in state.items() if name.startswith(f"couplings.{step}.")}
        x = x[own["order"]]
        kept, changed = x[: count - count // 2], x[count - count // 2 :]
        said = 0.1 * subnet(own, kept)
        s, t = clamp * np.tanh(said[: count // 2]), said[count // 2 :]
        x = np.concatenate([kept, changed * np.exp(s) + t])
        log_det = log_det + s.sum(0)
    log_normal = sum(-0.5 * z**2 - 0.5 * np.log(2 * np.pi) for z in x)
    return -(log_normal + log_det) / count


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
