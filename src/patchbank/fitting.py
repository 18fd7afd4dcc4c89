"""One fit, from sources that were decided upon to the record that it leaves behind."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from patchbank.calibration.calibration import Calibration
from patchbank.calibration.monitor import FitMonitor
from patchbank.calibration.schemes import Calibrator, Learned, Readable
from patchbank.data import Lattice, Sample
from patchbank.data.lattice import EVEN
from patchbank.errors import MemoryBudgetError, OnError
from patchbank.features.channels import points_digest
from patchbank.features.extractor import Extractor
from patchbank.features.loading import Inputs
from patchbank.features.planning import Plan
from patchbank.features.store import FeatureStore, PatchFeatures
from patchbank.io.thumbnails import Thumbnail, make_thumbnails
from patchbank.maintenance import noted
from patchbank.sample import SampleRef
from patchbank.scorer import Levels, Scorer
from patchbank.scoring.displacement import response_of
from patchbank.scoring.post import Post
from patchbank.training.checkpoint import Checkpoints
from patchbank.training.options import identity_of

if TYPE_CHECKING:
    from patchbank.detector import Detector


T = TypeVar("T")


class Cluster(Protocol):
    """Other processes that a fit may use (`patchbank.distributed`)."""

    def begin(self, detector: Detector, extractor: Extractor, checkpoints: Checkpoints | None) -> None:
        """Make the workers ready for a fit. Raises `OptionError` for a detector that cannot be fitted there."""
        ...

    def features(self, scorer: Scorer, readable: Readable, monitor: FitMonitor) -> FeatureStore:
        """Features of images, which stay with the workers."""
        ...

    def each(
        self, sources: list[Sample], function: Callable[[PatchFeatures], T], on_error: OnError, digests: bool = True
    ) -> Iterator[T]:
        """As `Learner.each`; `digests`: whether features come with the digest of the pixels."""
        ...


@dataclass(frozen=True, eq=False)
class Fitted:
    """All that a fit leaves behind. A detector has one of these or none: it is assigned once, and never changed.

    Attributes:
        scorer: the memory.
        post: what follows it.
        calibration: scores of good images, and the thresholds.
        inputs: what was decided about images.
        training: what the model file says of the fit, as plain values.
        thumbnails: small pictures of training images, by name.
    """

    scorer: Scorer
    post: Post
    calibration: Calibration
    inputs: Inputs
    training: dict[str, Any]
    thumbnails: dict[str, Thumbnail] = field(default_factory=dict)


def fitted_to(
    detector: Detector,
    extractor: Extractor,
    given: list[Sample],
    copies: list[tuple[str, str]],
    monitor: FitMonitor,
    cluster: Cluster | None = None,
) -> Fitted:
    """Fit and calibrate a detector's scorer. `copies`: what was left out as a copy of what; `cluster`: who helps. The
    detector stays as it is."""
    checkpoints = monitor.session.checkpoints if monitor.session else None
    if checkpoints:
        checkpoints.identity = identity_of(detector, extractor.how)
    if cluster:
        cluster.begin(detector, extractor, checkpoints)
    readable = extractor.survey(detector.augmented(given), monitor.on_error)
    calibrator = Calibrator(
        detector.calibration, detector.false_alarm_rate, detector.seed, Learner(detector, extractor, cluster),
        scaled=detector.scales_by_position(extractor.inputs.channels), keeps_cells=detector.in_ensemble,
    )  # fmt: skip
    learned, held, calibration = calibrator.run(readable, monitor)
    scorer: Scorer = learned.scorer
    calibration = scorer.normalise_scores(calibration)
    scorer.release()
    with monitor.clock("thumbnails"):
        values = extractor.inputs.values
        thumbnails = make_thumbnails(given, detector.thumbnails_mb, values) if scorer.keeps_patches else {}
    refs = [*learned.features.refs, *(held if scorer.can_add_held_out else [])]
    training = _summary(extractor, learned, refs, monitor)
    unused = 0 if scorer.can_add_held_out else len(held)
    training["unreadable"] = len(given) - training["images"] - unused
    if copies:
        training["copies"] = copies
    training = noted(training, "fitted", images=training["images"], vectors=scorer.memory_vectors)
    return Fitted(scorer, learned.post, calibration, extractor.inputs, training, thumbnails)


@dataclass
class Learner:
    """Fits fresh scorers of a detector to some of the images. `known`: the features of all images, as the scorer gets
    them, where one walk served for what must be known before the fit and for the fit."""

    detector: Detector
    extractor: Extractor
    cluster: Cluster | None = None
    known: FeatureStore | None = None

    def fresh(self) -> Scorer:
        """A scorer that was not fitted."""
        return fresh_scorer(self.detector, self.extractor)

    def learn(self, readable: Readable, monitor: FitMonitor, reserved: float = 0.0) -> Learned:
        """Features and memory of images; `reserved`: share of the memory that is kept free for held-out ones."""
        scorer, detector = self.fresh(), self.detector
        scorer.reserved = reserved
        if monitor.session:
            scorer.begin(monitor.session)
        if self.cluster is not None:
            features = self.cluster.features(scorer, readable, monitor)
            with monitor.clock("memory"):
                scorer.fit(features, monitor.progress)
            return Learned(scorer, post_of(detector, self.extractor, scorer), features)
        sources, patches = [source for source, _ in readable], sum(count for _, count in readable)
        plan = scorer.plan(len(sources), patches, detector.torch_device, detector.memory_budget)
        monitor.tell(plan)
        if (detector.stores_features or self.extractor.apart) and plan.where != "stream":
            features = self._stored(sources, patches, plan, monitor)
            with monitor.clock("memory"):
                scorer.fit(features, monitor.progress)
        else:
            features = self.extractor.streamed(sources, monitor.on_error, monitor.progress, scorer.prepare)
            features.expected, features.chunk = patches, plan.chunk
            with monitor.clock("features"):
                scorer.fit(features, monitor.progress)
                if monitor.finds_groups:
                    features.find_near_copies()
        return Learned(scorer, post_of(detector, self.extractor, scorer), features)

    def walked(self, readable: Readable, monitor: FitMonitor) -> FeatureStore:
        """All images, seen once before the fit. Their features are stored for the fits to come where the memory has
        room for them and for a copy of those that one fit learns from; errors are then told here, else by the fit."""
        sources, patches = [source for source, _ in readable], sum(count for _, count in readable)
        with monitor.clock("features"):
            names = {(source.name, source.angle) for source in sources}
            if len(names) == len(sources) and self._has_room(2 * len(sources), 2 * patches):
                self.known = self.extractor.collect(sources, monitor.on_error, monitor.progress, patches)
                return self.known
            seen = FeatureStore()
            for item in self.extractor.stream(sources, monitor.inside().on_error):
                seen.add(item)
        return seen

    def _has_room(self, images: int, patches: int) -> bool:
        detector = self.detector
        if not (detector.stores_features or self.extractor.apart):
            return False
        try:
            return self.fresh().plan(images, patches, detector.torch_device, detector.memory_budget).where == "memory"
        except MemoryBudgetError:
            return False

    def each(self, sources: list[Sample], function: Callable[[PatchFeatures], T], on_error: OnError) -> Iterator[T]:
        """See `calibration.schemes.Learner`."""
        if self.cluster is not None:
            return self.cluster.each(sources, function, on_error)
        return map(function, self._features_of(sources, on_error))

    def _features_of(self, sources: Sequence[Sample], on_error: OnError) -> Iterator[PatchFeatures]:
        """Of some images, one by one."""
        if self.known is None:
            yield from self.extractor.stream(sources, on_error, digests=True)
            return
        found = self.known.selected(sources)
        by_name = {(source.name, source.angle): source for source in sources}
        for i, ref in enumerate(found.refs):
            view, source = found.views[i], by_name[ref.name, ref.angle]
            area = self.extractor.area(view)
            yield PatchFeatures(source, view, ref.grid, found.of_image(i), {}, area, ref.digest)

    def take_in(self, scorer: Any, sources: list[Sample], on_error: OnError) -> None:
        """See `calibration.schemes.Learner`."""
        if self.cluster is not None:
            scorer.take_in_far(self.cluster.each(sources, scorer.far_patches, on_error, digests=False))
        else:
            scorer.take_in(self.extractor.stream(sources, on_error))

    def _stored(self, sources: list[Sample], patches: int, plan: Plan, monitor: FitMonitor) -> FeatureStore:
        if self.known is not None:
            features = self.known.selected(sources)
            if len(features.refs) == len(self.known.refs):
                self.known = None  # the scorer works on them in place
            return features
        with monitor.clock("features"):
            on_disk = plan.where == "disk"
            features = self.extractor.collect(sources, monitor.on_error, monitor.progress, patches, on_disk=on_disk)
            if monitor.finds_groups:
                features.find_near_copies()
        return features


def fresh_scorer(detector: Detector, extractor: Extractor) -> Scorer:
    """A detector's scorer for the features of an extractor, not fitted; of several channels, one for each."""
    of_channels = extractor.levels
    if extractor.apart:
        return detector.fuse(of_channels, extractor.inputs.channels)
    lengths = tuple(length for levels in of_channels for length in levels.channels)
    return detector.make_scorer(Levels(lengths, extractor.backbone.strides, extractor.dimension))


