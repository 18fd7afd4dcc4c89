"""Where the features of a fit lie: in memory, or in a temporary file that the system pages in and out.

They may also lie in other processes, as `Rows`. What works on all features is written as functions of a block of rows
(`map_blocks`, `map_rows`), which go to where the rows are.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from patchbank.errors import MemoryBudgetError

SCATTERED = 512  # rows of a file to read before their pages may be given back: each brings many neighbours with it
Result = TypeVar("Result")
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
                    f"({error.strerror}): set TMPDIR to a folder that has, or select in chunks (--streaming)"
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


class Rows(Protocol):
    """A matrix N×D, or a vector of length N, whose rows lie in other processes."""

    shape: tuple[int, ...]
    device: torch.device

    def __len__(self) -> int: ...

    def map_blocks(self, function: Callable[[Tensor], Any], rows: int) -> Iterator[tuple[slice, Any]]:
        """Results of a function of each block of rows, in order; the blocks are those of one matrix."""
        ...

    def map_rows(self, function: Callable[[Tensor], Tensor], rows: int, width: int, dtype: torch.dtype) -> Rows:
        """As the function of this module."""
        ...

    def scale(self, factors: Tensor) -> None: ...

    def fill(self, parts: Sequence[slice], value: float) -> None: ...

    def take(self, rows: Tensor) -> Tensor: ...

    def subset(self, rows: Tensor, function: Callable[[Tensor], Tensor], each: int, width: int) -> Rows:
        """As the function of this module."""
        ...

    def drop(self) -> None:
        """Let go of what was made of other rows."""
        ...

    def farthest_first(
        self, count: int, anchor: Any, progress: Callable[[int], None] | None, radius: float
    ) -> tuple[Tensor, float]:
        """Indices in the order of selection, and the covering radius."""
        ...


def take(vectors: Tensor | Rows, rows: Tensor) -> Tensor:
    """vectors[rows], in memory."""
    if not isinstance(vectors, Tensor):
        return vectors.take(rows)
    if not is_mapped(vectors):
        return vectors[rows]
    taken = torch.empty(len(rows), vectors.shape[1])
    for start in range(0, len(rows), SCATTERED):
        taken[start : start + SCATTERED] = vectors[rows[start : start + SCATTERED]]
        release(vectors)
    return taken


def block_rows(columns: int) -> int:
    """How many rows of a float32 matrix one block has by default."""
    return max(1, _BLOCK_BYTES // (4 * columns))


def map_blocks(
    vectors: Tensor | Rows, function: Callable[[Tensor], Result], rows: int | None = None
) -> Iterator[tuple[slice, Result]]:
    """function(block) of each block of rows, in order."""
    rows = rows or block_rows(vectors.shape[1])
    if not isinstance(vectors, Tensor):
        yield from vectors.map_blocks(function, rows)
        return
    for block, values in in_blocks(vectors, rows):
        yield block, function(values)


def map_rows(
    vectors: Tensor | Rows,
    function: Callable[[Tensor], Tensor],
    rows: int | None = None,
    width: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """The results of a function of a block of rows, n×D → n×`width` (0: n), as one matrix that lies where the rows
    do."""
    rows = rows or block_rows(vectors.shape[1])
    if not isinstance(vectors, Tensor):
        return vectors.map_rows(function, rows, width, dtype)
    made = torch.empty((len(vectors), width) if width else (len(vectors),), dtype=dtype, device=vectors.device)
    for block, values in in_blocks(vectors, rows):
        made[block] = function(values)
    return made


def subset(vectors: Tensor | Rows, rows: Tensor, function: Callable[[Tensor], Tensor], each: int, width: int) -> Any:
    """function(vectors[rows]) of ascending rows, n×D → (n·`each`)×`width`, row by row, as one matrix that lies where
    the rows do."""
    if not isinstance(vectors, Tensor):
        return vectors.subset(rows, function, each, width)
    return function(take(vectors, rows))


def drop(*matrices: Tensor | Rows) -> None:
    """Let go of what was made of rows that lie elsewhere."""
    for matrix in matrices:
        if not isinstance(matrix, Tensor):
            matrix.drop()


def scale(vectors: Tensor | Rows, factors: Tensor) -> None:
    """Multiply N×D rows with D factors in place: there is no room for a second copy."""
    if not isinstance(vectors, Tensor):
        vectors.scale(factors)
        return
    for _, block in in_blocks(vectors):
        block.mul_(factors)


def fill(vector: Tensor | Rows, parts: Sequence[slice], value: float) -> None:
    """Set some parts of a vector of length N to one value."""
    if not isinstance(vector, Tensor):
        vector.fill(parts, value)
        return
    for part in parts:
        vector[part] = value


def in_blocks(vectors: Tensor, rows: int | None = None) -> Iterator[tuple[slice, Tensor]]:
    """The slices of a matrix, row block after row block (by default of 2 MB); pages of a file are given back on the
    way."""
    rows = rows or block_rows(vectors.shape[1])
    for number, start in enumerate(range(0, len(vectors), rows)):
        block = slice(start, min(start + rows, len(vectors)))
        yield block, vectors[block]
        if number % _BLOCKS_KEPT == _BLOCKS_KEPT - 1:
            release(vectors)
    release(vectors)


Sums = tuple[int, Tensor, Tensor]


def block_sums(block: Tensor) -> Sums:
    """n×D → n, and the sums and sums of squares of the columns, D float64 each."""
    values = block.double()
    return len(values), values.sum(0), values.square().sum(0)


def moments(blocks: Iterable[Tensor], dimension: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each of D columns over blocks of rows, n×D each: D and D float64, NaN without rows."""
    return _moments(map(block_sums, blocks), dimension)


def column_moments(vectors: Tensor | Rows) -> tuple[Tensor, Tensor]:
    """As `moments`, of one matrix N×D."""
    return _moments((sums for _, sums in map_blocks(vectors, block_sums)), vectors.shape[1])


def _moments(sums: Iterable[Sums], dimension: int) -> tuple[Tensor, Tensor]:
    count, total, squares = 0, *torch.zeros(2, dimension, dtype=torch.float64)
    for rows, of_block, squares_of_block in sums:
        count += rows
        total = total.to(of_block) + of_block
        squares = squares.to(of_block) + squares_of_block
    mean = total / count
    return mean, (squares / count - mean.square()).clamp(min=0)
