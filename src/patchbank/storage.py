"""Where the features of a fit lie: in memory, or in a temporary file that the system pages in and out."""

from __future__ import annotations

import mmap
import tempfile
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

_mapped: weakref.WeakValueDictionary[int, np.memmap[Any, Any]] = weakref.WeakValueDictionary()


def allocate(rows: int, columns: int, device: torch.device, on_disk: bool) -> Tensor:
    """rows×columns float32, not filled. The file has no name, so nothing is left of it whatever happens."""
    if not on_disk:
        return torch.empty(rows, columns, device=device)
    with tempfile.TemporaryFile(prefix="patchbank-") as file:
        array = np.memmap(file, np.float32, "w+", shape=(rows, columns))
    tensor = torch.from_numpy(array)
    _mapped[tensor.untyped_storage().data_ptr()] = array
    return tensor


def is_mapped(vectors: Tensor) -> bool:
    """Whether a tensor lies in a file."""
    return vectors.device.type == "cpu" and vectors.untyped_storage().data_ptr() in _mapped


def release(vectors: Tensor) -> None:
    """Give back the memory that pages of a file take in this process; what they hold stays in the file."""
    array = _mapped.get(vectors.untyped_storage().data_ptr()) if vectors.device.type == "cpu" else None
    if array is not None and hasattr(mmap, "MADV_DONTNEED"):
        array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def in_blocks(vectors: Tensor, rows: int = 16384) -> Iterator[tuple[slice, Tensor]]:
    """The slices of a matrix, row block after row block; pages of a file are given back on the way."""
    for number, start in enumerate(range(0, len(vectors), rows)):
        block = slice(start, min(start + rows, len(vectors)))
        yield block, vectors[block]
        if number % 8 == 7:
            release(vectors)
    release(vectors)