def post_of(detector: Detector, extractor: Extractor, scorer: Scorer, lattice: Lattice | None = None) -> Post:
    """What follows a scorer; `lattice`: where its patches lie, None to measure it on the network."""
    if lattice is None:
        lattice = EVEN if not scorer.localizes else _measured(detector, extractor, scorer)
    return Post(detector.option("image_score"), detector.option("sigma"), lattice)


def _measured(detector: Detector, extractor: Extractor, scorer: Scorer) -> Lattice:
    """It weighs features in its own way."""
    response = response_of(extractor.backbone, extractor.arrangement)
    cell = extractor.arrangement.cell(extractor.backbone.strides)
    gain = scorer.gain(response)
    if gain is not None and len(gain) != response.dimension:  # side by side: that of the first channel with a network
        start = next((sum(extractor.widths[:k]) for k, w in enumerate(extractor.widths) if w == response.dimension), 0)
        gain = gain[start : start + response.dimension] if response.dimension in extractor.widths else None
    return Lattice(cell, response.displacement(detector.option("sigma"), gain))


def _summary(extractor: Extractor, learned: Learned, refs: Sequence[SampleRef], monitor: FitMonitor) -> dict[str, Any]:
    """What the model file says of a fit."""
    upright, backbone, scorer = [ref for ref in refs if not ref.angle], extractor.backbone, learned.scorer
    return {
        "images": len(upright),
        "usual_size": list(Counter(ref.size for ref in upright).most_common(1)[0][0]),
        "learned_from": [[ref.name, ref.digest] for ref in upright],
        "patches": len(learned.features),
        "folder": os.getcwd(),  # that relative names of images belong to
        "plan": monitor.where,
        "fit_seconds": {**monitor.seconds, "total": sum(monitor.seconds.values())},
        "weights": backbone.weights,
        "weights_sha256": backbone.checksum,
        **({"point_weights_sha256": points_digest(points)} if (points := extractor.point_weights) else {}),
        "runtime": backbone.runtime,
        "levels": list(backbone.levels),
        "memory_mb": scorer.memory_mb,
        "memory_vectors": scorer.memory_vectors,
        "patches_lie": learned.post.lattice.state(),
        **scorer.facts(),
    }
