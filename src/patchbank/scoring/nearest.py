"""Which nominal patch each patch of an image was compared with, as plain data that outlives the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchbank.data import AlignedView, Geometry, Lattice, View, turned_back
from patchbank.data.lattice import EVEN
from patchbank.prediction import Neighbour
from patchbank.sample import SampleRef

if TYPE_CHECKING:  # an exported model needs no torch
    from patchbank.features.store import PatchFeatures
    from patchbank.scoring.patch_scores import PatchScores


@dataclass(frozen=True)
class Placement:
    """Where patches lie in pixels of the images: the `geometry`, the (height, width) of the `reference` that images
    were laid over, None without, and the `lattice` of the patches in the inspected part."""

    geometry: Geometry
    reference: tuple[int, int] | None = None
    lattice: Lattice = EVEN

    def view_of(self, image: SampleRef) -> View:
        """How an image was inspected when it was learned from."""
        if self.reference is None:
            view = self.geometry.view(*image.size)
        else:
            view = AlignedView.of(self.geometry.view(*self.reference), image.size, image.alignment)
        return replace(view, lattice=self.lattice)

    def neighbour(self, image: SampleRef, row: int, column: int, grid: tuple[int, int], distance: float) -> Neighbour:
        """A patch of a training image, in pixels of that image as it was given."""
        box = self.view_of(image).patch_box(row, column, grid)
        return Neighbour(image.name, row, column, turned_back(box, image.size, image.angle), distance)


@dataclass(frozen=True, eq=False)
class NearestPatches:
    """For each patch of an image on its h×w grid: the number of a training image among `images`, the row and column of
    the nearest patch on that image's grid, and the distance to it. The grid of a training image has `fineness` rows and
    columns for each of its cells. `inside`: which patches of the image were compared, None for all."""

    view: View
    image: NDArray[np.int32]
    row: NDArray[np.int32]
    column: NDArray[np.int32]
    distance: NDArray[np.float32]
    images: tuple[SampleRef, ...]
    placement: Placement
    fineness: int = 1
    inside: NDArray[np.bool_] | None = None

    @classmethod
    def of(
        cls,
        view: View,
        origin: NDArray[np.int32],
        distance: NDArray[np.float32],
        images: tuple[SampleRef, ...],
        placement: Placement,
        fineness: int = 1,
        inside: NDArray[np.bool_] | None = None,
    ) -> NearestPatches:
        """From the image, row and column of each nearest patch, h×w×3. Keeps only the images that are named."""
        named = np.zeros(len(images), dtype=bool)
        named[origin[..., 0]] = True
        number = (np.cumsum(named) - 1).astype(np.int32)
        used = tuple(images[i] for i in np.flatnonzero(named))
        image, row, column = number[origin[..., 0]], origin[..., 1], origin[..., 2]
        return cls(view, image, row, column, distance, used, placement, fineness, inside)

    def at(self, x: int, y: int) -> Neighbour:
        """What the patch at pixel column `x`, row `y` of the image was compared with."""
        here = self.view.patch_at(x, y, (self.image.shape[0], self.image.shape[1]), self.inside)
        image = self.images[self.image[here]]
        grid = (image.grid[0] * self.fineness, image.grid[1] * self.fineness)
        distance = float(self.distance[here])
        return self.placement.neighbour(image, int(self.row[here]), int(self.column[here]), grid, distance)


def nearest_patches(
    scorer: Any, scores: PatchScores, item: PatchFeatures, placement: Placement
) -> NearestPatches | None:
    """What each patch of an image was compared with; None where the method does not compare with patches."""
    if scores.nearest is None or scores.distances is None:
        return None
    distances = scores.distances.cpu().numpy()
    origin, refs, fineness = scorer.origin_of(scores.nearest.cpu().numpy())
    view = replace(item.view, lattice=placement.lattice)
    inspected = None if scorer.keeps_grid else item.inspected
    return NearestPatches.of(view, origin, distances, refs, placement, fineness, inspected)
