"""How single images are scored for a calibration: functions that go to where the features are.

Each gives (score, peak of the map). Where the map itself is wanted, since those of other images scale it or since it
goes into the mean of an ensemble, it gives the patch distances instead, without the area and the references to the
memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from patchbank.features.store import PatchFeatures, Visit
from patchbank.sample import SampleRef

if TYPE_CHECKING:
    from patchbank.data import View
    from patchbank.scoring.post import Compared, Post

    Found: TypeAlias = Compared | tuple[float, float]


@dataclass(frozen=True, eq=False)
class _Scoring:
    """Scores by `scorer` and `post`. `maps`: whether the map itself is wanted."""

    scorer: Any
    post: Post
    maps: bool

    def found(self, compared: Compared) -> Found:
        if not self.maps or compared.scores.distances is None:
            scored = self.post.finish(compared)
            return scored.score, scored.peak
        return replace(compared, scores=replace(compared.scores, nearest=None), area=None)


@dataclass(frozen=True, eq=False)
class LeaveOneOut(_Scoring):
    """A training image scored against the memory without its own patches; None where it says nothing. `prepared`:
    whether the scorer has prepared the features; `images`: how many there are."""

    prepared: bool
    images: int

    def __call__(self, visit: Visit) -> Found | None:
        scorer, ref = self.scorer, visit.ref
        points = visit.vectors if self.prepared else scorer.prepare(visit.vectors)
        scorer.revisit(points)
        if ref.angle or not len(points):
            return None  # left out with the image it was made of; or gone since it was learned from
        if not scorer.can_leave_out:  # a single part, which says nothing
            return float("inf"), float("inf")
        quick = scorer.quick_score(visit.i, self.images, points, visit.inspected)
        if quick is not None:
            return quick, float("nan")
        return self.found(self.post.compared(scorer, points, ref.grid, visit.view, visit.area, exclude=visit.i))


@dataclass(frozen=True, eq=False)
class AgainstOthers(_Scoring):
    """A training image scored by a memory that was selected without it, from prepared features."""

    def __call__(self, visit: Visit) -> Found:
        return self.found(self.post.compared(self.scorer, visit.vectors, visit.ref.grid, visit.view, visit.area))


@dataclass(frozen=True, eq=False)
class AsNew(_Scoring):
    """A good image that the memory does not know, from its file: what it scores, which it is, its view."""

    def __call__(self, item: PatchFeatures) -> tuple[Found, SampleRef, View]:
        points = self.scorer.prepare(item.vectors)
        found = self.found(self.post.compared(self.scorer, points, item.grid, item.view, item.area))
        return found, item.ref, item.view
