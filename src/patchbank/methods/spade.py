"""SPADE: Cohen and Hoshen, "Sub-Image Anomaly Detection with Deep Pyramid Correspondences" (2020), arXiv 2005.02357."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from patchbank.calibration.calibration import Calibration, Row
from patchbank.data import Source
from patchbank.errors import MemoryBudgetError, OptionError
from patchbank.features.aggregation import Arrangement, Cells
from patchbank.features.displacement import Response
from patchbank.features.extractor import OnError, Progress
from patchbank.features.planning import Plan, plan_fit
from patchbank.features.store import FeatureSet
from patchbank.memory.bank import TrainingImage, same_part
from patchbank.memory.search import Index, make_index
from patchbank.methods.base import Detector
from patchbank.methods.method import PatchScores

_MAPS = 50  # training images whose maps are made to calibrate the map's threshold


@dataclass(kw_only=True, eq=False)
class SPADE(Detector):
    """The K most similar nominal images, and how far each pixel's features are from the nearest of theirs.

    images_compared: K; bank_dtype: "float16" halves the memory and the file, which hold the features of all nominal
    images. The deepest level in use is averaged to find the images, the others are compared pixel by pixel. By default
    patches are not averaged (patch_size=1), and images are inspected at 224 pixels: the comparison grows with the
    fourth power of the side. The image score is the mean distance to the K images. Other options: `Options`;
    image_score has no effect.
    """

    method: ClassVar[str] = "spade"
    summary: ClassVar[str] = "distance to the most similar nominal images and to their pixels"
    cost: ClassVar[str] = "2.6 s an image, 156 MB, 140 s to learn, at 224×288"
    keeps_patches: ClassVar[bool] = True
    leaves_parts_out: ClassVar[bool] = True
    keeps_grid: ClassVar[bool] = True
    needs: ClassVar[str] = "few nominal images: it keeps the features of all of them"
    default_levels: ClassVar[tuple[int, ...] | None] = (1, 2, 3, 4)

    aggregation: str | None = "mean"
    image_size: int | None = 224
    patch_size: int | None = 1
    images_compared: int = 50
    bank_dtype: str = "float32"

    cells_: Tensor = dataclasses.field(init=False, repr=False)  # N×D, all cells of all images
    pooled_: Tensor = dataclasses.field(init=False, repr=False)  # images×C
    starts_: list[int] = dataclasses.field(init=False, repr=False)
    images_: tuple[TrainingImage, ...] = dataclasses.field(init=False, repr=False)
    _last: tuple[tuple[int, ...], Index, Tensor] | None = dataclasses.field(init=False, repr=False, default=None)

    def _check(self) -> None:
        super()._check()
        if self.images_compared < 1:
            raise OptionError(f"images_compared must be at least 1, not {self.images_compared}")
        if self.bank_dtype not in ("float32", "float16"):
            raise OptionError(f"bank_dtype must be float32 or float16, not {self.bank_dtype!r}")
        if self.stride != 1:
            raise OptionError(f"spade compares every position: stride must be 1, not {self.stride}")

    def _arrange(self) -> Arrangement:
        return Cells(self.option("patch_size"))

    def _plan(self, images: int, patches: int) -> Plan:
        # beside what is kept, the pixels of K images in two copies: expressed in cells
        strides, channels = self._open().backbone.strides, self._open().backbone.channels
        in_cells = (strides[-1] / strides[0]) ** 2 * sum(channels[:-1]) / self._open().dimension
        bank = int(1.25 * in_cells * patches * min(self.images_compared, images) / images)
        return plan_fit(images, patches, self._open().dimension, bank, self.torch_device, self.memory_budget)

    def _gather(
        self, sources: list[Source], patches: int, plan: Plan, on_error: OnError, progress: Progress | None
    ) -> FeatureSet:
        if plan.where != "memory":
            raise MemoryBudgetError(
                f"spade keeps the features of all {len(sources)} images in memory, which does not fit: use fewer "
                "images, a smaller image size (--image-size) or a method with a bounded bank, such as patchcore"
            )
        return super()._gather(sources, patches, plan, on_error, progress)

    def _fit_memory(self, features: FeatureSet, progress: Progress | None) -> None:
        self._last = None
        self.images_, self.starts_ = tuple(features.images), list(features.starts)
        walk = zip(features.walk(), features.insides, strict=True)
        self.pooled_ = torch.stack([self._pool(vectors, inside) for vectors, inside in walk])
        self.cells_ = features.stored.to(getattr(torch, self.bank_dtype))

    def _pool(self, cells: Tensor, inside: Any = None) -> Tensor:
        """P×D cells of an image → the deepest level's average, of those inside the region of interest."""
        deepest = cells[:, -self._open().backbone.channels[-1] :]
        return deepest.mean(0) if inside is None else deepest[torch.as_tensor(inside).flatten()].mean(0)

    def _leave_one_out(self, features: FeatureSet, progress: Progress | None) -> Calibration:
        """The image scores of all images, which are cheap; the maps of a few, which are not."""
        few = set(range(0, len(features.images), max(1, len(features.images) // _MAPS)))
        rows: list[Row] = []
        for i, (image, vectors) in enumerate(zip(features.images, features.walk(), strict=True)):
            score, peak = self._to_images(self._pool(vectors, features.insides[i]), i)[0], math.nan
            if i in few:
                peak = self._score(vectors, image.grid, features.views[i], without_image=i).peak
            rows.append(Row(image.name, score, peak, image.group))
            if progress:
                progress("calibration", i + 1, len(features.images))
        return Calibration.of_rows(rows, self.false_alarm_rate)

    def _to_images(self, pooled: Tensor, without_image: int | None) -> tuple[float, list[int]]:
        """Mean distance to the K nearest images, and which they are."""
        distances = torch.linalg.vector_norm(self.pooled_ - pooled, dim=1)
        if without_image is not None:
            distances[same_part(self.images_, without_image)] = torch.inf
        found = torch.topk(distances, min(self.images_compared, len(distances)), largest=False)
        there = torch.isfinite(found.values)
        if not there.any():
            return math.inf, []
        return float(found.values[there].mean()), found.indices[there].tolist()

    def _compare(
        self, vectors: Tensor, grid: tuple[int, int], inside: Tensor | None, without_image: int | None
    ) -> PatchScores:
        score, compared = self._to_images(self._pool(vectors, inside), without_image)
        queries, fine = self._pixels(vectors, grid)
        if not compared:
            return PatchScores(torch.full(fine, torch.inf), image=score)
        index, numbers = self._gallery(tuple(sorted(compared)))
        distances, where = index.nearest(queries)
        return PatchScores(distances.reshape(fine), numbers[where].reshape(fine), image=score)

    def _gallery(self, compared: tuple[int, ...]) -> tuple[Index, Tensor]:
        """All pixels of some nominal images, prepared for searching, and their numbers; the last one is kept, as few
        images have the same ones always."""
        last = self._last
        if last is None or last[0] != compared:
            pixels = [self._pixels(self._cells_of(image), self.images_[image].grid)[0] for image in compared]
            offsets = self._offsets()
            numbers = [torch.arange(offsets[image], offsets[image + 1]) for image in compared]
            search = "pruned" if pixels[0].device.type == "cpu" else "auto"
            last = compared, make_index(torch.cat(pixels), search), torch.cat(numbers).to(pixels[0].device)
            self._last = last
        return last[1], last[2]

    def _pixels(self, cells: Tensor, grid: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """P×D cells → vectors of all levels but the deepest on the finest grid, and that grid."""
        backbone = self._open().backbone
        levels, maps = Cells.split(cells, backbone.channels, backbone.strides), []
        for level, stride in zip(levels[:-1] or levels, backbone.strides, strict=False):
            v = backbone.strides[-1] // stride
            image = level.reshape(*grid, v, v, -1).permute(4, 0, 2, 1, 3)
            maps.append(image.reshape(1, -1, grid[0] * v, grid[1] * v))
        fine = (maps[0].shape[2], maps[0].shape[3])
        same = [m if m.shape[2:] == maps[0].shape[2:] else F.interpolate(m, fine, mode="bilinear") for m in maps]
        return torch.cat(same, 1)[0].flatten(1).T.contiguous(), fine

    def _gain(self, response: Response) -> Tensor:
        """As of `_pixels`: all levels but the deepest."""
        channels = torch.tensor(self._open().backbone.channels)
        compared = torch.arange(len(channels)) < max(len(channels) - 1, 1)
        return compared.float().repeat_interleave(channels)

    def _cells_of(self, image: int) -> Tensor:
        return self.cells_[self.starts_[image] : self.starts_[image + 1]].float()

    def _offsets(self) -> list[int]:
        """Number of the first pixel of each image, where pixels are counted through all images."""
        side = self._open().backbone.strides[-1] // self._open().backbone.strides[0]
        return [start * side**2 for start in self.starts_]

    def _origin_of(self, references: NDArray[np.int64]) -> tuple[NDArray[np.int32], tuple[TrainingImage, ...], int]:
        offsets, strides = np.asarray(self._offsets()), self._open().backbone.strides
        side = strides[-1] // strides[0]
        image = np.searchsorted(offsets, references, side="right") - 1
        columns = np.asarray([one.grid[1] for one in self.images_])[image] * side
        row, column = np.divmod(references - offsets[image], columns)
        return np.stack([image, row, column], axis=-1).astype(np.int32), self.images_, side

    @property
    def memory_vectors(self) -> int | None:
        return self._offsets()[-1]

    def _memory_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        images = [image.state() for image in self.images_]
        return {"cells": self.cells_, "pooled": self.pooled_}, {"images": images, "starts": self.starts_}

    def _restore_memory(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.cells_, self.pooled_ = tensors["cells"], tensors["pooled"]
        self.images_ = tuple(map(TrainingImage.of, values["images"]))
        self.starts_ = values["starts"]
