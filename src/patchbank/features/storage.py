"""Where the features of a fit lie: in memory, or in a temporary file that the system pages in and out."""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchbank.errors import MemoryBudgetError

SCATTERED = 512  # rows of a file to read before their pages may be given back: each brings many neighbours with it
_MANY = 500_000_000  # bytes; libraries take half of it
_BLOCK_BYTES, _BLOCKS_KEPT = 2**21, 32
_mapped: weakref.WeakValueDictionary[int, np.memmap[Any, Any]] = weakref.WeakValueDictionary()


def allocate(rows: int, columns: int, device: torch.device, on_disk: bool) -> Tensor:
    """rows×columns float32, not filled. The file has no name, so nothing is left of it whatever happens."""
    if not on_disk:
        return torch.empty(rows, columns, device=device)
    with _temporary() as file:
        if hasattr(os, "posix_fallocate"):
            try:  # now, rather than a crash when the disk is full half way
                os.posix_fallocate(file.fileno(), 0, 4 * rows * columns)
            except OSError as error:
                raise MemoryBudgetError(
                    f"{tempfile.gettempdir()}: has no room for {4 * rows * columns / 1e9:.2g} GB of features "
                    f"({error.strerror}): set TMPDIR to a folder that has, or select in chunks (--coreset stream)"
                ) from error
        array = np.memmap(file, np.float32, "w+", shape=(rows, columns))
    tensor = torch.from_numpy(array)
    _mapped[tensor.untyped_storage().data_ptr()] = array
    return tensor


def _temporary() -> Any:
    try:
        return tempfile.TemporaryFile(prefix="patchbank-")
    except OSError as error:
        raise MemoryBudgetError(
            f"there is no folder for temporary files ({error.strerror or error}): set TMPDIR to one that can be written"
        ) from error


def is_mapped(vectors: Tensor) -> bool:
    """Whether a tensor lies in a file."""
    return vectors.device.type == "cpu" and vectors.untyped_storage().data_ptr() in _mapped


def release(vectors: Tensor, only_many: bool = False) -> None:
    """Give back the memory that pages of a file take in this process, or only if they are many; what they hold stays in
    the file."""
    array = _mapped.get(vectors.untyped_storage().data_ptr()) if vectors.device.type == "cpu" else None
    if array is None or (only_many and _shared_bytes() < _MANY):
        return
    if hasattr(mmap, "MADV_DONTNEED"):
        array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def _shared_bytes() -> int:
    """Memory of this process that belongs to files: a little for libraries, and pages of ours."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[2]) * mmap.PAGESIZE
    except OSError:
        return _MANY


def take(vectors: Tensor, rows: Tensor) -> Tensor:
    """vectors[rows], in memory."""
    if not is_mapped(vectors):
        return vectors[rows]
    taken = torch.empty(len(rows), vectors.shape[1])
    for start in range(0, len(rows), SCATTERED):
        taken[start : start + SCATTERED] = vectors[rows[start : start + SCATTERED]]
        release(vectors)
    return taken


def in_blocks(vectors: Tensor, rows: int | None = None) -> Iterator[tuple[slice, Tensor]]:
    """The slices of a matrix, row block after row block (by default of 2 MB); pages of a file are given back on the
    way."""
    rows = rows or max(1, _BLOCK_BYTES // (4 * vectors.shape[1]))
    for number, start in enumerate(range(0, len(vectors), rows)):
        block = slice(start, min(start + rows, len(vectors)))
        yield block, vectors[block]
        if number % _BLOCKS_KEPT == _BLOCKS_KEPT - 1:
            release(vectors)
    release(vectors)


def moments(blocks: Iterable[Tensor], dimension: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each of D columns over blocks of rows, n×D each: D and D float64, NaN without rows."""
    count, total, squares = 0, *torch.zeros(2, dimension, dtype=torch.float64)
    for block in blocks:
        values = block.double()
        count += len(values)
        total = total.to(values) + values.sum(0)
        squares = squares.to(values) + values.square().sum(0)
    mean = total / count
    return mean, (squares / count - mean.square()).clamp(min=0)
