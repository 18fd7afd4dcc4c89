"""What a scorer must know of the features that it is given."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Levels:
    """The levels of the backbone in use, shallowest first: channels, and input pixels from one position to the next;
    `dimension` D of a patch feature made of them."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    dimension: int
