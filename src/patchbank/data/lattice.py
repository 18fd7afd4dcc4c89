"""Where the patches of a grid lie in the inspected part of an image."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Lattice:
    """Patches lie `cell` pixels apart (None: evenly spread over the inspected part). Their `displacement` (down,
    across), in pixels, is how far a response lies beside what caused it if every patch is taken for the middle of its
    cell (`patchbank.features.displacement`)."""

    cell: int | None = None
    displacement: tuple[float, float] = (0.0, 0.0)

    def state(self) -> list[float]:
        """As plain values, for the model file; nothing where the patches lie in the middle of their cells."""
        return [] if self.cell is None else [self.cell, *self.displacement]

    @classmethod
    def of(cls, state: list[float]) -> Lattice:
        """The inverse of `state`."""
        cell, down, across = state
        return cls(int(cell), (down, across))

    def along(self, axis: int, patches: int, pixels: int) -> tuple[float, float]:
        """The position of the first patch along an axis (0: down, 1: across) of that many patches and pixels, and the
        step to the next; pixel centres have whole numbers. A grid finer than the cells divides them."""
        step = pixels / patches
        if self.cell is not None:
            step = self.cell / max(round(self.cell / step), 1)
        return step / 2 - 0.5 - self.displacement[axis], step


EVEN = Lattice()
