"""The matrices of a shard, laid out so that products round as they do in the whole matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from patchbank.features.image import Noted
from patchbank.features.storage import allocate

LINE = 16  # float32 in a cache line: products round differently where a matrix does not begin at one


def content_of(noted: Sequence[Noted]) -> str:
    """Which images they are, and how many patches each has."""
    return " ".join(f"{one.ref.name}={one.ref.digest}:{one.patches}" for one in noted)


def aligned(rows: int, width: int, first: int, on_disk: bool) -> Tensor:
    """rows×width float32 that begin within a cache line where row `first` of a whole matrix would."""
    shift = first * width % LINE
    flat = allocate(1, rows * width + shift, torch.device("cpu"), on_disk)[0]
    return flat[shift:].view(rows, width)
