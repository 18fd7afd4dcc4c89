"""Loops compiled by numba: without the GIL, and kept on disk for the next process where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

# what lets a sum be vectorised, and nothing about NaN or infinity
REASSOCIATE = {"reassoc", "contract"}


def jit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """numba's `njit`. A change in another file that a cached function uses does not invalidate it: `make clean`."""

    def compile_later(function: Callable[..., Any]) -> Any:
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # no folder to keep it in: it is compiled again in every process
            return njit(nogil=True, **options)(function)

    return compile_later
