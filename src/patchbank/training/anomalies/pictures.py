"""Synthetic anomalies on pictures: blends with textures in Perlin masks, and pieces pasted elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from patchbank._system.threads import for_each
from patchbank.training.anomalies.checks import check_kinds, check_probability
from patchbank.training.anomalies.draws import generators
from patchbank.training.anomalies.masks import (
    TRIES,
    Floats,
    Mask,
    as_tensor,
    changed_pixels,
    check_foreground,
    foregrounds,
    is_large_enough,
)
from patchbank.training.anomalies.pasting import patch, scar
from patchbank.training.anomalies.perlin import perlin_mask
from patchbank.training.anomalies.textures import GeneratedTextures, Textures

PICTURE_KINDS = ("perlin", "cutpaste", "scar")
_LARGEST_SHARE = 0.8  # of the original in a blend
_JITTER = 0.1  # of a pasted piece
_JITTERED_ALIKE = 3  # draws; each later one is jittered more
_LEAST_CHANGE = 0.03  # mean over an anomaly that a person notices
_FORCED_CHANGE = 0.3


@dataclass(frozen=True)
class Anomalies:
    """How anomalies are drawn on pictures.

    Attributes:
        kinds: the ones to draw from, of `PICTURE_KINDS`, each with the same probability. "perlin": a texture blended in
            where Perlin noise is high (DRAEM); "cutpaste" and "scar": a patch or a thin piece of the picture, pasted
            elsewhere (CutPaste).
        textures: what "perlin" blends in.
        normal: probability that a picture stays as it is.

    Raises:
        OptionError: a kind is unknown or there is none, or `normal` is no probability.
    """

    kinds: tuple[str, ...] = PICTURE_KINDS
    textures: Textures = field(default_factory=GeneratedTextures)
    normal: float = 0.5

    def __post_init__(self) -> None:
        check_kinds("kinds", self.kinds, PICTURE_KINDS)
        check_probability("normal", self.normal)

    def applied(
        self, pictures: Tensor, generator: torch.Generator, foreground: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw anomalies on a batch.

        Args:
            pictures: B×C×h×w in 0..1, C is 1 or 3; not changed.
            generator: the only source of randomness.
            foreground: h×w, B×h×w or B×1×h×w, non-zero where an anomaly may lie; None for everywhere.

        Returns:
            B×C×h×w pictures, and their B×1×h×w masks: 1 where a pixel changed, 0 elsewhere.

        Raises:
            DatasetError: a foreground is empty.
        """
        count, _, height, width = pictures.shape
        values = pictures.detach().float().cpu().numpy()
        allowed = foregrounds(foreground, (count, height, width))
        drawing = generators(generator, count)

        def draw(number: int) -> tuple[Floats, Mask]:
            rng = drawing[number]
            if rng.random() < self.normal:
                return values[number], np.zeros((height, width), bool)
            picture = np.ascontiguousarray(values[number].transpose(1, 2, 0))
            damaged, mask = self.damaged(picture, rng, allowed[number])
            return damaged.transpose(2, 0, 1), mask

        drawn = for_each(draw, range(count))
        after = torch.from_numpy(np.stack([picture for picture, _ in drawn])).to(pictures)
        return after, as_tensor([mask for _, mask in drawn], pictures)

    def damaged(self, picture: Floats, rng: np.random.Generator, foreground: Mask | None = None) -> tuple[Floats, Mask]:
        """Draw one anomaly on one picture.

        A draw that changes too few pixels, or changes them too little to be seen, is made again. If none shows, the
        pixels of a Perlin mask are made lighter or darker.

        Args:
            picture: H×W×C in 0..1, C is 1 or 3; not changed.
            rng: the only source of randomness.
            foreground: H×W, where the anomaly may lie; None for everywhere.

        Returns:
            The H×W×C picture and its H×W mask, which is never empty.

        Raises:
            DatasetError: the foreground is empty.
        """
        allowed = np.ones(picture.shape[:2], bool) if foreground is None else foreground
        check_foreground(allowed, "a picture")
        kind = self.kinds[rng.integers(len(self.kinds))]
        for attempt in range(1, TRIES + 1):
            if kind == "perlin":
                region = perlin_mask(allowed, rng)
                after = self.blended(picture, region, rng)
            else:
                jitter = _JITTER * max(attempt - _JITTERED_ALIKE + 1, 1)
                after, region = (patch if kind == "cutpaste" else scar)(picture, allowed, jitter, rng)
            mask = changed_pixels(picture, after, region)
            if is_large_enough(mask, allowed) and _is_noticed(picture, after, mask):
                return np.where(mask[..., None], after, picture), mask
        return _forced(picture, perlin_mask(allowed, rng))

    def blended(self, picture: Floats, region: Mask, rng: np.random.Generator) -> Floats:
        """Blend a texture A into a region M of a picture I: (1 − M)·I + M·((1 − β)·A + β·I).

        β is the share of the original, U(0, 0.8), as in the code that was released with DRAEM. Equation 1 of the paper
        has β for the share of the texture, U(0.1, 1): the same but for the ends of the range.

        Args:
            picture: H×W×C in 0..1.
            region: H×W.
            rng: draws the texture and β.
        """
        share = np.float32(rng.uniform(0, _LARGEST_SHARE))
        texture = self.textures.texture(picture, rng)
        return np.where(region[..., None], (1 - share) * texture + share * picture, picture)


def _is_noticed(before: Floats, after: Floats, mask: Mask) -> bool:
    """Whether the pixels of a mask changed enough, on average."""
    return float(np.abs(after - before)[mask].mean()) >= _LEAST_CHANGE


def _forced(picture: Floats, region: Mask) -> tuple[Floats, Mask]:
    """Make dark pixels of a region lighter, and light ones darker."""
    step = np.where(picture < 0.5, _FORCED_CHANGE, -_FORCED_CHANGE).astype(np.float32)
    return np.where(region[..., None], picture + step, picture), region
