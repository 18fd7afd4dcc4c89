"""The flow that every method shares, once: sample → features → memory → scores → map → decision → prediction."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any, ClassVar

import numpy as np
from typing_extensions import Self

from patchbank._system.threads import RuntimeContext, on_this_thread, within
from patchbank.calibration.calibration import Calibration
from patchbank.calibration.monitor import FitMonitor
from patchbank.calibration.position_scale import PositionScale
from patchbank.data import (
    Geometry,
    Images,
    Lattice,
    RegionOfInterest,
    Sample,
    Tiling,
    ValueRange,
    choose_reference,
    decide_range,
    gather,
    read_roi,
    shorter_sides,
    stream,
    zoom_for,
)
from patchbank.data.content import without_copies
from patchbank.data.folder_content import Holds
from patchbank.data.groups import labelled
from patchbank.errors import ImageError, OnError, OptionError, Progress, give_up, warn
from patchbank.explain import explain
from patchbank.features.aggregation import Arrangement, Cells, OneGrid
from patchbank.features.backbones import numbers_layers, reuse_backbone
from patchbank.features.cache import FeatureCache
from patchbank.features.channels import WITH_GEOMETRY
from patchbank.features.deciding import check_together, decide_channels
from patchbank.features.extractor import Extractor
from patchbank.features.loading import Inputs
from patchbank.features.planning import Plan
from patchbank.features.store import PatchFeatures
from patchbank.fitting import Cluster, Fitted, fitted_to, fresh_scorer, post_of
from patchbank.io.document import document_of
from patchbank.io.model_file import write
from patchbank.io.thumbnails import Thumbnail
from patchbank.maintenance import add, calibrate, forget, known_images, merge
from patchbank.memory.fused_scorer import FusedScorer
from patchbank.options import Options
from patchbank.prediction import Explanation, Neighbour, Prediction
from patchbank.registry import COMBINATIONS
from patchbank.sample import RGB_CHANNEL
from patchbank.scorer import Levels, Memory, Scorer, by_channel
from patchbank.scoring.decision import decide
from patchbank.scoring.nearest import Placement, nearest_patches
from patchbank.shape.decide import decide_depths
from patchbank.training.options import checkpoints_of
from patchbank.training.session import Session


@dataclass(kw_only=True, eq=False)
class Detector(Options):
    """A method with its options, fitted or not. A subclass names a method and makes its scorer; the flow is here."""

    method: ClassVar[str]
    summary: ClassVar[str]  # one line for `patchbank methods`
    cost: ClassVar[str] = ""  # another: what an image and learning take (docs/experiments/methods.md measures)
    needs: ClassVar[str] = "nothing: parts may lie anywhere, images may differ in shape"
    scorer_class: ClassVar[type[Scorer]]
    stores_features: ClassVar[bool] = True  # whether the features of all images are wanted at once
    default_levels: ClassVar[tuple[int, ...] | None] = None  # None: those of the backbone
    with_geometry: ClassVar[tuple[str, ...]] = WITH_GEOMETRY  # channels where none are given and samples have geometry
    presets: ClassVar[dict[str, dict[str, Any]]] = {}

    fitted: Fitted | None = field(init=False, repr=False, default=None)
    feature_cache: FeatureCache | None = field(init=False, repr=False, default=None)
    in_ensemble: bool = field(init=False, repr=False, default=False)
    _opened: tuple[Inputs, Extractor] | None = field(init=False, repr=False, default=None)

    def __new__(cls, *_: Any, **options: Any) -> Any:
        """An `Ensemble` where `backbone` or `image_size` is a list, with a member for each combination; or where
        `members` are given, sets of options, with a member for each of them."""
        if cls.method in COMBINATIONS:
            return super().__new__(cls)
        members = options.pop("members", None)
        lists = {key: options[key] for key in ("backbone", "image_size") if isinstance(options.get(key), list | tuple)}
        if members is None:
            if not lists:
                return super().__new__(cls)
            members = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
            options = {key: value for key, value in options.items() if key not in lists}
        if twice := sorted(options.keys() & {key for each in members for key in each}):
            raise OptionError(f"{twice[0]}: each member has its own: leave it out")
        together: Any = COMBINATIONS["ensemble"]
        return together(members=[cls(**options, **each) for each in members])

    # ---- what a method says ------------------------------------------------------------------------------------------

    def make_scorer(self, levels: Levels) -> Scorer:
        """A scorer with the options of this detector, not fitted."""
        raise NotImplementedError

    def fuse(self, levels: Sequence[Levels], channels: Sequence[str]) -> Scorer:
        """A scorer for several channels, not fitted, given the levels of each."""
        members = [self.make_scorer(each) for each in levels]
        return FusedScorer(members, channels, self.fusion, self.torch_device, self.option("sigma"))

    def arrange(self) -> Arrangement:
        """How the maps of the levels become vectors."""
        return OneGrid(self.option("aggregation"), self.option("patch_size"), self.stride)

    def augmented(self, sources: list[Sample]) -> list[Sample]:
        """What is learned of each image: itself, and what a method makes of it."""
        return sources

    def usual_levels(self) -> tuple[int, ...] | None:
        """Levels where none are given; None for those of the backbone. A vision transformer's have other numbers."""
        return None if numbers_layers(self.backbone) else self.default_levels

    @property
    def localizes(self) -> bool:
        """Whether it makes a map."""
        return self.scorer_class.localizes

    @property
    def keeps_patches(self) -> bool:
        """Whether it can name the nominal patch that a position was compared with."""
        return self.scorer_class.keeps_patches

    # ---- fit ---------------------------------------------------------------------------------------------------------

    def fit(
        self,
        images: Images,
        *,
        groups: Sequence[object] | None = None,
        on_error: OnError = warn,
        progress: Progress | None = None,
        on_plan: Callable[[Plan], None] | None = None,
        checkpoints: str | PathLike[str] | None = None,
        resume: bool = False,
        cluster: Cluster | None = None,
    ) -> Self:
        """Learn from nominal images. Exact copies are used once, with a warning.

        Args:
            images: a folder, paths, arrays (H×W, H×W×C or N×H×W×C; integers or floats), PIL images, or the bytes of
                image files. A folder whose sub-folders also hold defects is refused.
            groups: a label for each image that says which part it shows, where parts have several pictures. It replaces
                the option `group_by`.
            on_error: called with (name, error) for each image that cannot be read; the rest goes on.
            progress: called with (stage, done, total).
            on_plan: called with the plan of where the features will go, before the work starts.
            checkpoints: a folder where a method that learns weights keeps its unfinished training, every two minutes
                and when it is interrupted. It is removed when the fit is complete.
            resume: go on with the training that is kept there.
            cluster: workers that share the fit, from `patchbank.distributed.connect`. The bank is the same.

        Returns:
            The detector itself.

        Raises:
            PatchbankError: options or data cannot be used, or do not fit into memory. The detector is then unchanged.
        """
        self.check()
        with self.context.active():
            kept = checkpoints_of(self, checkpoints, resume, cluster is not None)
            monitor = FitMonitor(on_error, progress, on_plan, session=Session(progress, kept))
            fitted = self._fit(images, groups, monitor, cluster)
            if kept:
                kept.finish()
            return fitted

    def _fit(
        self, images: Images, groups: Sequence[object] | None, monitor: FitMonitor, cluster: Cluster | None
    ) -> Self:
        on_error, roi = monitor.on_error, self._given_roi()
        gathered = gather(images, on_error, of="good")
        channels = decide_channels(self.channels, gathered, isinstance(self.arrange(), Cells), self.with_geometry)
        check_together(self, channels)
        seen = [sample.seen_in(channels[0]) for sample in gathered]
        given, copies = without_copies(labelled(seen, groups, self.group_by), channels)
        monitor.finds_groups = not any(source.group for source in given)
        values = decide_range(given, self.value_range, channels)
        values = replace(values, depths=decide_depths(given, channels, self.depth))
        reference = choose_reference(given, values) if self.align else None
        inputs = Inputs(values, roi, roi, reference, channels, self.zoom_of(given, values, channels))
        extractor = self.make_extractor(inputs)
        self.fitted = fitted_to(self, extractor, given, copies, monitor, cluster)  # one assignment: all or nothing
        self._opened = inputs, extractor
        return self

    def gather(self, images: Images, on_error: OnError | None = None, *, of: Holds | None = None) -> list[Sample]:
        """As `data.gather`, each sample seen in the first of the channels that are inspected."""
        return [sample.seen_in(self.inputs_.channels[0]) for sample in gather(images, on_error, of=of)]

    def zoom_of(self, given: Sequence[Sample], values: ValueRange, channels: Sequence[str]) -> float:
        """What small pictures are enlarged by."""
        return zoom_for(shorter_sides(given, values), self.option("image_size")) if self.enlarges(channels) else 1.0

    def enlarges(self, channels: Sequence[str]) -> bool:
        """Whether small pictures are enlarged; geometry keeps the density of its points."""
        return self.option("enlarge") and self.tile is None and tuple(channels) == (RGB_CHANNEL,)

    def scales_by_position(self, channels: Sequence[str]) -> bool:
        """Whether maps are divided by what good parts reach at each place. By default not where geometry is inspected:
        it finds fewer defects then (docs/experiments/geometry.md)."""
        if self.position_scale is None and tuple(channels) != (RGB_CHANNEL,):
            return False
        return self.localizes and self.option("position_scale") and self.option("image_score") == "smoothed"

    def _given_roi(self) -> RegionOfInterest | None:
        roi: RegionOfInterest | None = read_roi(self.roi) if isinstance(self.roi, str | PathLike) else self.roi
        return roi

    # ---- predict -----------------------------------------------------------------------------------------------------

    def predict(self, image: Any) -> Prediction:
        """Inspect one image.

        Args:
            image: a path, an array H×W or H×W×C, a PIL image, the bytes of an image file, or a mapping of channels.

        Raises:
            ImageError: it cannot be read.
            OptionError: the detector is not fitted, or this is more than one image.
        """
        sources = gather(image)
        if len(sources) != 1:
            raise OptionError(f"predict takes one image, not {len(sources)}: use predict_many")
        return next(self.predictions(sources, give_up))

    def predict_many(self, images: Images, *, on_error: OnError = warn) -> Iterator[Prediction]:
        """Inspect several images, in their order.

        Args:
            images: as for `fit`. An iterator may be endless, such as the frames of a camera: it is asked for the next
                image after the prediction before it was taken.
            on_error: called with (name, error) for each image that cannot be read; the rest goes on.

        Returns:
            An iterator over predictions, one at a time.
        """
        return self.predictions(stream(images, on_error), on_error)

    def predictions(self, sources: Iterable[Sample], on_error: OnError) -> Iterator[Prediction]:
        """As `predict_many`, for sources."""
        return (prediction for _, prediction in self.inspected(sources, on_error))

    def inspected(
        self, sources: Iterable[Sample], on_error: OnError, *, digests: bool = False
    ) -> Iterator[tuple[PatchFeatures, Prediction]]:
        """Features and prediction of each source; `digests`: also take those of the pixels."""
        return within(self.context, self._inspected(sources, on_error, digests))

    def _inspected(
        self, sources: Iterable[Sample], on_error: OnError, digests: bool
    ) -> Iterator[tuple[PatchFeatures, Prediction]]:
        fitted = self.require_fitted()
        for item in self.extractor.stream(sources, on_error, digests=digests):
            try:
                prediction = self._predict(fitted, item)
            except ImageError as error:
                on_error(item.source.name, error)
            else:
                yield item, prediction

    def _predict(self, fitted: Fitted, item: PatchFeatures, exclude: int | None = None) -> Prediction:
        started = time.perf_counter()
        with on_this_thread():
            points = fitted.scorer.prepare(item.vectors)
        scored = fitted.post.score(fitted.scorer, points, item.grid, item.view, item.area, exclude)
        if scored.smoothed is None:
            anomaly = np.full(item.view.input_size, np.nan, dtype=np.float32)
        else:
            anomaly = item.view.to_input(scored.smoothed, None if item.area is None else item.area.pixels)
        nearest = nearest_patches(fitted.scorer, scored.patches, item, self.placement(fitted))
        timings = {**item.timings, "score_ms": 1e3 * (time.perf_counter() - started)}
        return decide(
            item.source.name, scored.score, anomaly, fitted.calibration, nearest=nearest, timings=timings,
            channels=by_channel(fitted.scorer, scored), cells=scored.cells(item.area) if self.in_ensemble else None,
        )  # fmt: skip

    def explain(
        self, image: Any, at: tuple[int, int] | None = None, count: int = 5, without_image: int | None = None
    ) -> Explanation:
        """Show what the decision on one image rests on: suspicious places, and the nearest good patches of each.

        Args:
            image: as for `predict`.
            at: pixel column and row of the one place to explain. None: the peaks of at most three regions, or of the
                map where there is no region.
            count: training images that each place is compared with, the nearest patch of each.
            without_image: number of this image in the bank, whose own patches are then left out.

        Raises:
            ImageError: the image cannot be read.
            OptionError: `at` lies outside the image, or this is more than one image.
        """
        with self.context.active():
            return explain(self, image, at, count, without_image)

    def nearest(self, prediction: Prediction, x: int, y: int) -> Neighbour:
        """Name the nominal patch that a position was compared with. An ensemble names that of its first member.

        Args:
            prediction: may have been pickled or copied; the image is not needed again.
            x: pixel column of the input image.
            y: pixel row of the input image.

        Returns:
            The training image, the box in its pixels, and the distance. `explain` gives more than one patch.

        Raises:
            OptionError: the method keeps no patches, the prediction is of an exported model, or the position lies
                outside the image or its inspected part.
        """
        if prediction._nearest is None and self.parts()[0].keeps_patches:
            raise OptionError(
                f"{prediction.path}: was predicted by an exported model, which names no patches: predict with this one"
            )
        return prediction.nearest(x, y)

    def explained(self, source: Sample, exclude: int | None) -> tuple[PatchFeatures, Prediction]:
        """Features and prediction of one source, a training image left out of the memory."""
        with self.context.active():
            item = next(self.extractor.stream([source], give_up))
            return item, self._predict(self.require_fitted(), item, exclude)

    def placement(self, fitted: Fitted) -> Placement:
        """Where patches of training images lie."""
        reference = fitted.inputs.reference
        size = None if reference is None else reference.size
        return Placement(self.extractor.geometry, size, fitted.post.lattice)

    # ---- change ------------------------------------------------------------------------------------------------------

    def calibrate(
        self,
        good: Images,
        defects: Images | None = None,
        *,
        groups: Sequence[object] | None = None,
        cost_ratio: float | None = None,
        on_error: OnError = warn,
        progress: Progress | None = None,
    ) -> Self:
        """Learn the threshold anew from good images that the memory does not know; the memory and the map stay.

        The images must be a fair sample of good parts, not chosen for their scores.

        Args:
            good: images, as `fit` takes them.
            defects: labelled defects: the threshold is then the one with the highest F1 over both.
            groups: a label for each good image that says which part it shows (by default by the option group_by, or
                where near-copies are found).
            cost_ratio: how many false alarms cost as much as a missed defect: the threshold is the one of least cost.
            on_error: as for `fit`.
            progress: as for `fit`.

        Raises:
            OptionError: the model was learned from some of the images.
        """
        with self.context.active():
            self.fitted = calibrate(self, good, defects, groups, cost_ratio, on_error, progress)
        return self

    def add(
        self,
        images: Images,
        *,
        representative: bool = False,
        on_error: OnError = warn,
        progress: Progress | None = None,
    ) -> Self:
        """Take further good images into the bank, such as false alarms that a person overruled.

        Patches enter that are farther from the bank than its covering radius, farthest first. Where a new image would
        still be rejected, more of its patches enter until it is accepted. Images that the bank knows are passed over.

        Args:
            images: as for `fit`.
            representative: True for a fair sample of good parts, not picked for their scores. Their scores then join
                the calibration, each without the image's own patches. False: the threshold stays.
            on_error: as for `fit`.
            progress: as for `fit`.

        Raises:
            OptionError: the method keeps no bank that could grow.
        """
        with self.context.active():
            self.fitted = add(self, images, representative, on_error, progress)
        return self

    def forget(self, names: str | Sequence[str]) -> Self:
        """Take the patches and scores of training images out of the bank. The covering radius becomes a bound.

        Args:
            names: training images as the model knows them, or the end of a name where only one image has it.

        Raises:
            OptionError: the method keeps no bank, or no training image has that name.
        """
        with self.context.active():
            self.fitted = forget(self, [names] if isinstance(names, str) else names)
        return self

    def merge(self, *others: Detector, bank_size: int | None = None) -> Self:
        """Take in the banks and calibrations of other models, which must see images as this one does.

        Args:
            others: models of the same method. Images that several learned from count once.
            bank_size: thin the bank to that many patches again, farthest first.

        Raises:
            OptionError: the models differ in something that decides their features; the message names it.
        """
        with self.context.active():
            self.fitted = merge(self, others, bank_size)
        return self

    def restrict(self, roi: str | PathLike[str] | RegionOfInterest) -> Self:
        """From now on inspect a region of interest only. The threshold and the model file stay as they are.

        Args:
            roi: a mask image, a JSON file with polygons, or a `RegionOfInterest`, in pixels of the input images; of an
                aligned model in pixels of its reference. It applies within the region of the fit, if there was one.

        Raises:
            OptionError: the method sees whole images only, or the file cannot be read.
        """
        if not self.localizes:
            raise OptionError(f"{self.method} sees whole images only: give the region of interest when it is fitted")
        given = roi if isinstance(roi, RegionOfInterest) else read_roi(roi)
        if any(getattr(part, "foreground", False) for part in self.parts()):
            raise OptionError("foreground does not go with a region of interest")
        for part in self.parts():
            fitted = part.require_fitted()
            inside = given if fitted.inputs.roi is None else fitted.inputs.roi & given
            part.fitted = replace(fitted, inputs=replace(fitted.inputs, roi=inside))
        return self

    def save(self, path: str | PathLike[str]) -> None:
        """Write a `.patchbank` file: complete under its final name, or not at all.

        Args:
            path: the file to write.
        """
        write(path, *document_of(self))

    def memory_state(self) -> tuple[Memory, dict[str, Any]]:
        """The memory, and what follows it, as tensors and plain values."""
        fitted = self.require_fitted()
        tensors, values = fitted.scorer.state()
        return tensors | (fitted.post.scale.state() if fitted.post.scale else {}), values

    def restore(self, tensors: Memory, values: dict[str, Any], common: Fitted) -> None:
        """The inverse of `memory_state`. `common`: the rest of what was fitted; its scorer and what follows it are made
        here."""
        extractor = self.make_extractor(common.inputs)
        scorer = fresh_scorer(self, extractor).restore(tensors, values)
        lie = common.training.get("patches_lie")
        post = post_of(self, extractor, scorer, Lattice.of(lie) if lie else None)
        post = replace(post, scale=PositionScale.of(tensors))
        self.fitted = replace(common, scorer=scorer, post=post)
        self._opened = common.inputs, extractor

    def parts(self) -> Sequence[Detector]:
        """The detectors that have a backbone."""
        return [self]

    # ---- fitted state ------------------------------------------------------------------------------------------------

    def require_fitted(self) -> Fitted:
        """Raises `OptionError` where it has not been fitted."""
        if self.fitted is None:
            raise OptionError("this detector has not been fitted: call fit with good images, or load a model file")
        return self.fitted

    @property
    def is_fitted(self) -> bool:
        """Whether there is something to predict with: `fit` was called, or a model file was loaded."""
        return self.fitted is not None

    # what people read; the names are those of the first version
    @property
    def calibration_(self) -> Calibration:
        """Scores of good images, and the thresholds."""
        return self.require_fitted().calibration

    @calibration_.setter
    def calibration_(self, calibration: Calibration) -> None:
        self.fitted = replace(self.require_fitted(), calibration=calibration)

    @property
    def training_(self) -> dict[str, Any]:
        """What the model file says of the fit."""
        return self.require_fitted().training

    @training_.setter
    def training_(self, training: dict[str, Any]) -> None:
        self.fitted = replace(self.require_fitted(), training=training)

    @property
    def thumbnails_(self) -> dict[str, Thumbnail]:
        """Small pictures of training images, by name."""
        return self.require_fitted().thumbnails

    @property
    def inputs_(self) -> Inputs:
        """What was decided about images."""
        return self.require_fitted().inputs

    @property
    def values_(self) -> ValueRange:
        """What pixel values mean."""
        return self.inputs_.values

    @property
    def scorer(self) -> Scorer:
        """The memory of a fitted detector."""
        return self.require_fitted().scorer

    @property
    def bank_(self) -> Any:
        """The memory bank of methods that have one. Raises `AttributeError` for the others."""
        return self.require_fitted().scorer.bank

    @property
    def memory_vectors(self) -> int | None:
        """How many vectors the memory holds; None where it is no bank."""
        return self.require_fitted().scorer.memory_vectors

    @property
    def memory_mb(self) -> float:
        """MB of what new images are compared with."""
        return self.require_fitted().scorer.memory_mb

    @property
    def digests(self) -> dict[str, str]:
        """The digest of the pixels of each training image, by name (`content.pixel_digest`)."""
        return {name: digest for name, digest in known_images(self.require_fitted()) if digest}

    @property
    def folder(self) -> str:
        """What relative names of training images are relative to."""
        folder: str = self.training_.get("folder", os.getcwd())
        return folder

    @property
    def history(self) -> list[dict[str, Any]]:
        """What was done to the model since it was fitted, oldest first, with times in UTC."""
        history: list[dict[str, Any]] = self.training_.get("history", [])
        return history

    # ---- the stages before the memory --------------------------------------------------------------------------------

    def parameters(self) -> dict[str, Any]:
        """Every option and its value in effect."""
        values = super().parameters()
        if self._opened is not None:  # rounded to what the backbone takes
            values["image_size"] = self._opened[1].geometry.image_size
        if self.fitted is not None:
            values["channels"] = self.fitted.inputs.channels
            values["position_scale"] = self.scales_by_position(self.fitted.inputs.channels)
        return values

    @property
    def context(self) -> RuntimeContext:
        """What this detector may use of the machine."""
        return RuntimeContext(self.threads)

    @property
    def extractor(self) -> Extractor:
        """The stages before the memory: opened by `fit`, or at the first use of a loaded model, and kept; in another
        process anew."""
        inputs = self.fitted.inputs if self.fitted else None
        opened = self._opened
        if inputs is None:
            roi = self._given_roi()
            channels = self.channels or (RGB_CHANNEL,)
            inputs = opened[0] if opened else Inputs(roi=roi, painted=roi, channels=channels)
        if opened is None or opened[0] is not inputs or opened[1].backbone.process != os.getpid():
            self._opened = opened = inputs, self.make_extractor(inputs)
        return opened[1]

    def make_extractor(self, inputs: Inputs) -> Extractor:
        """With the options of this detector. Raises `OptionError` for those that cannot be used."""
        self.check()
        with self.context.active():
            return self._make_extractor(inputs)

    def _make_extractor(self, inputs: Inputs) -> Extractor:
        arrangement = self.arrange()
        levels = self.levels or self.usual_levels()
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
        geometry = Geometry(self.geometry, size, backbone.multiple, self.tile is not None, inputs.zoom)
        tiling = None if self.tile is None else Tiling(self.tile, self.overlap)
        if tiling:
            tiling.check(backbone.multiple)
        keeps_grid = self.scorer_class.keeps_grid
        points = getattr(self, "point_weights", None)
        apart = len(inputs.channels) > 1 and self.fusion != "concat"
        return Extractor(backbone, geometry, arrangement, inputs, keeps_grid, tiling, self.feature_cache, apart, points)

    # ---- processes and copies ----------------------------------------------------------------------------------------

    def __copy__(self) -> Self:
        copied: Self = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """What another process or a deep copy gets: without the network, which each opens for itself."""
        return self.__dict__ | {"_opened": None, "feature_cache": None}
