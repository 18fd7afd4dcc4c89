"""How single images are scored for a calibration: functions that go to where the features are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from patchbank.calibration.calibration import Row
from patchbank.features.store import PatchFeatures, Visit
from patchbank.sample import SampleRef

if TYPE_CHECKING:
    from patchbank.scoring.post import Post


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """A training image scored against the memory without its own patches: its score and the peak of its map; None where
    it says nothing. `prepared`: whether the scorer has prepared the features; `images`: how many there are."""

    scorer: Any
    post: Post
    prepared: bool
    images: int

    def __call__(self, visit: Visit) -> tuple[float, float] | None:
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
        scored = self.post.score(scorer, points, ref.grid, visit.view, visit.area, exclude=visit.i)
        return scored.score, scored.peak


@dataclass(frozen=True, eq=False)
class AgainstOthers:
    """A training image scored by a memory that was selected without it, from prepared features."""

    scorer: Any
    post: Post

    def __call__(self, visit: Visit) -> tuple[float, float]:
        scored = self.post.score(self.scorer, visit.vectors, visit.ref.grid, visit.view, visit.area)
        return scored.score, scored.peak


@dataclass(frozen=True, eq=False)
class AsNew:
    """A good image that the memory does not know, from its file."""

    scorer: Any
    post: Post

    def __call__(self, item: PatchFeatures) -> tuple[Row, SampleRef]:
        points = self.scorer.prepare(item.vectors)
        scored = self.post.score(self.scorer, points, item.grid, item.view, item.area)
        return Row(item.source.name, scored.score, scored.peak, item.source.group), item.ref
