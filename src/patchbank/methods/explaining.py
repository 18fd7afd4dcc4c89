"""What a verdict rests on: the suspicious places of an image, and the nominal patches nearest to them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from patchbank._system.numbers import is_whole
from patchbank.data import gather
from patchbank.errors import OptionError
from patchbank.features.extractor import give_up
from patchbank.features.store import ImageFeatures
from patchbank.methods.placing import Placing
from patchbank.prediction import Explanation, Neighbour, Place, Prediction
from patchbank.scoring.maps import peaks


@dataclass(kw_only=True, eq=False)
class Explaining(Placing):
    """A method whose predictions can be explained."""

    @abstractmethod
    def _predict(self, item: ImageFeatures, without_image: int | None = None) -> Prediction: ...

    def explain(
        self, image: Any, at: tuple[int, int] | None = None, count: int = 5, without_image: int | None = None
    ) -> Explanation:
        """What the verdict on an image rests on: the peaks of its regions (of the map where there is none), three at
        most, or the pixel column and row `at`; for each, the nearest patches of `count` training images.
        `without_image`: the number of this image in the memory, which is left out.

        Raises `ImageError` where the image cannot be read, `OptionError` for a position outside it.
        """
        if not is_whole(count) or count < 1:
            raise OptionError(f"count must be at least 1, not {count}")
        if at is not None and not (isinstance(at, Sequence) and len(at) == 2 and all(map(is_whole, at))):
            raise OptionError(f"a position is a pixel column and row such as (120, 80), not {at}")
        sources = gather(image)
        if len(sources) != 1:
            raise OptionError(f"explain takes one image, not {len(sources)}")
        item = next(self._open().stream(sources, give_up))
        prediction = self._predict(item, without_image)
        vectors = self._prepare(item.vectors)
        view, places = replace(item.view, lattice=self._lattice()), []
        for x, y in [at] if at else peaks(prediction):
            if not (0 <= x < prediction.map.shape[1] and 0 <= y < prediction.map.shape[0]):
                height, width = prediction.map.shape
                raise OptionError(f"position {x},{y} lies outside the image of {width}×{height} pixels")
            row, column = view.patch_at(x, y, item.grid, item.inside)
            if np.isnan(prediction.map[y, x]) and self.localizes:
                raise OptionError(f"position {x},{y} is not inspected")
            cell = row * item.grid[1] + column
            if item.inside is not None and not self.keeps_grid:
                cell = int(item.inside.ravel()[:cell].sum())
            closest = self._closest(vectors, cell, count, without_image)
            if not closest and self.keeps_patches:
                closest = [prediction.nearest(x, y)]
            box = view.patch_box(row, column, item.grid)
            places.append(Place(x, y, box, float(prediction.map[y, x]), tuple(closest)))
        return Explanation(prediction, tuple(places))

    def _neighbour(self, reference: int, distance: float) -> Neighbour:
        """The patch that a reference into the memory means."""
        origin, images, fineness = self._origin_of(np.array([reference]))
        image, row, column = (int(value) for value in origin[0])
        grid = (images[image].grid[0] * fineness, images[image].grid[1] * fineness)
        return self._placement().neighbour(images[image], row, column, grid, distance)
