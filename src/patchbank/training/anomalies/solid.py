"""Synthetic anomalies on samples that have a picture and geometry: seen in one of them, or in both at one place."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from patchbank._system.threads import for_each
from patchbank.training.anomalies.checks import check_probability
from patchbank.training.anomalies.depth import DamagedDepth, DepthAnomalies
from patchbank.training.anomalies.draws import generators
from patchbank.training.anomalies.masks import Floats, Mask, as_tensor, foregrounds
from patchbank.training.anomalies.pictures import Anomalies


@dataclass(frozen=True)
class SolidAnomalies:
    """How anomalies are drawn on pictures with geometry. The `normal` of both parts has no effect here.

    Attributes:
        picture: what the picture alone shows, and the textures where both show something.
        depth: what the geometry shows.
        normal: probability that a sample stays as it is. The others have, with the same probability, an anomaly of the
            picture, of the geometry, or of both in one place.

    Raises:
        OptionError: `normal` is no probability.
    """

    picture: Anomalies = field(default_factory=Anomalies)
    depth: DepthAnomalies = field(default_factory=DepthAnomalies)
    normal: float = 0.5

    def __post_init__(self) -> None:
        check_probability("normal", self.normal)

    def applied(
        self,
        pictures: Tensor,
        heights: Tensor,
        valid: Tensor,
        generator: torch.Generator,
        foreground: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw anomalies on a batch.

        Args:
            pictures: B×C×h×w in 0..1, C is 1 or 3; not changed.
            heights: B×1×h×w millimetres, growing towards the camera; not changed.
            valid: B×1×h×w bool, which pixels have a point.
            generator: the only source of randomness.
            foreground: h×w, B×h×w or B×1×h×w, non-zero where an anomaly may lie; None for everywhere.

        Returns:
            The pictures, heights (0 where not valid), valid pixels, and the B×1×h×w mask: 1 where any of them changed.

        Raises:
            DatasetError: a foreground is empty or has no valid point, or the heights of a part are all the same.
        """
        count, _, height, width = pictures.shape
        values = pictures.detach().float().cpu().numpy()
        relief, points = heights.detach().float().cpu().numpy()[:, 0], valid.detach().cpu().numpy()[:, 0]
        allowed = foregrounds(foreground, (count, height, width))
        drawing = generators(generator, count)

        def draw(number: int) -> tuple[Floats, DamagedDepth]:
            rng, picture = drawing[number], np.ascontiguousarray(values[number].transpose(1, 2, 0))
            if rng.random() < self.normal:
                z = np.where(points[number], relief[number], np.float32(0))
                return picture, DamagedDepth(z, points[number], np.zeros((height, width), bool))
            return self.damaged(picture, relief[number], points[number], rng, allowed[number])

        drawn = for_each(draw, range(count))
        after = torch.from_numpy(np.stack([picture.transpose(2, 0, 1) for picture, _ in drawn])).to(pictures)
        z = torch.from_numpy(np.stack([depth.heights for _, depth in drawn])[:, None]).to(heights)
        seen = torch.from_numpy(np.stack([depth.valid for _, depth in drawn])[:, None]).to(valid)
        return after, z, seen, as_tensor([depth.mask for _, depth in drawn], pictures)

    def damaged(
        self, picture: Floats, heights: Floats, valid: Mask, rng: np.random.Generator, foreground: Mask | None = None
    ) -> tuple[Floats, DamagedDepth]:
        """Draw one anomaly on one sample.

        Args:
            picture: H×W×C in 0..1, C is 1 or 3.
            heights: H×W millimetres, growing towards the camera.
            valid: H×W, which pixels have a point.
            rng: the only source of randomness.
            foreground: H×W, where the anomaly may lie; None for everywhere.

        Returns:
            The H×W×C picture; the geometry, whose mask marks what changed in either.

        Raises:
            DatasetError: see `applied`.
        """
        where = rng.integers(3)
        if where == 0:
            after, mask = self.picture.damaged(picture, rng, foreground)
            return after, DamagedDepth(np.where(valid, heights, np.float32(0)), valid, mask)
        depth = self.depth.damaged(heights, valid, rng, foreground)
        return (picture if where == 1 else self.picture.blended(picture, depth.mask, rng)), depth
