"""What a method adds to the flow of `base.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchbank.calibration.calibration import Calibration
from patchbank.data import Source
from patchbank.features.aggregation import Arrangement, OneGrid
from patchbank.features.backbones import numbers_layers
from patchbank.features.displacement import Response
from patchbank.features.extractor import Progress
from patchbank.features.store import FeatureSet
from patchbank.memory.bank import TrainingImage
from patchbank.methods.options import Options
from patchbank.methods.work import Work
from patchbank.prediction import Neighbour


@dataclass(frozen=True)
class PatchScores:
    """What a method says about one image: the distance of each patch, rows×columns or in the order of the vectors; a
    reference into its memory for each, where it compares with patches; a factor on the image score; or an image score
    of its own, not made of the distances."""

    distances: Tensor
    nearest: Tensor | None = None
    factor: float = 1.0
    image: float | None = None

    def on_grid(self, grid: tuple[int, int], inside: Tensor | None) -> PatchScores:
        """Distances in the order of the vectors → rows×columns; 0 outside the region of interest."""
        if inside is None:
            nearest = None if self.nearest is None else self.nearest.reshape(grid)
            return replace(self, distances=self.distances.reshape(grid), nearest=nearest)
        distances, nearest = torch.zeros(grid, device=inside.device), None
        distances[inside] = self.distances
        if self.nearest is not None:
            nearest = torch.zeros(grid, dtype=torch.int64, device=inside.device)
            nearest[inside] = self.nearest
        return replace(self, distances=distances, nearest=nearest)


@dataclass(frozen=True)
class Scored:
    """One image: its score, the `smoothed` map at the inspected size, the map's peak, and the scores of its patches, on
    a grid."""

    score: float
    smoothed: NDArray[np.float32]
    peak: float
    patches: PatchScores


@dataclass(kw_only=True, eq=False)
class Method(Options, ABC):
    """What one method is and does, apart from the flow that all share."""

    method: ClassVar[str]
    summary: ClassVar[str]  # one line for `patchbank methods`
    cost: ClassVar[str]  # another, as measured (docs/choosing.md)
    needs: ClassVar[str] = "nothing: parts may lie anywhere, images may differ in shape"
    default_levels: ClassVar[tuple[int, ...] | None] = None  # None: those of the backbone
    localizes: ClassVar[bool] = True  # whether it makes a map
    _reserved: float = field(init=False, repr=False, default=0.0)  # share of a bank kept free for held-out images
    keeps_grid: ClassVar[bool] = False  # whether it needs all patches, also those outside a region of interest
    leaves_parts_out: ClassVar[bool] = False  # whether its leave-one-out leaves all pictures of a part out
    keeps_patches: ClassVar[bool] = False  # whether it can name the nominal patch that a position was compared with

    @abstractmethod
    def _fit_memory(self, features: FeatureSet, progress: Progress | None) -> None:
        """Learn from the patch features of the nominal images."""

    @abstractmethod
    def _compare(
        self, vectors: Tensor, grid: tuple[int, int], inside: Tensor | None, without_image: int | None
    ) -> PatchScores:
        """P×D vectors of an image on their grid → scores. `inside`: which cells of the grid belong to the region of
        interest, None for all; `without_image` leaves a training image out of the memory."""

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

    def _gain(self, response: Response) -> Tensor | None:
        """The weight of each dimension of a feature in squared distances, D, given how each responds; None: the same.
        Where levels keep their own resolution, of each channel."""
        return None

    def _closest(self, vectors: Tensor, patch: int, count: int, without_image: int | None) -> list[Neighbour]:
        """The nearest patch of each of `count` training images to one of P×D prepared vectors of an image, one image
        left out; none where the method keeps none, or can tell only the nearest."""
        return []

    def _finish(self, calibration: Calibration) -> Calibration:
        """What a method makes of the scores of nominal images."""
        return calibration

    def _leaves_holes(self) -> bool:
        """Whether a memory without an image's own patches is worse than one that never had them: a selection keeps no
        others in their place."""
        return False

    def _selects_again(self) -> bool:
        """Whether a memory without some of the images can be had from the stored features: quicker than another fit."""
        return False

    def _absorbs(self) -> bool:
        """Whether images that were held out can be taken in afterwards, so that no score grows by it."""
        return False

    def _absorb(self, sources: list[Source], work: Work) -> None:
        """Take them in."""

    def _tidy(self) -> None:
        """Let go of what only learning and the calibration needed."""

    def _origin_of(self, references: NDArray[np.int64]) -> tuple[NDArray[np.int32], tuple[TrainingImage, ...], int]:
        """Where references into the memory come from: image, row and column of each, …×3; the images; and how many rows
        and columns a cell of their grids has."""
        raise NotImplementedError
