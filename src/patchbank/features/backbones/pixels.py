"""The backbone that is no network: the picture itself, for methods that learn from images (Zavrtanik et al., "DRAEM",
2021, and others like it)."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from patchbank.errors import OptionError
from patchbank.features.backbones.network import LoadedNetwork

PIXELS = "pixels"
_SIDES = 32  # what image sides are multiples of: networks that halve them five times fit


class Pixels(nn.Module):
    """The picture, B×3×H×W in 0..1 → one map of stride 1, which is the picture."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,)


def load_pixels(levels: tuple[int, ...] | None, weights: str | Path | None) -> LoadedNetwork:
    """The network of the backbone `pixels`. Its level is 0; its values are those of the picture, divided by 255.

    Raises `OptionError` for other levels, and for weights.
    """
    if levels not in (None, (0,)):
        given = ",".join(map(str, levels))
        raise OptionError(f"{PIXELS} has the level 0, the picture itself: leave out levels={given}")
    if weights is not None:
        raise OptionError(f"{PIXELS} has no weights, it is the picture itself: leave out weights={weights}")
    return LoadedNetwork(Pixels(), (0,), (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), "none", _SIDES)
