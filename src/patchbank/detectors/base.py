"""The flow that every method shares, once: images → features → memory → calibration; image → distances → prediction."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

from patchbank.backbones import reuse_backbone
from patchbank.bank import TrainingImage
from patchbank.calibration import CORRECTED, folds_of
from patchbank.detectors.calibrating import Calibrating
from patchbank.detectors.method import PatchScores
from patchbank.detectors.work import Work
from patchbank.errors import DatasetError, ImageError, OptionError
from patchbank.extraction import Extractor, FeatureSet, ImageFeatures, OnError, Progress, give_up, warn
from patchbank.images import Geometry, Images, Source, gather, turned_back
from patchbank.planning import Plan, plan_fit
from patchbank.prediction import Explanation, Neighbour, Place, Prediction
from patchbank.scoring import anomaly_map, image_score, peaks
from patchbank.threads import on_this_thread, set_threads
from patchbank.thumbnails import Thumbnail, make_thumbnails
from patchbank.verdict import verdict


@dataclass(kw_only=True, eq=False)
class Detector(Calibrating):
    """A fitted or unfitted method. Its constructor takes the `Options` of all methods and its own."""

    thumbnails_: dict[str, Thumbnail] = dataclasses.field(init=False, repr=False, default_factory=dict)
    _extractor: Extractor | None = dataclasses.field(init=False, repr=False, default=None)

    def __new__(cls, *_: Any, backbone: Any = None, **options: Any) -> Any:
        """An `Ensemble` where `backbone` is a list."""
        if not isinstance(backbone, list | tuple):
            return super().__new__(cls)
        from patchbank.detectors.ensemble import Ensemble

        return Ensemble(members=[cls(backbone=name, **options) for name in backbone])

    def parameters(self) -> dict[str, Any]:
        """Every option and its value in effect."""
        values = super().parameters()
        if self._extractor is not None:  # rounded to what the backbone takes
            values["image_size"] = self._extractor.geometry.image_size
        return values

    # ---- the flow ----------------------------------------------------------------------------------------------------

    def fit(
        self,
        images: Images,
        *,
        on_error: OnError = warn,
        progress: Progress | None = None,
        on_plan: Callable[[Plan], None] | None = None,
    ) -> Self:
        """Learn from nominal images: paths, folders, arrays (H×W, H×W×C; uint8, uint16, float in 0..1), PIL images.

        `on_error(name, error)` hears of each image that cannot be read, and the rest goes on; `progress(stage, done,
        total)` of the work done; `on_plan(plan)` of where the features will go, before the work starts. Raises
        `PatchbankError` for options or data that cannot be used, or that the memory cannot hold.
        """
        self._extractor = None  # options may have changed since the last fit
        given = gather(images)
        work = Work(on_error, progress, on_plan)
        readable = self._open().survey(self._views(given), on_error)
        parts = folds_of([bool(source.angle) for source, _ in readable], self.seed)
        way = self._way(sum(not source.angle for source, _ in readable))
        apart = self._score_apart(readable, {"k-fold": parts, CORRECTED: parts[:1]}.get(way, []), work)
        held_out = set(parts[0]) if way == "held-out" else set()
        features = self._learn([item for i, item in enumerate(readable) if i not in held_out], work)
        with work.clock("calibration"):
            if way == "k-fold":
                calibration = apart
            elif way == "held-out":
                calibration = self._score_good([readable[i][0] for i in parts[0]], work)
                self._absorb([readable[i][0] for i in parts[0]], work)
            else:
                calibration = self._leave_one_out(features, progress).corrected(apart)
        self.calibration_ = self._finish(dataclasses.replace(calibration, how=way))
        self._tidy()
        with work.clock("thumbnails"):
            self.thumbnails_ = make_thumbnails(given, self.thumbnails) if self.keeps_patches else {}
        learned, extractor = sum(not image.angle for image in features.images), self._open()
        apart_only = len(calibration) if held_out and not self._absorbs() else 0
        learned += len(calibration) - apart_only if held_out else 0
        self.training_ = {
            "images": learned,
            "unreadable": len(given) - learned - apart_only,
            "patches": len(features),
            "plan": work.where,
            "fit_seconds": {**work.seconds, "total": sum(work.seconds.values())},
            "weights": extractor.backbone.weights,
            "weights_sha256": extractor.backbone.checksum,
            "runtime": extractor.backbone.runtime,
            "levels": list(extractor.backbone.levels),
            "memory_mb": self.memory_mb,
            "memory_vectors": self.memory_vectors,
            **self._memory_facts(),
        }
        self._note("fitted", images=learned, vectors=self.memory_vectors)
        return self

    def _learn(self, readable: list[tuple[Source, int]], work: Work) -> FeatureSet:
        """Features and memory of images, each with its number of patches."""
        sources, patches = [source for source, _ in readable], sum(count for _, count in readable)
        plan = self._plan(len(sources), patches)
        work.tell(plan)
        with work.clock("features"):
            features = self._gather(sources, patches, plan, work.on_error, work.progress)
        with work.clock("memory"):
            self._fit_memory(features, work.progress)
        return features

    def _plan(self, images: int, patches: int) -> Plan:
        return plan_fit(
            images, patches, self._open().dimension, self._kept(patches), self.torch_device, self.memory_budget,
            **self._plan_options(),
        )  # fmt: skip

    def _gather(
        self, sources: list[Source], patches: int, plan: Plan, on_error: OnError, progress: Progress | None
    ) -> FeatureSet:
        """The features of all images, stored where the plan says."""
        return self._open().collect(sources, on_error, progress, patches, on_disk=plan.where == "disk")

    def _again(self, sources: list[Source], features: FeatureSet) -> Iterator[Tensor]:
        """A second walk over images whose features were not stored, which must find what the first one did."""

        def changed(name: str, error: Exception) -> None:
            raise DatasetError(f"{name}: could be read at first, but not a second time ({error})")

        for i, item in enumerate(self._open().stream(sources, changed)):
            if item.grid != features.images[i].grid:
                raise DatasetError(f"{item.source.name}: changed while it was learned from")
            yield self._prepare(item.vectors)

    def predict(self, image: Any) -> Prediction:
        """The prediction for one image. Raises `ImageError` where it cannot be read."""
        sources = gather(image)
        if len(sources) != 1:
            raise OptionError(f"predict takes one image, not {len(sources)}: use predict_many")
        return next(self._predictions(sources, give_up))

    def predict_many(self, images: Images, *, on_error: OnError = warn) -> Iterator[Prediction]:
        """Predictions in order, one at a time; `on_error(name, error)` hears of each image that cannot be read."""
        return self._predictions(gather(images), on_error)

    def explain(self, image: Any, at: tuple[int, int] | None = None, count: int = 5) -> Explanation:
        """What the verdict on an image rests on: the peaks of its regions (of the map where there is none), three at
        most, or the pixel column and row `at`; for each, the nearest patches of `count` training images.

        Raises `ImageError` where the image cannot be read, `OptionError` for a position outside it.
        """
        item = next(self._open().stream(gather(image)[:1], give_up))
        prediction = self._predict(item)
        vectors = self._prepare(item.vectors)
        places = []
        for x, y in [at] if at else peaks(prediction):
            if not (0 <= x < prediction.map.shape[1] and 0 <= y < prediction.map.shape[0]):
                height, width = prediction.map.shape
                raise OptionError(f"position {x},{y} lies outside the image of {width}×{height} pixels")
            row, column = item.view.patch_at(x, y, item.grid)
            closest = self._closest(vectors, row * item.grid[1] + column, count)
            if not closest and self.keeps_patches:
                closest = [prediction.nearest(x, y)]
            box = item.view.patch_box(row, column, item.grid)
            places.append(Place(x, y, box, float(prediction.map[y, x]), tuple(closest)))
        return Explanation(prediction, tuple(places))

    def _parts(self) -> list[Detector]:
        """The detectors that have a backbone."""
        return [self]

    def save(self, path: str | PathLike[str]) -> None:
        """Write a `.patchbank` file: complete under its final name, or not at all."""
        from patchbank.modelfile import save

        save(self, path)

    # ---- shared stages -----------------------------------------------------------------------------------------------

    def _open(self) -> Extractor:
        """The stages before the memory: opened by `fit`, or at the first use of a loaded model, and kept."""
        if self._extractor is None:
            self._extractor = self._make_extractor()
        return self._extractor

    def _make_extractor(self) -> Extractor:
        self._check()
        set_threads(self.threads)
        arrangement = self._arrange()
        levels = self.levels or self._default_levels()
        backbone = reuse_backbone(
            self.backbone,
            levels=tuple(levels) if levels else None,
            weights=self.weights,
            device=self.torch_device,
            runtime=self.runtime,
            seed=self.seed if self.weights == "random" else 0,
            head=arrangement if arrangement.in_graph else None,
            precision=self.precision,
        )
        size = self.image_size or backbone.multiple * round(self.option("image_size") / backbone.multiple)
        geometry = Geometry(self.geometry, size, backbone.multiple)
        return Extractor(backbone, geometry, arrangement)

    def _score(
        self, vectors: Tensor, grid: tuple[int, int], size: tuple[int, int], without_image: int | None = None
    ) -> tuple[float, NDArray[np.float32], PatchScores]:
        """Image score, map at the inspected size, and patch scores of one image's patches."""
        scores = self._compare(vectors, grid, without_image)
        with on_this_thread():
            smoothed = anomaly_map(scores.distances, size, self.option("sigma"))
            score = scores.image
            if score is None:
                score = image_score(self.option("image_score"), scores.distances, smoothed) * scores.factor
        return score, smoothed, scores

    def _predictions(self, sources: list[Any], on_error: OnError) -> Iterator[Prediction]:
        if not hasattr(self, "calibration_"):
            raise OptionError("this detector has not been fitted: call fit with good images, or load a model file")
        for item in self._open().stream(sources, on_error):
            try:
                prediction = self._predict(item)
            except ImageError as error:
                on_error(item.source.name, error)
            else:
                yield prediction

    def _predict(self, item: ImageFeatures) -> Prediction:
        started = time.perf_counter()
        with on_this_thread():
            vectors = self._prepare(item.vectors)
        score, smoothed, scores = self._score(vectors, item.grid, item.view.inspected)
        anomaly = item.view.to_input(smoothed)

        def neighbour_at(x: int, y: int) -> Neighbour:
            assert scores.nearest is not None
            row, column = item.view.patch_at(x, y, (scores.nearest.shape[0], scores.nearest.shape[1]))
            return self._neighbour(int(scores.nearest[row, column]), float(scores.distances[row, column]))

        return verdict(
            item.source.name,
            score,
            anomaly,
            self.calibration_,
            nearest=None if scores.nearest is None else neighbour_at,
            timings={**item.timings, "score_ms": 1e3 * (time.perf_counter() - started)},
        )

    def _patch_of(
        self, image: TrainingImage, row: int, column: int, grid: tuple[int, int], distance: float
    ) -> Neighbour:
        """A patch of a training image, in pixels of that image as it was given."""
        box = self._open().geometry.view(*image.size).patch_box(row, column, grid)
        return Neighbour(image.name, row, column, turned_back(box, image.size, image.angle), distance)
