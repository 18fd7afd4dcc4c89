"""What a decision rests on: the suspicious places of an image, and the nominal patches nearest to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from patchbank._system.numbers import is_whole
from patchbank.data import gather
from patchbank.errors import OptionError
from patchbank.prediction import Explanation, Neighbour, Place, Prediction
from patchbank.scorer import Scorer
from patchbank.scoring.maps import peaks
from patchbank.scoring.nearest import Placement

if TYPE_CHECKING:
    from patchbank.data import Sample
    from patchbank.detector import Detector


def one_source(image: Any, at: tuple[int, int] | None, count: int) -> Sample:
    """The arguments of `explain`, checked."""
    if not is_whole(count) or count < 1:
        raise OptionError(f"count must be at least 1, not {count}")
    if at is not None and not (isinstance(at, Sequence) and len(at) == 2 and all(map(is_whole, at))):
        raise OptionError(f"a position is a pixel column and row such as (120, 80), not {at}")
    sources = gather(image)
    if len(sources) != 1:
        raise OptionError(f"explain takes one image, not {len(sources)}")
    return sources[0]


def explain(
    detector: Detector, image: Any, at: tuple[int, int] | None, count: int, without_image: int | None
) -> Explanation:
    """See `Detector.explain`."""
    fitted = detector.require_fitted()
    item, prediction = detector.explained(one_source(image, at, count), without_image)
    scorer, placement = fitted.scorer, detector.placement(fitted)
    points = scorer.prepare(item.vectors)
    view, places = replace(item.view, lattice=placement.lattice), []
    for x, y in [at] if at else peaks(prediction):
        check_position(prediction, x, y, scorer.localizes)
        row, column = view.patch_at(x, y, item.grid, item.inspected)
        cell = row * item.grid[1] + column
        if item.inspected is not None and not scorer.keeps_grid:
            cell = int(item.inspected.ravel()[:cell].sum())
        found = scorer.closest(points, cell, count, without_image)
        closest = [neighbour_of(scorer, reference, distance, placement) for reference, distance in found]
        if not closest and scorer.keeps_patches:
            closest = [prediction.nearest(x, y)]
        box = view.patch_box(row, column, item.grid)
        channel = scorer.channel_at(found[0][0]) if found else ""
        places.append(Place(x, y, box, float(prediction.map[y, x]), tuple(closest), channel))
    return Explanation(prediction, tuple(places))


def check_position(prediction: Prediction, x: int, y: int, localizes: bool) -> None:
    """Raise `OptionError` for a position outside the image, or outside what is inspected."""
    height, width = prediction.map.shape
    if not (0 <= x < width and 0 <= y < height):
        raise OptionError(f"position {x},{y} lies outside the image of {width}×{height} pixels")
    if np.isnan(prediction.map[y, x]) and localizes:
        raise OptionError(f"position {x},{y} is not inspected")


def neighbour_of(scorer: Scorer, reference: int, distance: float, placement: Placement) -> Neighbour:
    """The patch that a reference into the memory means."""
    origin, refs, fineness = scorer.origin_of(np.array([reference]))
    image, row, column = (int(value) for value in origin[0])
    grid = (refs[image].grid[0] * fineness, refs[image].grid[1] * fineness)
    return placement.neighbour(refs[image], row, column, grid, distance)
