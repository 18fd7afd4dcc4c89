"""Parts that arrive in a watched folder as several files: complete when the picture and its geometry are both there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from patchbank._system.files import shown
from patchbank.data.listing import Listing
from patchbank.data.pairing import Pairing, is_surely_geometry
from patchbank.data.read import is_eight_bit
from patchbank.errors import ImageError, notify
from patchbank.sample import GEOMETRY_CHANNEL, PLAIN, RGB_CHANNEL, Sample

_WHERE = {
    GEOMETRY_CHANNEL: "geometry, such as {stem}.tiff in a folder xyz beside rgb, or {stem}_depth.png beside it",
    RGB_CHANNEL: "picture, such as {stem}.png in a folder rgb beside xyz, or {stem}.jpg beside it",
}


class Pairs:
    """The complete parts of a folder, look by look.

    Args:
        needs: the channels that a part needs a file for (`sample.sources_of`). Where these are geometry alone, pictures
            are not waited for.
        timeout: seconds after which a part that is not complete is named, once.
        clock: gives seconds.
    """

    def __init__(self, needs: Sequence[str], timeout: float, clock: Callable[[], float] = time.monotonic):
        self._needs, self._timeout, self._clock = tuple(needs), timeout, clock
        self._found: dict[Path, Sample] = {}  # complete at the last look: its partner is not looked for again
        self._since: dict[Path, float] = {}
        self._told: set[Path] = set()

    @property
    def overdue(self) -> int:
        """How many parts have been named and are still not complete."""
        return len(self._told)

    def complete(self, listing: Listing) -> dict[Path, Sample]:
        """The complete parts by the file that each is known by; the others are waited for."""
        there = {*listing.files, *listing.points}
        kept = [sample for sample in self._found.values() if there.issuperset(_files(sample))]
        used = {file for sample in kept for file in _files(sample)}
        files, points = ([f for f in paths if f not in used] for paths in (listing.files, listing.points))
        fresh = Pairing().samples(files, points)
        # a picture that comes late may belong to points that were left for it
        taken = {file for sample in fresh for file in _files(sample)}
        fresh += [Sample(str(f), {GEOMETRY_CHANNEL: f}) for f in points if f not in taken]
        self._found, missing = {}, dict[Path, str]()
        for sample in (*kept, *fresh):
            part, lacks = self._checked(sample)
            known = part.file
            assert known is not None  # all of them are files
            if lacks is None:
                self._found[known] = part
            else:
                missing[known] = lacks
        self._tell(missing)
        return self._found

    def _checked(self, sample: Sample) -> tuple[Sample, str | None]:
        """A part with the files that are looked at, and the channel that it lacks, None where it is complete."""
        file = sample.channels.get(PLAIN)
        if isinstance(file, Path):
            sample = Sample(sample.name, {_kind_of(file): file})
        lacks = next((channel for channel in self._needs if channel not in sample.channels), None)
        if lacks is None and RGB_CHANNEL not in self._needs:  # known by its geometry, whenever a picture comes
            file = sample.channels[GEOMETRY_CHANNEL]
            return Sample(str(file), {GEOMETRY_CHANNEL: file}), None
        return sample, lacks

    def _tell(self, missing: dict[Path, str]) -> None:
        """Name each part that has been incomplete for too long, once."""
        now = self._clock()
        self._since = {path: self._since.get(path, now) for path in missing}
        self._told &= missing.keys()
        for path, lacks in missing.items():
            if now - self._since[path] >= self._timeout and path not in self._told:
                self._told.add(path)
                what = _WHERE[lacks].format(stem=shown(path.stem))
                notify(
                    f"{shown(path)}: after {self._timeout:g} s there is no {what}; it is inspected when that arrives"
                )


def _files(sample: Sample) -> set[Path]:
    return {file for file in sample.channels.values() if isinstance(file, Path)}


def _kind_of(file: Path) -> str:
    """Whether a file without a partner is a picture or geometry: by its ending, and by how many bits it has."""
    if is_surely_geometry(file):
        return GEOMETRY_CHANNEL
    try:
        return RGB_CHANNEL if is_eight_bit(Sample.of(str(file), file)) else GEOMETRY_CHANNEL
    except ImageError:  # not a picture, or not yet
        return GEOMETRY_CHANNEL
