"""What a farthest-first traversal gives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Selection:
    """`indices` of the kept points in the order of selection; `radius`: the largest distance of any point to its
    nearest kept point, `max_x min_m ‖x − m‖`, in the space of the points."""

    indices: Tensor
    radius: float
