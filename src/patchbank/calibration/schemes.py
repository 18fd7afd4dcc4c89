"""Where the scores of good images come from that a detector is calibrated with (docs/calibration.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from patchbank.calibration.calibration import (
    CORRECTED,
    FOLDS,
    LEAST_CORRECTED,
    MANY_PICTURES,
    WELL_RESOLVED,
    Calibration,
    Row,
    folds_of,
)
from patchbank.calibration.good_scores import GoodScores
from patchbank.calibration.monitor import FitMonitor
from patchbank.data import Sample
from patchbank.data.groups import say_near_copies
from patchbank.errors import OnError
from patchbank.features.store import FeatureStore, PatchFeatures
from patchbank.sample import SampleRef

if TYPE_CHECKING:
    from patchbank.scoring.post import Post

LEAST_HELD_OUT = 50  # parts: a fifth of fewer says little of how high good parts score
Readable = list[tuple[Sample, int]]  # images, each with its number of patches


@dataclass(frozen=True, eq=False)
class Learned:
    """A scorer, what follows it, and the features that it was fitted to."""

    scorer: Any
    post: Post
    features: FeatureStore


class Learner(Protocol):
    """What can fit a scorer to some of the images."""

    extractor: Any

    def fresh(self) -> Any:
        """A scorer that was not fitted, for its capabilities."""
        ...

    def learn(self, readable: Readable, monitor: FitMonitor, reserved: float = 0.0) -> Learned: ...

    def walked(self, readable: Readable, monitor: FitMonitor) -> FeatureStore:
        """All images, seen once before the fit."""
        ...

    def features_of(self, sources: Sequence[Sample], on_error: OnError) -> Iterator[PatchFeatures]:
        """Of some images, one by one."""
        ...


@dataclass
class Calibrator:
    """Fits a scorer and calibrates it. `scheme`: what was asked for, one of `SCHEMES`; `rate`: of false alarms;
    `scaled`: whether maps are divided by what good ones reach at each place."""

    scheme: str
    rate: float
    seed: int
    learner: Learner
    scaled: bool = False

    def run(self, readable: Readable, monitor: FitMonitor) -> tuple[Learned, list[SampleRef], Calibration]:
        """The scorer, the images that were held out of its fit, and the calibration. Where near-copies are found only
        when the features are there, and the folds tore them apart, all of it is done again."""
        scorer = self.learner.fresh()
        if monitor.finds_groups and scorer.learns_weights and not scorer.can_leave_out:
            readable = self._labelled(readable, monitor)  # a training is not to be done again
        groups = [source.group for source, _ in readable]
        turned = [bool(source.angle) for source, _ in readable]
        folds = folds_of(turned, self.seed, groups)
        parts = len({group or i for i, group in enumerate(groups) if not turned[i]})
        scheme = self.scheme_for(scorer, parts, turned.count(False))
        fitted_anew = {"k-fold": folds, CORRECTED: [] if scorer.can_reselect else folds[:1]}.get(scheme, [])
        if monitor.session:
            monitor.session.begin(len(fitted_anew) + 1)
        apart = self._score_apart(readable, fitted_anew, monitor)
        held_out = set(folds[0]) if scheme == "held-out" else set[int]()
        reserved = 1 / FOLDS if held_out and scorer.can_add_held_out else 0.0
        kept = [item for i, item in enumerate(readable) if i not in held_out]
        learned = self.learner.learn(kept, monitor, reserved)
        features = learned.features
        if (found := features.near_copies) is not None:
            say_near_copies(found, [ref.name for ref in features.refs if not ref.angle])
            new = self.scheme_for(scorer, found.groups, len(found.labels))
            if held_out or fitted_anew or new == "k-fold":
                self._add_held_out(features, [readable[i][0] for i in sorted(held_out)], monitor)
                features.find_near_copies()
                monitor.finds_groups = False
                return self.run(features.labelled(readable), monitor)
            scheme = new
        held = FeatureStore()
        with monitor.clock("calibration"):
            if scheme == "k-fold":
                good = apart
            elif scheme == "held-out":
                sources, good = [readable[i][0] for i in folds[0]], self._no_scores()
                held = self._score_good(learned, sources, monitor, good)
                if learned.scorer.can_add_held_out:
                    items = self.learner.extractor.stream(sources, monitor.inside().on_error)  # told when scored
                    learned.scorer.take_in(items)
            else:
                good = self._leave_one_out(learned, monitor)
            scale, calibration = good.scale, good.calibration(self.rate)
            if scheme == CORRECTED:
                others = self._score_without_some(learned) if scorer.can_reselect else apart
                calibration = calibration.corrected(others.calibration(self.rate, good))
        learned = dataclasses.replace(learned, post=dataclasses.replace(learned.post, scale=scale))
        monitor.labels = {ref.name: ref.group for ref in (*features.refs, *held.refs)}
        return learned, held.refs, dataclasses.replace(calibration, how=scheme)

    def scheme_for(self, scorer: Any, parts: int, images: int | None = None) -> str:
        """How images of N parts are calibrated: what was asked for, or what suits their number (docs/calibration.md).
        `images`: more than parts where some have several, by default one of each."""
        images = parts if images is None else images
        enough = parts >= FOLDS * WELL_RESOLVED / self.rate
        if parts < 2:
            return "leave-one-out"
        if not scorer.can_leave_out:
            least = FOLDS if self.scheme == "held-out" else LEAST_HELD_OUT
            return "k-fold" if self.scheme == "k-fold" or parts < least else "held-out"
        if parts < images and not scorer.leaves_parts_out and self.scheme != "held-out":
            return "k-fold"  # its leave-one-out would keep the other images of the part
        if self.scheme not in ("auto", CORRECTED):
            return self.scheme
        if self.scheme == "auto" and enough and scorer.can_add_held_out:
            return "held-out"
        if self.scheme == "auto" and parts <= MANY_PICTURES * images:
            return "leave-one-out"  # the correction overshoots where twins fill the bank
        return CORRECTED if scorer.loo_is_biased and parts >= LEAST_CORRECTED else "leave-one-out"

    def _labelled(self, readable: Readable, monitor: FitMonitor) -> Readable:
        """The images with labels of the near-copies among them, which are looked for before anything is learned."""
        seen = self.learner.walked(readable, monitor)
        found = seen.find_near_copies()
        monitor.finds_groups = False
        if found is None:
            return readable
        say_near_copies(found, [ref.name for ref in seen.refs if not ref.angle])
        return seen.labelled(readable)

    # ---- the sources of scores ---------------------------------------------------------------------------------------

    def _no_scores(self) -> GoodScores:
        return GoodScores(self.scaled)

    def _leave_one_out(self, learned: Learned, monitor: FitMonitor) -> GoodScores:
        """Each training image scored against the memory without its own patches."""
        found, scorer, features = self._no_scores(), learned.scorer, learned.features
        area = self.learner.extractor.area
        for i, vectors in enumerate(features.walk()):
            ref, view = features.refs[i], features.views[i]
            points = vectors if features.prepared else scorer.prepare(vectors)
            scorer.revisit(points)
            if ref.angle or not len(vectors):
                continue  # left out with the image it was made of; or gone since it was learned from
            if not scorer.can_leave_out:  # a single part, which says nothing
                found.add_row(Row(ref.name, float("inf"), float("inf"), ref.group))
                continue
            quick = scorer.quick_score(i, len(features.refs), points, features.inspected[i])
            if quick is None:
                compared = learned.post.compared(scorer, points, ref.grid, view, area(view), exclude=i)
                found.add(learned.post, ref.name, ref.group, compared)
            else:
                found.add_row(Row(ref.name, quick, float("nan"), ref.group))
            if monitor.progress:
                monitor.progress("calibration", i + 1, len(features.refs))
        return found

    def _score_good(
        self, learned: Learned, sources: Sequence[Sample], monitor: FitMonitor, found: GoodScores
    ) -> FeatureStore:
        """Good images that the memory does not know join those `found`; which they are, without their features."""
        seen = FeatureStore()
        given = [source for source in sources if not source.angle]
        for item in self.learner.features_of(given, monitor.on_error):
            seen.add(item)
            points = learned.scorer.prepare(item.vectors)
            compared = learned.post.compared(learned.scorer, points, item.grid, item.view, item.area)
            found.add(learned.post, item.source.name, item.source.group, compared)
            if monitor.progress:
                monitor.progress("calibration", len(seen.refs), len(given))
        return seen

    def _score_apart(self, readable: Readable, parts: list[list[int]], monitor: FitMonitor) -> GoodScores:
        """Parts of the images, each scored by a scorer that learned from the others."""
        found = self._no_scores()
        for part in parts:
            out = set(part)
            with monitor.clock("calibration"):
                others = [item for i, item in enumerate(readable) if i not in out]
                learned = self.learner.learn(others, monitor.inside())
                self._score_good(learned, [readable[i][0] for i in part], monitor.inside(), found)
        return found

    def _score_without_some(self, learned: Learned) -> GoodScores:
        """A fifth of the images scored against a memory of the others, selected again from the stored features."""
        features, area = learned.features, self.learner.extractor.area
        turned, groups = [bool(ref.angle) for ref in features.refs], [ref.group for ref in features.refs]
        held = folds_of(turned, self.seed, groups)[0]
        others, found = learned.scorer.reselected(features, held), self._no_scores()
        for i in held:
            if not (ref := features.refs[i]).angle:
                view = features.views[i]
                compared = learned.post.compared(others, features.of_image(i), ref.grid, view, area(view))
                found.add(learned.post, ref.name, ref.group, compared)
        return found

    def _add_held_out(self, features: FeatureStore, sources: list[Sample], monitor: FitMonitor) -> None:
        for item in self.learner.extractor.stream(sources, monitor.inside().on_error):
            features.add(item)
