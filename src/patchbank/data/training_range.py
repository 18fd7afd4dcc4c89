"""What the pixel values of the training images mean, decided once, when a model is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchbank.data.channels import made_of
from patchbank.data.prefetch import prefetch
from patchbank.data.read import is_eight_bit, read_raw
from patchbank.data.values import SIXTEEN_BITS, UNIT, Range, ValueRange, check_range
from patchbank.errors import ImageError, notify
from patchbank.sample import RGB_CHANNEL, Sample

_FULL_SCALES = (255.0, 1023.0, 4095.0, 16383.0, 65535.0)
_MARGIN = 0.05  # of the observed range, on either side
_MOST_ZOOM = 5  # a range so many times as wide as what nearly all pixels have is worth a word
_LOOKED_AT = 10_000  # values of each image that quantiles are taken of


def decide_range(sources: Sequence[Sample], given: Any = None, channels: Sequence[str] = (RGB_CHANNEL,)) -> ValueRange:
    """The range of the training images' values: `given` as (low, high), or found in all of them, in all of the
    `channels` that are pictures by themselves.

    Only images of more than eight bits are decoded for it. Whole numbers have the smallest usual full scale that holds
    all of them (8, 10, 12, 14 or 16 bits), floating-point values 0..1 or such a full scale where they look like one;
    others have what was observed, and a margin. What is not as usual is said. Raises `OptionError` for a wrong `given`.
    """
    of_channels = [one.seen_in(channel) for channel in channels for one in sources]
    sources = [source for source in of_channels if made_of(source) is None]
    if given is not None:
        check_range(given)
        low, high = (float(value) for value in given)
        eight = [source for source in sources if is_eight_bit(source)]
        if len(eight) == len(sources):
            notify("value_range (--full-scale) is for images of more than 8 bits: the training images have 8 bits")
        return ValueRange((low, high), (low, high), bool(eight) or not sources)
    kinds = {"integers": _Seen(), "floats": _Seen()}
    eight_bit = False
    for found in prefetch(_look, sources):
        if isinstance(found, _Look):
            kinds[found.kind].add(found)
        else:
            eight_bit |= found
    integers, floats = kinds["integers"], kinds["floats"]
    if not integers.images and not floats.images:
        return ValueRange()
    decided = ValueRange(integers.full_scale(), floats.range(), eight_bit)
    for seen, meant, usual in ((integers, decided.integers, SIXTEEN_BITS), (floats, decided.floats, UNIT)):
        if meant is not None:
            seen.tell(meant, usual)
    return decided


@dataclass(frozen=True)
class _Look:
    """One image: the range of its values, that of nearly all of them, and whether all are whole numbers."""

    kind: str
    low: float
    high: float
    usual_low: float
    usual_high: float
    is_whole: bool


@dataclass
class _Seen:
    """The images of one kind."""

    images: list[_Look] = field(default_factory=list)

    def add(self, found: _Look) -> None:
        self.images.append(found)

    @property
    def observed(self) -> Range:
        return min(found.low for found in self.images), max(found.high for found in self.images)

    def full_scale(self) -> Range | None:
        """Of whole numbers."""
        if not self.images:
            return None
        low, high = self.observed
        fits = [scale for scale in _FULL_SCALES if low >= 0 and high <= scale]
        return (0.0, fits[0]) if fits else _with_margin(low, high)

    def range(self) -> Range | None:
        """Of floating-point values."""
        if not self.images:
            return None
        low, high = self.observed
        if low >= 0 and high <= 1:
            return UNIT
        scale = self.full_scale()
        assert scale is not None
        is_whole = all(found.is_whole for found in self.images)
        fills = scale[0] == 0 and low < scale[1] / 4 and high > scale[1] / 2
        return scale if scale[1] in _FULL_SCALES and (is_whole or fills) else _with_margin(low, high)

    def tell(self, meant: Range, usual: Range) -> None:
        """Say what was decided where it is not as usual, and where most of the range is hardly used."""
        low, high = self.observed
        nearly_all = min(found.usual_low for found in self.images), max(found.usual_high for found in self.images)
        is_wide = meant[1] - meant[0] > _MOST_ZOOM * (nearly_all[1] - nearly_all[0])
        if meant == usual and not is_wide:
            return
        sentence = (
            f"pixel values: those of {len(self.images)} training images lie in {low:.6g}..{high:.6g}, and "
            f"{meant[0]:.6g}..{meant[1]:.6g} is taken as the full scale"
        )
        if is_wide:
            sentence += f", of which nearly all pixels use only {nearly_all[0]:.6g}..{nearly_all[1]:.6g}"
        notify(f"{sentence}; value_range (--full-scale) sets another")


def _look(source: Sample) -> _Look | bool:
    """An image of more than eight bits; True for one of eight, False where it cannot be read, which is told later."""
    try:
        if is_eight_bit(source):
            return True
        raw = read_raw(source)
    except ImageError:
        return False
    values = raw.values
    if values.dtype in (np.uint8, bool):
        return True
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        return False
    kind = "floats" if values.dtype.kind == "f" else "integers"
    some = _some(values)
    usual_low, usual_high = (float(value) for value in np.quantile(some, (0.001, 0.999)))
    is_whole = kind == "integers" or bool((some == np.round(some)).all())
    return _Look(kind, low, max(high, raw.full_scale or high), usual_low, usual_high, is_whole)


def _some(values: NDArray[Any]) -> NDArray[np.float64]:
    flat = values.reshape(-1)
    return flat[:: max(1, len(flat) // _LOOKED_AT)].astype(np.float64)


def _with_margin(low: float, high: float) -> Range:
    """What was observed and a little more; nothing below 0 where nothing was."""
    margin = _MARGIN * (high - low) or 0.5
    return (max(low - margin, 0.0) if low >= 0 else low - margin), high + margin
