"""Loops compiled by numba: without the GIL, and kept on disk for the next process where that is possible."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from numba import njit

from patchbank._system.environment import package_version

# what lets a sum be vectorised, and nothing about NaN or infinity
REASSOCIATE = {"reassoc", "contract"}
_PACKAGE = Path(__file__).parents[1]
_KERNELS = (_PACKAGE / "memory", _PACKAGE / "shape")  # where all compiled loops are


def jit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """numba's `njit`. What is kept on disk is used again by the same version with the same kernels only: compiled loops
    call each other, and read arrays by their layout."""

    def compile_later(function: Callable[..., Any]) -> Any:
        try:
            compiled = njit(nogil=True, cache=True, **options)(function)
            keep_apart(compiled, stamp())
        except (RuntimeError, AttributeError):  # no folder to keep it in, or another numba: compiled in every process
            return njit(nogil=True, **options)(function)
        return compiled

    return compile_later


def keep_apart(compiled: Any, by: str) -> None:
    """Use what is kept of a compiled function only where it was kept under the same stamp. Raises `AttributeError` for
    a numba that keeps it in another way."""
    index = compiled._cache._cache_file
    index._source_stamp = (index._source_stamp, by)  # what numba compares; its own is of one file


@lru_cache
def stamp() -> str:
    """The version of the package and a digest of the sources of all kernels."""
    digest = hashlib.sha256()
    for path in sorted([*(file for folder in _KERNELS for file in folder.rglob("*.py")), Path(__file__)]):
        digest.update(path.read_bytes())
    return f"{package_version('patchbank')} {digest.hexdigest()[:16]}"
