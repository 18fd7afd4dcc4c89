"""Scores of good images, where a map is read on the scale of what the other good images reach at each place."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from patchbank.calibration.calibration import Calibration, Row
from patchbank.calibration.position_scale import PositionScale, PositionStatistics, coarse

if TYPE_CHECKING:
    from patchbank.scoring.post import Compared, Post

_WAITING = 256_000_000  # bytes of distances that wait until the scale of the others is known


@dataclass
class GoodScores:
    """Good images as they are scored, one by one.

    With `scaled` an image waits until the maps of the others say what its own is divided by: no image is scored on a
    scale that its own map is part of. Where too many wait, those that are there make the scale of all that follow.
    `keeps_cells`: as of `Calibrator`.
    """

    scaled: bool = False
    keeps_cells: bool = False
    _rows: list[Row] = field(default_factory=list)
    _waiting: list[tuple[Post, str, str, Compared]] = field(default_factory=list)
    _statistics: PositionStatistics = field(default_factory=PositionStatistics)
    _named: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))  # the numbers of maps, by image
    _grouped: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))  # and by part
    _bytes: int = 0
    _scale: PositionScale | None = None

    def add(self, post: Post, name: str, group: str, compared: Compared) -> None:
        """Take an image in."""
        if not self.scaled or self._scale is not None or compared.scores.distances is None:
            self._rows.append(self._row(post, name, group, compared, self._scale))
            return
        smoothed = post.finish(compared).smoothed
        assert smoothed is not None
        area = compared.area
        number = len(self._statistics.maps)
        self._statistics.add(coarse(smoothed, None if area is None else area.cells(smoothed.shape)))
        self._named[name].add(number)
        if group:
            self._grouped[group].add(number)
        self._waiting.append((post, name, group, compared))
        self._bytes += compared.nbytes
        if self._bytes > _WAITING and self._statistics.is_enough:
            self._flush(self)
            self._scale = self._statistics.scale()

    def add_row(self, row: Row) -> None:
        """Take an image in that has a score, and no map."""
        self._rows.append(row)

    @property
    def makes_scale(self) -> bool:
        """Whether there are as many maps as a scale takes."""
        return self._statistics.is_enough

    @property
    def scale(self) -> PositionScale | None:
        """Of all images; None where it is not wanted, or there are too few of them."""
        if self._scale is None and self.scaled and self._statistics.is_enough:
            self._scale = self._statistics.scale()
        return self._scale

    def calibration(self, rate: float, scale_of: GoodScores | None = None) -> Calibration:
        """Of all images, on the scale of the others; `scale_of`: of others of these images than those here."""
        self._flush(scale_of or self)
        return Calibration.of_rows(self._rows, rate)

    def _flush(self, others: GoodScores) -> None:
        for post, name, group, compared in self._waiting:
            scale = others._scale_without(name, group)
            self._rows.append(self._row(post, name, group, compared, scale))
        self._waiting.clear()
        self._bytes = 0

    def _scale_without(self, name: str, group: str) -> PositionScale | None:
        if not self._statistics.is_enough:
            return None
        of_part = self._named.get(name, set()) | self._grouped.get(group, set())
        return self._statistics.scale(sorted(of_part))

    def _row(self, post: Post, name: str, group: str, compared: Compared, scale: PositionScale | None) -> Row:
        scored = replace(post, scale=scale).finish(compared)
        cells = scored.cells(compared.area) if self.keeps_cells else None
        return Row(name, scored.score, scored.peak, group, cells)
