"""Where a sample comes from, and what it is: plain data that everything may import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


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
