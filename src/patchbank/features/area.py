"""What of an image is inspected: its region of interest, where it is covered by the part. Computed once an image."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from patchbank.data import View
from patchbank.errors import ImageError


@dataclass(frozen=True, eq=False)
class Area:
    """`pixels`: H×W of what is viewed, True where it is inspected."""

    view: View
    pixels: NDArray[np.bool_]
    _on: dict[tuple[int, int], NDArray[np.bool_]] = field(default_factory=dict, repr=False)

    def cells(self, grid: tuple[int, int]) -> NDArray[np.bool_]:
        """Which cells of a grid over the inspected part have a pixel of it. Raises `ImageError` for none."""
        found = self._on.get(grid)
        if found is None:
            found = self._on[grid] = self.view.cells(self.pixels, grid)
            if not found.any():
                raise ImageError("has nothing of the region of interest in its inspected part")
        return found
