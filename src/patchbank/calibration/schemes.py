"""Where the scores of good images come from that a detector is calibrated with (docs/guides/thresholds.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

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
from patchbank.calibration.visits import AgainstOthers, AsNew, LeaveOneOut
from patchbank.data import Sample, View
from patchbank.data.groups import say_near_copies
from patchbank.errors import OnError
from patchbank.features.store import FeatureStore, Noted, PatchFeatures
from patchbank.sample import SampleRef

if TYPE_CHECKING:
    from patchbank.calibration.visits import Found
    from patchbank.scoring.post import Post

T = TypeVar("T")
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

    def each(self, sources: list[Sample], function: Callable[[PatchFeatures], T], on_error: OnError) -> Iterator[T]:
        """function(features) of each image that can be read, in order, with the digest of its pixels."""
        ...

    def take_in(self, scorer: Any, sources: list[Sample], on_error: OnError) -> None:
        """Have a scorer take held-out images in."""
        ...


@dataclass
class Calibrator:
    """Fits a scorer and calibrates it. `scheme`: what was asked for, one of `SCHEMES`; `rate`: of false alarms;
    `scaled`: whether maps are divided by what good ones reach at each place; `keeps_cells`: whether the calibration is
    to say how high each map is in each of several cells, as an ensemble needs it."""

    scheme: str
    rate: float
    seed: int
    learner: Learner
    scaled: bool = False
    keeps_cells: bool = False

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
        apart, rest = self._score_apart(readable, fitted_anew, monitor, scaled_by_rest=scheme == CORRECTED)
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
        held = list[SampleRef]()
        with monitor.clock("calibration"):
            if scheme == "k-fold":
                good = apart
            elif scheme == "held-out":
                sources, good = [readable[i][0] for i in folds[0]], self._no_scores()
                held = self._score_good(learned, sources, monitor, good)
                if learned.scorer.can_add_held_out:
                    self.learner.take_in(learned.scorer, sources, monitor.inside().on_error)  # told when scored
            else:
                good = self._leave_one_out(learned, monitor)
            scale, calibration = good.scale, good.calibration(self.rate)
            if scheme == CORRECTED:
                if scorer.can_reselect:
                    apart, rest = self.score_without_some(learned, monitor)
                calibration = calibration.corrected(apart.calibration(self.rate, rest if rest.makes_scale else good))
        learned = dataclasses.replace(learned, post=dataclasses.replace(learned.post, scale=scale))
        monitor.labels = {ref.name: ref.group for ref in (*features.refs, *held)}
        return learned, held, dataclasses.replace(calibration, how=scheme)

    def scheme_for(self, scorer: Any, parts: int, images: int | None = None) -> str:
        """How N parts are calibrated: what was asked for, or what suits their number (docs/guides/thresholds.md).
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
        return GoodScores(self.scaled, self.keeps_cells)

    @property
    def _wants_maps(self) -> bool:
        return self.scaled or self.keeps_cells

    def _leave_one_out(self, learned: Learned, monitor: FitMonitor, images: Sequence[int] | None = None) -> GoodScores:
        """Each training image, or some, scored against the memory without its own patches."""
        found, features = self._no_scores(), learned.features
        maps = self._wants_maps
        score = LeaveOneOut(learned.scorer, learned.post, maps, features.prepared, len(features.refs))
        count = len(features.refs) if images is None else len(images)
        for done, (i, of_image) in enumerate(features.visit(score, self.learner.extractor.area, images), 1):
            if of_image is not None:
                self._take(found, learned.post, features.refs[i], features.views[i], of_image)
            if monitor.progress:
                monitor.progress("calibration", done, count)
        return found

    def _score_good(
        self, learned: Learned, sources: Sequence[Sample], monitor: FitMonitor, good: GoodScores
    ) -> list[SampleRef]:
        """Good images that the memory does not know join the `good` ones; which they are."""
        seen = list[SampleRef]()
        given = [source for source in sources if not source.angle]
        score = AsNew(learned.scorer, learned.post, self._wants_maps)
        for found, ref, view in self.learner.each(given, score, monitor.on_error):
            self._take(good, learned.post, ref, view, found)
            seen.append(ref)
            if monitor.progress:
                monitor.progress("calibration", len(seen), len(given))
        return seen

    def _score_apart(
        self, readable: Readable, parts: list[list[int]], monitor: FitMonitor, scaled_by_rest: bool
    ) -> tuple[GoodScores, GoodScores]:
        """Parts of the images, each scored by a scorer that learned from the others; and with `scaled_by_rest` how the
        others score there, whose maps a new image is read on."""
        found = rest = self._no_scores()
        for part in parts:
            out = set(part)
            with monitor.clock("calibration"):
                others = [item for i, item in enumerate(readable) if i not in out]
                learned = self.learner.learn(others, monitor.inside())
                self._score_good(learned, [readable[i][0] for i in part], monitor.inside(), found)
                if self.scaled and scaled_by_rest:
                    rest = self._leave_one_out(learned, monitor.inside())
        return found, rest

    def score_without_some(self, learned: Learned, monitor: FitMonitor) -> tuple[GoodScores, GoodScores]:
        """A fifth of the images scored against a memory of the others, selected again from the stored features; and how
        the others score there. The maps that the memory of all gives them are no scale for the fifth: where one of
        its images is unusual its patches are in that memory, and images like it are low."""
        features = learned.features
        turned, groups = [bool(ref.angle) for ref in features.refs], [ref.group for ref in features.refs]
        held = folds_of(turned, self.seed, groups)[0]
        others, found = learned.scorer.reselected(features, held), self._no_scores()
        upright = [i for i in held if not features.refs[i].angle]
        score = AgainstOthers(others, learned.post, self._wants_maps)
        for i, of_image in features.visit(score, self.learner.extractor.area, upright):
            self._take(found, learned.post, features.refs[i], features.views[i], of_image)
        rest = self._no_scores()
        if self.scaled:
            left = sorted(set(range(len(features.refs))).difference(held))
            rest = self._leave_one_out(dataclasses.replace(learned, scorer=others), monitor, left)
        return found, rest

    def _take(self, good: GoodScores, post: Post, ref: SampleRef, view: View, found: Found) -> None:
        """An image as `visits` gave it joins the `good` ones."""
        if isinstance(found, tuple):
            good.add_row(Row(ref.name, *found, ref.group))
        else:
            area = self.learner.extractor.area(view)
            good.add(post, ref.name, ref.group, dataclasses.replace(found, area=area))

    def _add_held_out(self, features: FeatureStore, sources: list[Sample], monitor: FitMonitor) -> None:
        for noted in self.learner.each(sources, Noted.of, monitor.inside().on_error):
            features.note(noted)
