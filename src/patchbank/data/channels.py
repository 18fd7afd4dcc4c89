"""Readers of channels that are no pictures: one for each kind of channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from numpy.typing import NDArray

from patchbank.errors import OptionError
from patchbank.sample import RGB_CHANNEL, Data

Reader: TypeAlias = Callable[[Data], NDArray[Any]]
READERS: dict[str, Reader] = {}


def register_channel(name: str, reader: Reader) -> None:
    """Make a channel known by its name. `reader`: a path, bytes, an array or a PIL image → H×W or H×W×3 numbers of any
    type, whose range is decided as that of images with more than eight bits; raises `ImageError` for what it cannot
    read."""
    if name == RGB_CHANNEL:
        raise OptionError("the channel rgb has its reader")
    READERS[name] = reader


def check_channel(name: str) -> None:
    """Raise `OptionError` for a channel that nothing reads."""
    if name != RGB_CHANNEL and name not in READERS:
        raise OptionError(f"channel must be one of {', '.join([RGB_CHANNEL, *READERS])}, not {name!r}")
