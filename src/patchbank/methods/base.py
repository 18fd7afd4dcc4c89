"""The flow that every method shares, once: images → features → memory → calibration; image → distances → prediction."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

from patchbank._system.passing import packed, unpacked
from patchbank._system.threads import on_this_thread, set_threads
from patchbank.data import (
    Geometry,
    Images,
    Reference,
    RegionOfInterest,
    Source,
    Tiling,
    View,
    choose_reference,
    decide_range,
    gather,
    read_roi,
    stream,
)
from patchbank.data.content import without_copies
from patchbank.errors import DatasetError, ImageError, OptionError
from patchbank.features.backbones import reuse_backbone
from patchbank.features.cache import FeatureCache
from patchbank.features.extractor import Extractor, OnError, Progress, give_up, warn
from patchbank.features.planning import Plan, plan_fit
from patchbank.features.store import FeatureSet, ImageFeatures
from patchbank.io.thumbnails import Thumbnail, make_thumbnails
from patchbank.memory.bank import TrainingImage
from patchbank.methods.explaining import Explaining
from patchbank.methods.method import PatchScores, Scored
from patchbank.methods.work import Work
from patchbank.prediction import Prediction
from patchbank.scoring.decision import verdict
from patchbank.scoring.maps import anomaly_map, image_score
from patchbank.scoring.nearest import NearestPatches

_OF_PROCESS = {"_extractor", "_last", "feature_cache"}


@dataclass(kw_only=True, eq=False)
class Detector(Explaining):
    """A fitted or unfitted method. Its constructor takes the `Options` of all methods and its own."""

    learned_roi_: RegionOfInterest | None = dataclasses.field(init=False, repr=False, default=None)
    roi_: RegionOfInterest | None = dataclasses.field(init=False, repr=False, default=None)  # or a part of it
    reference_: Reference | None = dataclasses.field(init=False, repr=False, default=None)  # if `align`
    thumbnails_: dict[str, Thumbnail] = dataclasses.field(init=False, repr=False, default_factory=dict)
    feature_cache: FeatureCache | None = dataclasses.field(init=False, repr=False, default=None)  # of a grid
    _extractor: Extractor | None = dataclasses.field(init=False, repr=False, default=None)

    def __new__(cls, *_: Any, backbone: Any = None, **options: Any) -> Any:
        """An `Ensemble` where `backbone` is a list."""
        if not isinstance(backbone, list | tuple):
            return super().__new__(cls)
        from patchbank.methods.ensemble import Ensemble

        return Ensemble(members=[cls(backbone=name, **options) for name in backbone])

    def __copy__(self) -> Self:
        copied: Self = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """What another process or a deep copy gets: without the network and what else each makes for itself."""
        state = self.__dict__ | dict.fromkeys(_OF_PROCESS & self.__dict__.keys())
        return {name: packed(value) for name, value in state.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: unpacked(value) for name, value in state.items()})

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
        groups: Sequence[object] | None = None,
        on_error: OnError = warn,
        progress: Progress | None = None,
        on_plan: Callable[[Plan], None] | None = None,
    ) -> Self:
        """Learn from nominal images: paths, folders, arrays (H×W, H×W×C, N×H×W×C; integers or floats), PIL images, or
        the bytes of image files. A folder that also holds defects, by its sub-folders, is refused.

        `groups`: a label for each image that says which part it shows, where parts have several pictures (instead of
        the option group_by). Exact copies are used once, and said.
        `on_error(name, error)` hears of each image that cannot be read, and the rest goes on; `progress(stage, done,
        total)` of the work done; `on_plan(plan)` of where the features will go, before the work starts. Raises
        `PatchbankError` for options or data that cannot be used, or that the memory cannot hold.
        """
        self._extractor = None  # options may have changed since the last fit
        self.roi_ = self.learned_roi_ = read_roi(self.roi) if isinstance(self.roi, str | PathLike) else self.roi
        self._check()
        given, copies = without_copies(self._labelled(gather(images, on_error, of="good"), groups))
        work = Work(on_error, progress, on_plan, finds_groups=not any(source.group for source in given))
        self.values_ = decide_range(given, self.value_range)
        self.reference_ = choose_reference(given, self.values_) if self.align else None
        readable = self._open().survey(self._views(given), on_error)
        features, held, calibration = self._learn_and_calibrate(readable, work)
        self.calibration_ = self._finish(calibration)
        self._tidy()
        with work.clock("thumbnails"):
            self.thumbnails_ = make_thumbnails(given, self.thumbnails, self.values_) if self.keeps_patches else {}
        learned = [*features.images, *(held if self._absorbs() else [])]
        self.training_ = self._summary(learned, len(features), work)
        upright = self.training_["images"]
        self.training_["unreadable"] = len(given) - upright - (0 if self._absorbs() else len(held))
        if copies:
            self.training_["copies"] = copies
        self._note("fitted", images=upright, vectors=self.memory_vectors)
        return self

    def _summary(self, learned: list[TrainingImage], patches: int, work: Work) -> dict[str, Any]:
        """What the model file says of the fit."""
        extractor, upright = self._open(), [image for image in learned if not image.angle]
        return {
            "images": len(upright),
            "learned_from": [[image.name, image.digest] for image in upright],
            "patches": patches,
            "folder": os.getcwd(),  # that relative names of images belong to
            "plan": work.where,
            "fit_seconds": {**work.seconds, "total": sum(work.seconds.values())},
            "weights": extractor.backbone.weights,
            "weights_sha256": extractor.backbone.checksum,
            "runtime": extractor.backbone.runtime,
            "levels": list(extractor.backbone.levels),
            "memory_mb": self.memory_mb,
            "memory_vectors": self.memory_vectors,
            "patches_lie": self._lattice().state(),
            **self._memory_facts(),
        }

    def _learn(self, readable: list[tuple[Source, int]], work: Work) -> FeatureSet:
        """Features and memory of images, each with its number of patches."""
        sources, patches = [source for source, _ in readable], sum(count for _, count in readable)
        plan = self._plan(len(sources), patches)
        work.tell(plan)
        with work.clock("features"):
            features = self._gather(sources, patches, plan, work.on_error, work.progress)
            if work.finds_groups:
                features.find_near_copies()
        with work.clock("memory"):
            self._fit_memory(features, work.progress)
        self._patches_lie = None  # it weighs features in its own way
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

    def _again(self, sources: list[Source], features: FeatureSet, on_error: OnError) -> Iterator[Tensor]:
        """A second walk over images whose features were not stored. An image that went away or changed meanwhile gives
        no rows, and `on_error` hears of it. Raises `DatasetError` where all did."""
        places, numbers = {id(source): i for i, source in enumerate(sources)}, iter(range(len(sources)))
        found = 0

        def gone(name: str, error: Exception) -> None:
            on_error(name, ImageError(f"{name}: learned from, but gone when the threshold was set ({error})"))

        for item in self._open().stream(sources, gone):
            here = places[id(item.source)]
            while next(numbers) != here:  # those before it were lost
                yield torch.empty(0, self._open().dimension)
            if item.grid != features.images[here].grid:
                on_error(item.source.name, ImageError(f"{item.source.name}: changed while it was learned from"))
                yield item.vectors[:0]
                continue
            found += 1
            yield self._prepare(item.vectors)
        for _ in numbers:
            yield torch.empty(0, self._open().dimension)
        if not found:
            raise DatasetError("none of the images that were learned from could be read a second time")

    def predict(self, image: Any) -> Prediction:
        """The prediction for one image. Raises `ImageError` where it cannot be read."""
        sources = gather(image)
        if len(sources) != 1:
            raise OptionError(f"predict takes one image, not {len(sources)}: use predict_many")
        return next(self._predictions(sources, give_up))

    def predict_many(self, images: Images, *, on_error: OnError = warn) -> Iterator[Prediction]:
        """Predictions in order, one at a time; `on_error(name, error)` hears of each image that cannot be read.

        An iterator, such as the frames of a camera, is asked for the next image after the prediction before it was
        taken; it may be endless. An N×H×W×C array is N images.
        """
        return self._predictions(stream(images, on_error), on_error)

    def restrict(self, roi: str | PathLike[str] | RegionOfInterest) -> Self:
        """From now on inspect a region of interest only, within the one that was learned from, if any; of an aligned
        model, in pixels of its reference. The threshold stays, and what lies outside still reaches into patches near
        the border; the model file does not change."""
        if not self.localizes:
            raise OptionError(f"{self.method} sees whole images only: give the region of interest when it is fitted")
        given = roi if isinstance(roi, RegionOfInterest) else read_roi(roi)
        if any(getattr(part, "foreground", False) for part in self._parts()):
            raise OptionError("foreground does not go with a region of interest")
        for part in self._parts():
            part.roi_ = given if part.roi_ is None else part.roi_ & given
            part._extractor = None
        return self

    def _parts(self) -> list[Detector]:
        """The detectors that have a backbone."""
        return [self]

    def save(self, path: str | PathLike[str]) -> None:
        """Write a `.patchbank` file: complete under its final name, or not at all."""
        from patchbank.io.model_file import save

        save(self, path)

    # ---- shared stages -----------------------------------------------------------------------------------------------

    def _open(self) -> Extractor:
        """The stages before the memory: opened by `fit`, or at the first use of a loaded model, and kept; in another
        process anew."""
        if self._extractor is None or self._extractor.backbone.process != os.getpid():
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
        geometry = Geometry(self.geometry, size, backbone.multiple, native=self.tile is not None)
        tiling = None if self.tile is None else Tiling(self.tile, self.overlap)
        if tiling:
            tiling.check(backbone.multiple)
        return Extractor(
            backbone,
            geometry,
            arrangement,
            self.roi_,
            self.keeps_grid,
            self.learned_roi_,
            tiling,
            None if self.align else self.feature_cache,  # an image is read again to be laid over the reference
            self.reference_,
            self.values_,
        )

    def _score(self, vectors: Tensor, grid: tuple[int, int], view: View, without_image: int | None = None) -> Scored:
        """Score and map of one image's patches; the calibration must not know the image."""
        extractor = self._open()
        inside = _as_tensor(extractor.inside(view, grid), vectors)
        patches = self._compare(vectors, grid, inside, without_image)
        if patches.distances.ndim == 1:
            patches = patches.on_grid(grid, inside)
        elif inside is not None:  # a method's own, finer grid
            inside = _as_tensor(
                extractor.inside(view, (patches.distances.shape[0], patches.distances.shape[1])), vectors
            )
        lattice = self._lattice()
        with on_this_thread():
            smoothed = anomaly_map(patches.distances, view.inspected, self.option("sigma"), inside, lattice)
            seen, distances = smoothed, patches.distances
            if inside is not None:
                seen, distances = smoothed[extractor.inside(view, view.inspected)], distances[inside]
            score = patches.image
            if score is None:
                score = image_score(self.option("image_score"), distances, seen) * patches.factor
        return Scored(score, smoothed, float(seen.max()), patches)

    def _predictions(self, sources: Iterable[Source], on_error: OnError) -> Iterator[Prediction]:
        return (prediction for _, prediction in self._inspected(sources, on_error))

    def _inspected(
        self, sources: Iterable[Source], on_error: OnError, *, digests: bool = False
    ) -> Iterator[tuple[ImageFeatures, Prediction]]:
        if not hasattr(self, "calibration_"):
            raise OptionError("this detector has not been fitted: call fit with good images, or load a model file")
        for item in self._open().stream(sources, on_error, digests=digests):
            try:
                prediction = self._predict(item)
            except ImageError as error:
                on_error(item.source.name, error)
            else:
                yield item, prediction

    def _predict(self, item: ImageFeatures, without_image: int | None = None) -> Prediction:
        started = time.perf_counter()
        with on_this_thread():
            vectors = self._prepare(item.vectors)
        scored = self._score(vectors, item.grid, item.view, without_image)
        anomaly = item.view.to_input(scored.smoothed, self._open().pixels(item.view))
        return verdict(
            item.source.name,
            scored.score,
            anomaly,
            self.calibration_,
            nearest=self._nearest_patches(scored.patches, item),
            timings={**item.timings, "score_ms": 1e3 * (time.perf_counter() - started)},
        )

    def _nearest_patches(self, scores: PatchScores, item: ImageFeatures) -> NearestPatches | None:
        """What each patch was compared with; None where the method does not compare with patches."""
        if scores.nearest is None:
            return None
        distances = scores.distances.cpu().numpy()
        origin, images, fineness = self._origin_of(scores.nearest.cpu().numpy())
        view = dataclasses.replace(item.view, lattice=self._lattice())
        inside = None if self.keeps_grid else item.inside
        return NearestPatches.of(view, origin, distances, images, self._placement(), fineness, inside)


def _as_tensor(inside: NDArray[np.bool_] | None, like: Tensor) -> Tensor | None:
    return None if inside is None else torch.from_numpy(inside).to(like.device)
