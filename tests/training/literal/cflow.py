"""CFLOW-AD from its equations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tests.training.literal import values
from tests.training.literal.flows import State, distance, enlarge, flow, maps_of, standardised, surprise, under

Score = Callable[[np.ndarray, np.ndarray], float]
OPTIONS: dict[str, Any] = {"image_size": 64, "steps": 2, "hidden_ratio": 1, "epochs": 2, "batch": 32}


def code(row: int, column: int) -> list[float]:
    """128 numbers: sines and cosines of the column, then of the row, each with 32 frequencies."""
    frequencies = [10000 ** (-k / 32) for k in range(32)]
    return [wave(at * f) for at in (column, row) for wave in (np.sin, np.cos) for f in frequencies]


def subnet_at(row: int, column: int):
    def subnet(state: State, kept: np.ndarray) -> np.ndarray:
        seen = np.concatenate([kept, code(row, column)])
        hidden = np.maximum(state["subnet.0.weight"] @ seen + state["subnet.0.bias"], 0)
        return state["subnet.2.weight"] @ hidden + state["subnet.2.bias"]

    return subnet


def of_cell(network, cell: np.ndarray, row: int, column: int, score: Score) -> list[np.ndarray]:
    """A score of z and log |det|, for all vectors of one cell, as a square for each level."""
    found, weights = [], values(network)
    for i, one in enumerate(maps_of(standardised(weights, cell[None]), (1, 1), network.levels)):
        state, side = under(weights, f"flows.{i}."), one.shape[1]
        squares = np.zeros((side, side))
        for r, c in np.ndindex(side, side):
            at = subnet_at(row * side + r, column * side + c)
            squares[r, c] = score(*flow(state, one[:, r, c], 1.9, at))
        found.append(squares)
    return found


def forward(network, vectors: np.ndarray, grid) -> np.ndarray:
    """½‖z‖² / C."""
    rows, columns = grid
    cells = [[of_cell(network, vectors[r * columns + c], r, c, distance) for c in range(columns)] for r in range(rows)]
    maps = [np.block([[cell[level] for cell in row] for row in cells]) for level in range(len(cells[0][0]))]
    return np.mean([enlarge(one, maps[0].shape) for one in maps], axis=0)


def loss(task, numbers: torch.Tensor, seed: int) -> float:
    """−log p / C of cells where they lie in their images, which all have one grid; of features with noise."""
    (rows, columns), sums = task.grids[0], []
    cells = task.items.vectors[numbers].numpy()
    drawn = torch.randn(cells.shape, generator=torch.Generator().manual_seed(seed)).numpy()
    noisy = cells + task.noise * values(task.network)["statistics.scale"] * drawn
    for number, cell in zip(numbers.tolist(), noisy, strict=True):
        row, column = divmod(number % (rows * columns), columns)
        levels = of_cell(task.network, cell, row, column, surprise)
        sums.append([level.mean() for level in levels])
    return float(np.mean(sums))
