"""The channels that a detector can look at: pictures with a reader, and what is made of geometry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from patchbank.errors import ImageError, OptionError
from patchbank.sample import GEOMETRY_CHANNEL, MADE_OF, PLAIN, RGB_CHANNEL, Data, Sample, sources_of

if TYPE_CHECKING:
    from patchbank.data.values import ValueRange

Reader: TypeAlias = Callable[[Data], NDArray[Any]]
READERS: dict[str, Reader] = {}


@dataclass(frozen=True)
class Made:
    """A channel that is computed from another one.

    Attributes:
        picture: the sample, seen in this channel, → H×W×3 uint8, for people and for networks.
        stored: the sample → the H×W numbers that it is made of.
        size: the sample → (height, width), from its header where that says it.

    All raise `ImageError`, which names the sample.
    """

    picture: Callable[[Sample, ValueRange], NDArray[np.uint8]]
    stored: Callable[[Sample, ValueRange], NDArray[Any]]
    size: Callable[[Sample, ValueRange], tuple[int, int]]


MADE: dict[str, Made] = {}


def made_of(source: Sample) -> Made | None:
    """How the channel that is looked at is computed; None for a picture that can be read."""
    return None if source.channel in source.channels else MADE.get(source.channel)


def register_channel(name: str, reader: Reader) -> None:
    """Make a channel known by its name. `reader`: a path, bytes, an array or a PIL image → H×W or H×W×3 numbers of any
    type, whose range is decided as that of images with more than eight bits; raises `ImageError` for what it cannot
    read."""
    if name == RGB_CHANNEL:
        raise OptionError("the channel rgb has its reader")
    READERS[name] = reader


def register_made(name: str, made: Made, source: str = GEOMETRY_CHANNEL) -> None:
    """Make a channel known that is computed from the channel `source`."""
    MADE[name], MADE_OF[name] = made, source


def check_channels(names: tuple[str, ...]) -> None:
    """Raise `OptionError` for channels that nothing reads, or that stand there twice."""
    known = [RGB_CHANNEL, *READERS, *MADE]
    for i, name in enumerate(names):
        if name not in known:
            raise OptionError(f"channels must be among {', '.join(known)}, not {name!r}")
        if name in names[:i]:
            raise OptionError(f"channels names {name!r} twice")
    if not names:
        raise OptionError("channels must name at least one channel, such as rgb")


def check_complete(sample: Sample, channels: Sequence[str]) -> None:
    """Raise `ImageError`, which names the sample, where it lacks one of the `channels`. A plain image is whatever is
    looked at, but not two things at once."""
    try:
        for channel in channels:
            _ = sample.seen_in(channel).data
    except ImageError as error:
        raise ImageError(f"{sample.name}: {error}") from None
    sources = sources_of(channels)
    if PLAIN in sample.channels and len(sources) > 1:
        pair = ", ".join(f"{source!r}: …" for source in sources)
        raise ImageError(
            f"{sample.name}: is one image, and the model inspects {' and '.join(sources)}: give both as {{{pair}}}, or "
            "put both files where they are found as one part (docs/guides/channels.md)"
        )
