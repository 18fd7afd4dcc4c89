"""The flow that every method shares, once: images → features → memory → calibration; image → distances → prediction."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

from patchbank.backbones import numbers_layers, reuse_backbone
from patchbank.bank import TrainingImage
from patchbank.calibration import Calibration
from patchbank.detectors.options import Options
from patchbank.errors import DatasetError, ImageError, OptionError
from patchbank.extraction import Extractor, FeatureSet, ImageFeatures, OnError, Progress, give_up, warn
from patchbank.images import Geometry, Images, Source, gather, turned_back
from patchbank.patches import Arrangement, OneGrid
from patchbank.planning import Plan, plan_fit
from patchbank.prediction import Neighbour, Prediction
from patchbank.scoring import anomaly_map, find_regions, image_score
from patchbank.threads import on_this_thread, set_threads


@dataclass(frozen=True)
class PatchScores:
    """What a method says about one image: the distance of each patch, rows×columns; a reference into its memory for
    each, where it compares with patches; a factor on the image score; or an image score of its own, not made of the
    distances."""

    distances: Tensor
    nearest: Tensor | None = None
    factor: float = 1.0
    image: float | None = None


@dataclass(kw_only=True, eq=False)
class Detector(Options, ABC):
    """A method. Its constructor takes the `Options` of all methods and its own."""

    method: ClassVar[str]
    summary: ClassVar[str]  # one line for `patchbank methods`
    cost: ClassVar[str]  # another, as measured (docs/choosing.md)
    needs: ClassVar[str] = "nothing: parts may lie anywhere, images may differ in shape"
    default_levels: ClassVar[tuple[int, ...] | None] = None  # None: those of the backbone
    localizes: ClassVar[bool] = True  # whether it makes a map

    calibration_: Calibration = dataclasses.field(init=False, repr=False)
    training_: dict[str, Any] = dataclasses.field(init=False, repr=False)
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

    # ---- what a method adds ------------------------------------------------------------------------------------------

    @abstractmethod
    def _fit_memory(self, features: FeatureSet, progress: Progress | None) -> None:
        """Learn from the patch features of the nominal images."""

    @abstractmethod
    def _compare(self, vectors: Tensor, grid: tuple[int, int], without_image: int | None) -> PatchScores:
        """P×D vectors of an image on their grid → scores; `without_image` leaves a training image out of the memory."""

    @abstractmethod
    def _memory_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The memory as tensors and plain values, for the model file."""

    @abstractmethod
    def _restore_memory(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """The inverse of `_memory_state`."""

    @property
    def memory_vectors(self) -> int | None:
        """How many vectors the memory holds; None where it is no bank."""
        return None

    @property
    def memory_mb(self) -> float:
        """MB of what new images are compared with."""
        tensors, _ = self._memory_state()
        return sum(t.numel() * t.element_size() for t in tensors.values() if t.is_floating_point()) / 1e6

    def _memory_facts(self) -> dict[str, Any]:
        """What `patchbank info` should say about the memory."""
        return {}

    def _arrange(self) -> Arrangement:
        """How the maps of the levels become vectors."""
        return OneGrid(self.option("aggregation"), self.option("patch_size"), self.stride)

    def _kept(self, patches: int) -> int:
        """How many of that many patches the memory keeps, for the forecast."""
        return 0

    def _plan_options(self) -> dict[str, Any]:
        """What else the forecast must know, as keywords of `plan_fit`."""
        return {}

    def _default_levels(self) -> tuple[int, ...] | None:
        """Levels where none are given; None for those of the backbone. A vision transformer's have other numbers."""
        return None if numbers_layers(self.backbone) else self.default_levels

    def _views(self, sources: list[Source]) -> list[Source]:
        """What is learned of each image: itself, and what a method makes of it."""
        return sources

    def _prepare(self, vectors: Tensor) -> Tensor:
        """P×D patches of a new image, as the memory holds those of the nominal ones."""
        return vectors

    def _neighbour(self, reference: int, distance: float) -> Neighbour:
        """Where a reference comes from."""
        raise NotImplementedError

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
        extractor = self._open()
        sources = self._views(gather(images))
        seconds: dict[str, float] = {}
        readable, patches = extractor.survey(sources, on_error)
        plan = self._plan(len(readable), patches)
        if on_plan:
            on_plan(plan)
        with _clock(seconds, "features"):
            features = self._gather(readable, patches, plan, on_error, progress)
        with _clock(seconds, "memory"):
            self._fit_memory(features, progress)
        with _clock(seconds, "calibration"):
            self.calibration_ = self._calibrate(features, progress)
        seconds["total"] = sum(seconds.values())
        self.training_ = {
            "images": sum(not image.angle for image in features.images),
            "unreadable": sum(not source.angle for source in sources) - len(self.calibration_.scores),
            "patches": len(features),
            "plan": plan.where,
            "fit_seconds": seconds,
            "weights": extractor.backbone.weights,
            "weights_sha256": extractor.backbone.checksum,
            "runtime": extractor.backbone.runtime,
            "levels": list(extractor.backbone.levels),
            "memory_mb": self.memory_mb,
            "memory_vectors": self.memory_vectors,
            **self._memory_facts(),
        }
        return self

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

    def _calibrate(self, features: FeatureSet, progress: Progress | None) -> Calibration:
        """Leave-one-image-out: each training image scored against the memory without its own patches."""
        scores, peaks = [], []
        for i, (image, view, vectors) in enumerate(zip(features.images, features.views, features.walk(), strict=True)):
            if image.angle:
                continue  # left out with the image it was made of
            score, smoothed, _ = self._score(vectors, image.grid, view.inspected, without_image=i)
            scores.append(score)
            peaks.append(float(smoothed.max()))
            if progress:
                progress("calibration", i + 1, len(features.images))
        return Calibration(np.array(scores), np.array(peaks), self.false_alarm_rate)

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

        nearest = None if scores.nearest is None else neighbour_at
        prediction = self._verdict(item.source.name, score, anomaly, nearest)
        timings = {**item.timings, "score_ms": 1e3 * (time.perf_counter() - started)}
        return dataclasses.replace(prediction, timings=timings)

    def _verdict(
        self, path: str, score: float, anomaly: NDArray[np.float32], nearest: Callable[[int, int], Neighbour] | None
    ) -> Prediction:
        """The prediction for an image score and a map in input pixels, by the calibration."""
        is_anomalous, map_threshold = score > self.calibration_.threshold, self.calibration_.map_threshold
        # a rejected part has at least one box: the map's peak can lie a little below the limit in input pixels
        level = min(map_threshold, float(np.nanmax(anomaly))) if is_anomalous and self.localizes else map_threshold
        return Prediction(
            path=path,
            score=score,
            p_value=self.calibration_.p_value(score),
            threshold=self.calibration_.threshold,
            is_anomalous=is_anomalous,
            map=anomaly,
            map_threshold=map_threshold,
            regions=find_regions(anomaly, level),
            _nearest=nearest,
        )

    def _patch_of(
        self, image: TrainingImage, row: int, column: int, grid: tuple[int, int], distance: float
    ) -> Neighbour:
        """A patch of a training image, in pixels of that image as it was given."""
        box = self._open().geometry.view(*image.size).patch_box(row, column, grid)
        return Neighbour(image.name, row, column, turned_back(box, image.size, image.angle), distance)


@contextmanager
def _clock(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - started
