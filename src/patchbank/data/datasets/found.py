"""What lies in the folders of a dataset beside the images that are used: counted, and one of each kind named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchbank.data.listing import Failed, Listing, PassedOver, Reason, as_plain


@dataclass(frozen=True)
class Found:
    """passed_over: what is not used and why. failed: what should have been used and cannot be. remarks: what to know
    about what is used."""

    passed_over: tuple[PassedOver, ...] = ()
    failed: tuple[Failed, ...] = ()
    remarks: tuple[str, ...] = ()

    @classmethod
    def of(cls, listings: Iterable[Listing]) -> Found:
        """What several listings passed over."""
        found = cls()
        for listing in listings:
            found = found.joined(cls(listing.passed_over, listing.failed))
        return found

    def joined(self, other: Found) -> Found:
        """Both, the counts of one reason added."""
        groups = {group.reason: group for group in self.passed_over}
        for group in other.passed_over:
            before = groups.get(group.reason)
            count = group.count + (before.count if before else 0)
            groups[group.reason] = PassedOver(group.reason, count, before.example if before else group.example)
        return Found(tuple(groups.values()), (*self.failed, *other.failed), (*self.remarks, *other.remarks))

    def without(self, reason: Reason, files: Sequence[Path]) -> Found:
        """The same with files that are not used, for one more reason."""
        return self.joined(Found((PassedOver(reason, len(files), files[0]),))) if files else self

    def sentence(self, root: Path, use: str) -> str | None:
        """For a person; `use`: what the other images are for. None where nothing was passed over."""
        words = ", ".join(map(str, self.passed_over))
        return f"{root}: passed over for {use}: {words}" if words else None

    def to_list(self) -> list[dict[str, Any]]:
        """For JSON."""
        return as_plain(self.passed_over)


NOTHING = Found()
