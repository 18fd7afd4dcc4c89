"""The matrices of a shard, laid out so that products round as they do in the whole matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from patchbank._system.ram import available_bytes, rss_bytes
from patchbank.errors import MemoryBudgetError
from patchbank.features.image import Noted
from patchbank.features.planning import PER_PATCH, SHARE
from patchbank.features.storage import allocate

LINE = 16  # float32 in a cache line: products round differently where a matrix does not begin at one

_BUFFERS = 400_000_000  # the network, decoded images, blocks of intermediate results


def needs_disk(rows: int, width: int, budget: int | None, neighbours: int) -> bool:
    """Whether a worker's rows×width features go to its disk. `budget`: bytes of this process, None for its part of what
    is free; `neighbours`: workers on this machine, itself among them.

    Raises:
        MemoryBudgetError: not even a selection of features on the disk is possible within the budget.
    """
    room = budget - rss_bytes() if budget is not None else int(SHARE * available_bytes()) // neighbours
    selection = rows * PER_PATCH + _BUFFERS
    if selection > max(room, 0) and budget is not None:
        raise MemoryBudgetError(
            f"the share of one worker, {rows} patches, takes {selection / 1e9:.2g} GB beside its features, and its "
            f"budget leaves {max(room, 0) / 1e9:.2g} GB: use more workers (--workers), or give each more memory "
            "(--memory-budget)"
        )
    return 4 * rows * width + selection > room


def content_of(noted: Sequence[Noted]) -> str:
    """Which images they are, and how many patches each has."""
    return " ".join(f"{one.ref.name}={one.ref.digest}:{one.patches}" for one in noted)


def aligned(rows: int, width: int, first: int, on_disk: bool) -> Tensor:
    """rows×width float32 that begin within a cache line where row `first` of a whole matrix would."""
    shift = first * width % LINE
    flat = allocate(1, rows * width + shift, torch.device("cpu"), on_disk)[0]
    return flat[shift:].view(rows, width)
