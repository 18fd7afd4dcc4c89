"""What one trigger of the line gives, and where a sample comes from: plain data that everything may import."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from numpy.typing import NDArray
from PIL import Image

from patchbank.errors import ImageError

if TYPE_CHECKING:  # an exported model predicts without this package
    from typing_extensions import Self

Data: TypeAlias = "Path | bytes | NDArray[Any] | Image.Image"
RGB_CHANNEL = "rgb"
GEOMETRY_CHANNEL = "xyz"  # depths, heights or points
PLAIN = "*"  # an image that was given without the name of its channel: whatever channel is looked at
MADE_OF: dict[str, str] = {}  # channels that are computed, each with the one it is made of


def sources_of(channels: Iterable[str]) -> tuple[str, ...]:
    """The channels that files are needed for, given those that are looked at: "xyz" for curvature."""
    return tuple(dict.fromkeys(MADE_OF.get(name, name) for name in channels))


@dataclass(frozen=True)
class Sample:
    """One part, seen once. Nothing is read yet.

    Attributes:
        name: for people.
        channels: a path, the bytes of a file, an array or a PIL image by the name of its channel; they lie over each
            other, pixel by pixel.
        angle: degrees that it is to be turned by.
        group: the label of the part that it shows; "" for a part of its own.
        channel: which of them is looked at.
    """

    name: str
    channels: Mapping[str, Data]
    angle: float = 0.0
    group: str = ""
    channel: str = RGB_CHANNEL

    @classmethod
    def of(cls, name: str, data: Data, angle: float = 0.0, group: str = "") -> Sample:
        """A plain image."""
        return cls(name, {PLAIN: data}, angle, group)

    @property
    def data(self) -> Data:
        """That of the channel that is looked at. Raises `ImageError` where there is none."""
        found = self._found
        if found is None:
            there = ", ".join(map(repr, self.channels))
            of = f", which is made of {MADE_OF[self.channel]!r}" if self.channel in MADE_OF else ""
            raise ImageError(f"has no channel {self.channel!r}{of} (it has {there})")
        return found

    @property
    def path(self) -> Path | None:
        """The file of that channel, if it is one."""
        return self._found if isinstance(self._found, Path) else None

    @property
    def _found(self) -> Data | None:
        for name in (self.channel, MADE_OF.get(self.channel), PLAIN):
            if name is not None and name in self.channels:
                return self.channels[name]
        return None

    @property
    def file(self) -> Path | None:
        """The file that it is known by: the first of its channels that is one."""
        return next((data for data in self.channels.values() if isinstance(data, Path)), None)

    @property
    def has_geometry(self) -> bool:
        """Whether depths, heights or points are among its channels."""
        return GEOMETRY_CHANNEL in self.channels

    def seen_in(self, channel: str) -> Self:
        """The same sample, another channel looked at."""
        return self if channel == self.channel else replace(self, channel=channel)


@dataclass(frozen=True)
class SampleRef:
    """One training image, as the memory knows it.

    Attributes:
        name: for people.
        size: (height, width) in pixels.
        grid: (rows, columns) of its patch grid.
        angle: degrees that it was turned by; turned copies follow the image they were made of.
        alignment: the 2×3 matrix that laid it over a reference, row by row; empty without one.
        digest: of its pixels (`data.content.pixel_digest`); "" if unknown.
        group: the label of the part that it shows; "" for a part of its own.
    """

    name: str
    size: tuple[int, int]
    grid: tuple[int, int]
    angle: float = 0.0
    alignment: tuple[float, ...] = ()
    digest: str = ""
    group: str = ""

    def renamed(self, names: Mapping[str, str]) -> SampleRef:
        """Under the new names of images and groups; those that have none keep theirs."""
        return replace(self, name=names.get(self.name, self.name), group=names.get(self.group, self.group))

    def state(self) -> list[Any]:
        """As plain values, for the model file."""
        rest: list[Any] = [self.angle, *self.alignment] if self.angle or self.alignment else []
        known = {"digest": self.digest, "group": self.group}
        return [self.name, *self.size, *self.grid, *rest, {key: value for key, value in known.items() if value}]

    @classmethod
    def of(cls, state: list[Any]) -> SampleRef:
        """The inverse of `state`; files of format 2 have no digests and groups."""
        name, height, width, rows, columns, *rest = state
        known = rest.pop() if rest and isinstance(rest[-1], dict) else {}
        return cls(name, (height, width), (rows, columns), rest[0] if rest else 0.0, tuple(rest[1:]), **known)


def parts_of(refs: Sequence[SampleRef]) -> list[int]:
    """For each image the number of the first image of its part."""
    first: dict[str, int] = {}
    parts: list[int] = []
    for i, ref in enumerate(refs):
        if ref.angle:
            parts.append(parts[-1] if parts else i)
        else:
            parts.append(first.setdefault(ref.group, i) if ref.group else i)
    return parts


def same_part(refs: Sequence[SampleRef], number: int) -> list[int]:
    """The numbers of the images that show the part of image `number`, itself and turned copies among them."""
    parts = parts_of(refs)
    return [i for i, part in enumerate(parts) if part == parts[number]]
