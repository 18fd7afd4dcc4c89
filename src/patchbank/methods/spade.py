"""SPADE: Cohen and Hoshen, "Sub-Image Anomaly Detection with Deep Pyramid Correspondences" (2020), arXiv 2005.02357."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

from patchbank.detector import Detector
from patchbank.errors import MemoryBudgetError, OptionError, Progress
from patchbank.features.aggregation import Arrangement, Cells
from patchbank.features.planning import Plan, plan_fit
from patchbank.features.store import FeatureStore
from patchbank.memory.search import Index, make_index
from patchbank.memory.traced import TracedGallery, norm, together
from patchbank.registry import register
from patchbank.sample import SampleRef, same_part
from patchbank.scorer import Grid, Levels, Memory, Origin, PatchScores, Scorer
from patchbank.scoring.displacement import Response

_MAPS = 50  # training images whose maps are made to calibrate the map's threshold


class SPADEScorer(Scorer):
    """The features of all nominal images: `cells` N×D, those of image i from row starts[i] on; `pooled` images×C."""

    keeps_grid: ClassVar[bool] = True
    keeps_patches: ClassVar[bool] = True
    leaves_parts_out: ClassVar[bool] = True
    cells: Tensor
    pooled: Tensor
    starts: list[int]

    def __init__(self, levels: Levels, k: int, dtype: str):
        super().__init__(levels)
        self.k, self._dtype = k, dtype
        self._refs: tuple[SampleRef, ...] = ()
        self._last: tuple[tuple[int, ...], Index, Tensor] | None = None
        self._traced: TracedGallery | None = None

    # ---- learn -------------------------------------------------------------------------------------------------------

    def plan(self, images: int, patches: int, device: torch.device, budget: int | None) -> Plan:
        # beside what is kept, the pixels of K images in two copies: expressed in cells
        strides, channels = self.levels.strides, self.levels.channels
        in_cells = (strides[-1] / strides[0]) ** 2 * sum(channels[:-1]) / self.levels.dimension
        bank = int(1.25 * in_cells * patches * min(self.k, images) / images)
        plan = plan_fit(images, patches, self.levels.dimension, bank, device, budget)
        if plan.where != "memory":
            raise MemoryBudgetError(
                f"spade keeps the features of all {images} images in memory, which does not fit: use fewer "
                "images, a smaller image size (--image-size) or a method with a bounded bank, such as patchcore"
            )
        return plan

    def fit(self, features: FeatureStore, progress: Progress | None = None) -> Self:
        self._refs, self.starts = tuple(features.refs), list(features.starts)
        walk = zip(features.walk(), features.inspected, strict=True)
        self.pooled = torch.stack([self._pool(v, None if i is None else torch.from_numpy(i)) for v, i in walk])
        self.cells = features.stored.to(getattr(torch, self._dtype))
        return self

    def _pool(self, cells: Tensor, inspected: Tensor | None) -> Tensor:
        """…×P×D cells of an image → the deepest level's average, of those that are inspected."""
        deepest = cells[..., -self.levels.channels[-1] :]
        if inspected is None:
            return deepest.mean(-2)
        if inspected.dtype == torch.bool:
            return deepest[inspected.flatten()].mean(0)
        return (deepest * inspected.reshape(1, -1, 1)).sum(1) / inspected.sum()

    # ---- score -------------------------------------------------------------------------------------------------------

    def compare(
        self, points: Tensor, grid: Grid, inspected: Tensor | None = None, exclude: int | None = None
    ) -> PatchScores:
        """Eq. 1: the mean distance to the K nearest images; Eq. 2: of each pixel to the nearest of theirs (Eq. 3)."""
        score, compared = self._to_images(self._pool(points, inspected), exclude)
        queries, fine = self._pixels(points, grid)
        if self._traced is not None:
            distances, _ = self._traced.nearest(queries, compared)
            return PatchScores(distances.reshape(-1, *fine), image=score)
        if not len(compared):
            return PatchScores(torch.full(fine, torch.inf), image=score)
        index, numbers = self._gallery(tuple(sorted(compared.tolist())))
        distances, where = index.nearest(queries)
        return PatchScores(distances.reshape(fine), numbers[where].reshape(fine), image=score)

    def _to_images(self, pooled: Tensor, exclude: int | None) -> tuple[Tensor, Tensor]:
        """…×C → mean distance to the K nearest images, …, and which they are, …×K."""
        difference = self.pooled - pooled.unsqueeze(-2)
        distances = norm(difference) if self._traced else torch.linalg.vector_norm(difference, dim=-1)
        if exclude is not None:
            distances[same_part(self._refs, exclude)] = torch.inf
        found = torch.topk(distances, min(self.k, int(self.pooled.shape[0])), dim=-1, largest=False)
        if exclude is None:
            return found.values.mean(-1), found.indices
        there = torch.isfinite(found.values)
        if not there.any():
            return torch.tensor(math.inf), found.indices[there]
        return found.values[there].mean(), found.indices[there]

    def quick_score(self, i: int, images: int, points: Tensor, inspected: NDArray[np.bool_] | None) -> float | None:
        if i % max(1, images // _MAPS) == 0:
            return None
        cells = None if inspected is None else torch.from_numpy(inspected)
        return float(self._to_images(self._pool(points, cells), i)[0])

    def _gallery(self, compared: tuple[int, ...]) -> tuple[Index, Tensor]:
        """All pixels of some nominal images, prepared for searching, and their numbers; the last one is kept, as few
        images have the same ones always."""
        last = self._last
        if last is None or last[0] != compared:
            pixels = [self._pixels_of(image) for image in compared]
            offsets = self._offsets()
            numbers = [torch.arange(offsets[image], offsets[image + 1]) for image in compared]
            search = "pruned" if pixels[0].device.type == "cpu" else "auto"
            last = compared, make_index(torch.cat(pixels), search), torch.cat(numbers).to(pixels[0].device)
            self._last = last
        return last[1], last[2]

    def _pixels(self, cells: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """…×P×D cells → vectors of all levels but the deepest on the finest grid, …×Q×C, and that grid."""
        strides, maps = self.levels.strides, []
        levels = Cells.split(cells, self.levels.channels, strides)
        for level, stride in zip(levels[:-1] or levels, strides, strict=False):
            v, c = strides[-1] // stride, int(level.shape[-1])
            image = level.reshape(-1, grid[0], grid[1], v, v, c).permute(0, 5, 1, 3, 2, 4)
            maps.append(image.reshape(-1, c, grid[0] * v, grid[1] * v))
        side = strides[-1] // strides[0]
        fine = (grid[0] * side, grid[1] * side)
        same = [maps[0], *(F.interpolate(m, fine, mode="bilinear") for m in maps[1:])]
        found = torch.cat(same, 1).flatten(2).transpose(1, 2)
        return (found[0].contiguous() if cells.ndim == 2 else found), fine

    def gain(self, response: Response) -> Tensor:
        """As of `_pixels`: all levels but the deepest."""
        channels = torch.tensor(self.levels.channels)
        compared = torch.arange(len(channels)) < max(len(channels) - 1, 1)
        return compared.float().repeat_interleave(channels)

    # ---- what it knows, files, exports -------------------------------------------------------------------------------

    def _pixels_of(self, image: int) -> Tensor:
        cells = self.cells[self.starts[image] : self.starts[image + 1]].float()
        return self._pixels(cells, self._refs[image].grid)[0]

    def _offsets(self) -> list[int]:
        """Number of the first pixel of each image, where pixels are counted through all images."""
        side = self.levels.strides[-1] // self.levels.strides[0]
        return [start * side**2 for start in self.starts]

    def origin_of(self, references: NDArray[np.int64]) -> Origin:
        offsets, side = np.asarray(self._offsets()), self.levels.strides[-1] // self.levels.strides[0]
        image = np.searchsorted(offsets, references, side="right") - 1
        columns = np.asarray([ref.grid[1] for ref in self._refs])[image] * side
        row, column = np.divmod(references - offsets[image], columns)
        return np.stack([image, row, column], axis=-1).astype(np.int32), self._refs, side

    @property
    def refs(self) -> tuple[SampleRef, ...]:
        return self._refs

    @property
    def memory_vectors(self) -> int | None:
        return self._offsets()[-1]

    def merge(self, others: Sequence[Any], skipped: Sequence[set[str]], names: Sequence[Mapping[str, str]]) -> Self:
        """The images of all."""
        merged = self.copied()
        merged._last = None
        for other, twice, named in zip(others, skipped, names, strict=True):
            kept = [i for i, ref in enumerate(other._refs) if ref.name not in twice]
            parts = [other.cells[other.starts[i] : other.starts[i + 1]] for i in kept]
            merged.cells = torch.cat([merged.cells, *parts])
            merged.pooled = torch.cat([merged.pooled, other.pooled[kept]])
            starts = merged.starts[-1] + np.cumsum([len(part) for part in parts])
            merged.starts = [*merged.starts, *starts.tolist()]
            merged._refs = (*merged._refs, *(other._refs[i].renamed(named) for i in kept))
        return merged

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_last": None}

    def state(self) -> tuple[Memory, dict[str, Any]]:
        images = [ref.state() for ref in self._refs]
        return {"cells": self.cells, "pooled": self.pooled}, {"images": images, "starts": self.starts}

    def restore(self, tensors: Memory, values: dict[str, Any]) -> Self:
        self.cells, self.pooled = tensors["cells"], tensors["pooled"]
        self._refs, self.starts = tuple(map(SampleRef.of, values["images"])), values["starts"]
        return self

    def export_memory(self, grid: Grid) -> tuple[Memory, dict[str, int]]:
        pixels = [self._pixels_of(i).detach().cpu() for i in range(len(self._refs))]
        memory, growing = {"pooled": self.pooled.cpu().clone(), "pixels": torch.cat(pixels)}, {"pixels": 0}
        if self.k < len(self.pooled):
            memory["image_of"] = torch.cat([torch.full((len(of),), i) for i, of in enumerate(pixels)])
            growing["image_of"] = 0
        return memory, growing

    def traced(self, memory: Memory, grid: Grid) -> Self:
        scorer = self.copied()
        scorer.pooled = memory["pooled"]
        step = together(self._offsets()[-1])
        scorer._traced = TracedGallery(memory["pixels"], memory.get("image_of"), len(self.pooled), step)
        return scorer


@register
@dataclass(kw_only=True, eq=False)
class SPADE(Detector):
    """The K most similar nominal images, and how far each pixel's features are from the nearest of theirs.

    The deepest level in use is averaged to find the images, the others are compared pixel by pixel. By default patches
    are not averaged (patch_size=1), and images are inspected at 224 pixels: the comparison grows with the fourth power
    of the side. The image score is the mean distance to the K images.

    Args:
        k: training images that are compared, K.
        bank_dtype: "float16" halves the memory and the file, which hold the features of all nominal images.
    Other options: `Options`, but aggregation and image_score.
    """

    method: ClassVar[str] = "spade"
    summary: ClassVar[str] = "distance to the most similar nominal images and to their pixels"
    cost: ClassVar[str] = "an image takes seconds; a minute or more to learn, and a large memory"
    needs: ClassVar[str] = "few nominal images: it keeps the features of all of them"
    scorer_class: ClassVar[type[SPADEScorer]] = SPADEScorer
    default_levels: ClassVar[tuple[int, ...] | None] = (1, 2, 3, 4)
    without_effect: ClassVar[frozenset[str]] = frozenset({"aggregation", "image_score"})

    aggregation: str | None = "mean"
    image_size: int | None = 224
    patch_size: int | None = 1
    former: ClassVar[dict[str, str]] = Detector.former | {"images_compared": "k"}

    k: int = 50
    bank_dtype: str = "float32"

    def check(self) -> None:
        super().check()
        if self.k < 1:
            raise OptionError(f"k must be at least 1, not {self.k}")
        if self.bank_dtype not in ("float32", "float16"):
            raise OptionError(f"bank_dtype must be float32 or float16, not {self.bank_dtype!r}")
        if self.stride != 1:
            raise OptionError(f"spade compares every position: stride must be 1, not {self.stride}")

    def arrange(self) -> Arrangement:
        return Cells(self.option("patch_size"))

    def make_scorer(self, levels: Levels) -> SPADEScorer:
        return SPADEScorer(levels, self.k, self.bank_dtype)
