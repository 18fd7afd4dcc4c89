"""A network with its weights, whichever library it comes from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class LoadedNetwork:
    """A network with its weights, and what the rest needs to know about it.

    `weights` says where they came from; `multiple` is what image sides must be multiples of.
    """

    network: nn.Module
    levels: tuple[int, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: str
    multiple: int = 32
