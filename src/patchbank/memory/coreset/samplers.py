"""The coreset samplers, under the names and signatures of the reference implementation.

Each takes N×D features (numpy array or torch tensor) and returns the kept rows, same kind, dtype and device. After
`run`, `indices_` are the kept rows in the order of selection and `covering_radius_` is `max_x min_{m∈M} ‖x − m‖` over
the features.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchbank.errors import OptionError
from patchbank.features.storage import map_blocks, map_rows, take
from patchbank.memory.coreset.farthest_first import farthest_first, row_norms
from patchbank.memory.search import Index, make_index

Features = TypeVar("Features", NDArray[Any], Tensor)
Progress = Callable[[int], None]


class IdentitySampler:
    """Keeps every feature."""

    indices_: Tensor
    covering_radius_: float = 0.0

    def run(self, features: Features, progress: Progress | None = None) -> Features:
        """N×D → the same N×D."""
        self.indices_ = torch.arange(len(features))
        return features


class BaseSampler:
    """Keeps int(N · percentage) features, never less than one. `percentage` is a fraction in (0, 1).

    `count`, if given, is the number to keep instead. Raises `ValueError` for a percentage outside (0, 1).
    """

    def __init__(self, percentage: float, *, count: int | None = None, seed: int = 0):
        if not 0 < percentage < 1:
            raise OptionError(f"percentage must lie in (0, 1), such as 0.1 for 10 %, not {percentage}")
        self.percentage, self.count, self.seed = percentage, count, seed

    def run(self, features: Features, progress: Progress | None = None) -> Features:
        """N×D → K×D. `progress` is called with the number of features selected since its last call.

        Raises `ValueError` for features that are empty, not a matrix, or not finite.
        """
        tensor = self._checked(features)
        indices = self._select(tensor, min(self._count(len(tensor)), len(tensor)), progress)
        self.indices_ = indices.cpu()
        if isinstance(features, np.ndarray):
            kept: Features = features[self.indices_.numpy()]
            return kept
        return take(features, indices.to(features.device))

    def _checked(self, features: Features) -> Tensor:
        elsewhere = _is_elsewhere(features)
        tensor: Tensor = features if elsewhere else torch.as_tensor(features).detach()  # type: ignore[assignment]
        if len(tensor.shape) != 2 or len(tensor) == 0:
            raise OptionError(f"features must be a matrix N×D with N of at least 1, not {tuple(tensor.shape)}")
        if not all(finite for _, finite in map_blocks(tensor, _is_finite)):
            raise OptionError("features hold NaN or infinite values: no distance to them is defined")
        return tensor

    def _count(self, total: int) -> int:
        return max(1, self.count if self.count is not None else int(total * self.percentage))

    def _select(self, features: Tensor, count: int, progress: Progress | None) -> Tensor:
        raise NotImplementedError

    indices_: Tensor
    covering_radius_: float


class RandomSampler(BaseSampler):
    """Keeps a uniform random subset."""

    def _select(self, features: Tensor, count: int, progress: Progress | None) -> Tensor:
        chosen = np.random.default_rng(self.seed).choice(len(features), count, replace=False)
        indices = torch.from_numpy(chosen)
        self.covering_radius_ = covering_radius(features, indices)
        return indices


class GreedyCoresetSampler(BaseSampler):
    """Minimax facility location by farthest-first traversal (PatchCore Eq. 5, Algorithm 1), exact.

    Starts at the feature with the largest norm of its row in the N×N distance matrix, which is never made. Distances
    are taken after a random linear projection to `dimension_to_project_features_to` dimensions
    (Johnson-Lindenstrauss) where the features have more; the features returned are the original ones. With a
    `radius` it stops as soon as every feature is that close to a kept one, in the space of the distances.
    """

    def __init__(
        self,
        percentage: float,
        device: torch.device | str = "cpu",
        dimension_to_project_features_to: int = 128,
        *,
        count: int | None = None,
        seed: int = 0,
        radius: float = 0.0,
    ):
        super().__init__(percentage, count=count, seed=seed)
        self.device, self.radius = torch.device(device), radius
        self.dimension_to_project_features_to = dimension_to_project_features_to

    def _select(self, features: Tensor, count: int, progress: Progress | None) -> Tensor:
        points = project(on_device(features, self.device), self.dimension_to_project_features_to, self.seed)
        selection = farthest_first(points, count, self._anchor(points), progress, self.radius)
        if points.shape[1] == features.shape[1]:
            self.covering_radius_ = selection.radius
        else:
            self.covering_radius_ = covering_radius(features, selection.indices)
        return selection.indices

    def _anchor(self, points: Tensor) -> Tensor:
        return row_norms(points)


class ApproximateGreedyCoresetSampler(GreedyCoresetSampler):
    """Farthest-first traversal from the mean distance to a few random points instead of the norm of the matrix row.

    The mean is never lifted: it stays the binding term of points that are close to all starting points.
    """

    def __init__(
        self,
        percentage: float,
        device: torch.device | str = "cpu",
        number_of_starting_points: int = 10,
        dimension_to_project_features_to: int = 128,
        *,
        count: int | None = None,
        seed: int = 0,
        radius: float = 0.0,
    ):
        super().__init__(percentage, device, dimension_to_project_features_to, count=count, seed=seed, radius=radius)
        self.number_of_starting_points = number_of_starting_points

    def _anchor(self, points: Tensor) -> Tensor:
        starts = min(max(self.number_of_starting_points, 1), len(points))
        chosen = np.random.default_rng(self.seed).choice(len(points), starts, replace=False)
        centres = take(points, torch.from_numpy(chosen).to(points.device)).double()
        anchor: Tensor = map_rows(points, partial(_squared_mean, centres), dtype=torch.float64)
        return anchor


def _squared_mean(centres: Tensor, block: Tensor) -> Tensor:
    return torch.cdist(block.double(), centres).mean(1).square()


def _is_finite(block: Tensor) -> bool:
    return bool(torch.isfinite(block).all())


def _is_elsewhere(features: Any) -> bool:
    """Whether they are `storage.Rows`."""
    return not isinstance(features, Tensor | np.ndarray) and hasattr(features, "map_blocks")


def on_device(features: Tensor, device: torch.device) -> Tensor:
    """Features on a device; those in other processes stay there."""
    return features.to(device) if isinstance(features, Tensor) else features


def project(features: Tensor, dimension: int, seed: int) -> Tensor:
    """N×D → N×`dimension` float32 by a Gaussian random projection that keeps distances in expectation.

    Features with no more than `dimension` columns are returned as they are: projecting up saves nothing.
    """
    if features.shape[1] <= dimension:
        return features.float() if isinstance(features, Tensor) else features
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(features.shape[1], dimension, generator=generator) / dimension**0.5
    matrix = matrix.to(features.device)
    projected: Tensor = map_rows(features, partial(_projected, matrix), width=dimension)
    return projected


def _projected(matrix: Tensor, block: Tensor) -> Tensor:
    return torch.mm(block.float(), matrix)


def covering_radius(features: Tensor, indices: Tensor) -> float:
    """Largest distance of any of N×D features to its nearest among the rows `indices`."""
    return covering_radius_of(features, take(features, indices.to(features.device)))


def covering_radius_of(features: Tensor, kept: Tensor) -> float:
    """Largest distance of any of N×D features to its nearest of K×D kept vectors."""
    return max(radius for _, radius in map_blocks(features, _Reach(kept.float()), 4096))


class _Reach:
    """How far a block of rows lies from K×D kept vectors. The index stays in the process that made it."""

    def __init__(self, kept: Tensor):
        self._kept = kept
        self._index: Index | None = None

    def __call__(self, block: Tensor) -> float:
        self._index = self._index or make_index(self._kept)
        return float(self._index.nearest(block.float())[0].max())

    def __getstate__(self) -> dict[str, Any]:
        return {"_kept": self._kept, "_index": None}
