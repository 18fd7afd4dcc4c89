"""Sums whose bits do not depend on where a part of them was made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Tree(Generic[T]):
    """Merges numbered leaves as a binary tree whose shape depends on their numbers alone, so that the result has the
    same bits wherever a part of the tree was merged. `merge`: of two that follow each other."""

    def __init__(self, merge: Callable[[T, T], T]):
        self._merge = merge
        self.parts: list[tuple[int, int, T]] = []  # (level, number within the level, value), in order

    def add(self, number: int, value: T, level: int = 0) -> None:
        """The next leaf, or the next part of another tree; numbers ascend."""
        self.parts.append((level, number, value))
        while len(self.parts) > 1:
            (level, number, left), (other_level, other, right) = self.parts[-2:]
            if level != other_level or number % 2 or other != number + 1:
                return
            self.parts[-2:] = [(level + 1, number // 2, self._merge(left, right))]

    def total(self) -> T:
        """Of all leaves, those that found no neighbour from the right on."""
        *others, (_, _, total) = self.parts
        for _, _, value in reversed(others):
            total = self._merge(value, total)
        return total
