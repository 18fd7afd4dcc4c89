"""What the pixel values of a camera mean: the range of its numbers that becomes 0..255.

Images of eight bits or fewer need no range. Whole numbers of more bits and floating-point values have the range that
was decided from the training images (`patchbank.data.training_range`) or given as an option; it is kept in the model,
so that a new image, a file, an array or an upload, is scaled as the training images were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from patchbank.errors import ImageError, OptionError

RGB: TypeAlias = "NDArray[np.uint8] | NDArray[np.float32]"
Range: TypeAlias = tuple[float, float]
Tell: TypeAlias = Callable[[str], None]

SIXTEEN_BITS: Range = (0.0, 65535.0)
UNIT: Range = (0.0, 1.0)


@dataclass(frozen=True)
class ValueRange:
    """The (low, high) of `integers`, of more than eight bits, and of `floats`, that become 0 and 255; None where no
    training image was of that kind. `eight_bit`: whether some training images had eight bits, or None had any others.
    `depths`: what stored depths mean (`shape.decide.Depths`), None where no geometry is inspected.
    """

    integers: Range | None = None
    floats: Range | None = None
    eight_bit: bool = True
    depths: Any = None

    @property
    def is_plain(self) -> bool:
        """Whether it says nothing about images of more than eight bits."""
        return replace(self, depths=None) == ValueRange()

    def scaled(self, values: NDArray[Any], name: str, full_scale: float | None = None, tell: Tell | None = None) -> RGB:
        """H×W or H×W×3 values of any type → H×W×3, uint8 where they have eight bits or fewer, else float32 in 0..255.

        `full_scale`: of the image itself, where its file says so, for a model that knows none. `tell` hears what a
        person should know. Raises `ImageError` for values that are not finite, or whose range nobody can know.
        """
        if values.dtype == bool:
            values = values * np.uint8(255)
        if values.dtype == np.uint8:
            if tell and (words := self._about_eight_bits()):
                tell(f"{name}: {words}")
            return _three_channels(values)
        low, high = float(values.min()), float(values.max())
        if not math.isfinite(low) or not math.isfinite(high):
            wrong = int(values.size - np.isfinite(values).sum())
            raise ImageError(
                f"{wrong} of its {values.size} values are NaN or infinite: replace them, such as by the nearest ones"
            )
        (bottom, top), words = self._range(values.dtype, low, high, full_scale)
        if tell and words:
            tell(f"{name}: {words}")
        if tell and (low < bottom or high > top):
            tell(
                f"{name}: its values {_numbers(low, high)} lie partly outside {_numbers(bottom, top)}, the full scale "
                "of the model: they are clipped"
            )
        return _three_channels(_stretched(values, (low, high), (bottom, top)))

    def like(self, picture: NDArray[np.uint8]) -> NDArray[Any]:
        """An 8-bit picture as the training images would have shown it: with the values of their kind."""
        if self.eight_bit:
            return picture
        bottom, top = self.integers or self.floats or SIXTEEN_BITS
        values = bottom + picture.astype(np.float64) * ((top - bottom) / 255)
        return values.round().astype(np.int64) if self.integers else values

    def __or__(self, other: ValueRange) -> ValueRange:
        """Of the training images of both. Raises `OptionError` where they mean different things."""
        for mine, theirs in ((self.integers, other.integers), (self.floats, other.floats)):
            if None not in (mine, theirs) and mine != theirs:
                raise OptionError(
                    "the models cannot be merged: their pixel values have different ranges "
                    f"({self} in one, {other} in the other); fit both with the same value_range (--full-scale)"
                )
        if (self.depths is None) != (other.depths is None) or (self.depths and not self.depths.fits(other.depths)):
            raise OptionError(
                "the models cannot be merged: their depths mean different things (unit, camera, or the height of the "
                "tallest part); fit both with the same ones"
            )
        return ValueRange(
            self.integers or other.integers, self.floats or other.floats, self.eight_bit or other.eight_bit, self.depths
        )

    def __str__(self) -> str:
        kinds = [
            *(["8 bit"] if self.eight_bit else []),
            *([f"integers {_numbers(*self.integers)}"] if self.integers else []),
            *([f"floating-point {_numbers(*self.floats)}"] if self.floats else []),
        ]
        return ", ".join(kinds)

    def state(self) -> dict[str, Any]:
        """As plain values, for the model file."""
        return {"integers": self.integers, "floats": self.floats, "eight_bit": self.eight_bit}

    @classmethod
    def of(cls, state: dict[str, Any] | None) -> ValueRange:
        """The inverse of `state`; that of 8-bit images for the None of older files."""
        if state is None:
            return cls()
        integers, floats = (None if state[key] is None else tuple(state[key]) for key in ("integers", "floats"))
        return cls(integers, floats, bool(state["eight_bit"]))

    def _about_eight_bits(self) -> str:
        if self.eight_bit or self.integers == SIXTEEN_BITS or self.floats == UNIT:
            return ""
        return f"is an 8-bit image, and the model was fitted on {self}: 0..255 is taken for that range"

    def _range(self, dtype: np.dtype[Any], low: float, high: float, full_scale: float | None) -> tuple[Range, str]:
        """The range for values of a type that lie in low..high, and a sentence where it may not be what was meant."""
        if dtype.kind == "f":
            return (self.floats, "") if self.floats else self._for_unknown_floats(low, high)
        if self.integers:
            return self.integers, ""
        if self.floats and self.floats != UNIT:
            return self.floats, f"has whole numbers, and the model was fitted on {self}: the same range is taken"
        if dtype.kind == "u" and dtype.itemsize == 2:
            if full_scale is None and high < 4096 and high > 0:
                return SIXTEEN_BITS, (
                    f"its 16-bit values end at {high:g} and look nearly black on a full scale of 65535, while the "
                    f"model was fitted on {self}: scale them to 8 bits first, or fit with images of this kind"
                )
            return (0.0, full_scale or SIXTEEN_BITS[1]), ""
        for top in (255.0, 65535.0):
            if low >= 0 and high <= top:
                return (0.0, top), f"has {dtype} values, and the model was fitted on {self}: 0..{top:g} is taken"
        raise ImageError(
            f"its values {_numbers(low, high)} have the type {dtype}, and the model was fitted on {self}: scale them "
            "to uint8 or uint16, or fit with images of this kind"
        )

    def _for_unknown_floats(self, low: float, high: float) -> tuple[Range, str]:
        if low >= 0 and high <= 1:
            usual = self.eight_bit or self.integers in (None, SIXTEEN_BITS)
            return UNIT, "" if usual else f"has values in 0..1, and the model was fitted on {self}: 0..1 is taken"
        if self.integers:
            words = "" if self.integers[0] <= low and high <= self.integers[1] else "has floating-point values; "
            return self.integers, f"{words}the model was fitted on {self}: the same range is taken"
        if low >= 0 and high <= 255:
            return (0.0, 255.0), f"has floating-point values up to {high:g}, and no range is known: 0..255 is taken"
        raise ImageError(
            f"its floating-point values {_numbers(low, high)} must lie in 0..1, as the model was fitted on {self}: "
            "divide by the camera's full scale, or fit with images of this kind"
        )


def check_range(given: Any) -> None:
    """Raise `OptionError` for a `value_range` that is none."""
    fine = isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 2
    numbers = [value for value in given if isinstance(value, (int, float, np.number))] if fine else []
    if len(numbers) != 2 or not all(map(math.isfinite, numbers)) or not numbers[0] < numbers[1]:
        raise OptionError(
            f"value_range must be two finite numbers, the lower one first, such as (0, 4095), not {given!r} "
            "(--full-scale 4095 for one that begins at 0)"
        )


def _stretched(values: NDArray[Any], seen: Range, meant: Range) -> NDArray[np.float32]:
    """The values that were `meant` to become 0..255, as float32; those beyond are clipped."""
    (low, high), (bottom, top) = seen, meant
    factor = np.float32(255 / (top - bottom))
    if values.dtype.kind == "f" and values.dtype.itemsize == 2:
        values = values.astype(np.float32)  # which the factor would overflow
    if bottom != 0:
        values = values.astype(np.float32 if values.dtype.itemsize < 4 else np.float64) - bottom
    stretched = np.asarray(values * factor, dtype=np.float32)
    return stretched.clip(0, 255) if low < bottom or high > top else stretched


def _three_channels(values: NDArray[Any]) -> RGB:
    if values.ndim == 2 or values.shape[2] == 1:
        grey: RGB = cv2.cvtColor(np.ascontiguousarray(values), cv2.COLOR_GRAY2RGB)
        return grey
    return np.ascontiguousarray(values)


def _numbers(low: float, high: float) -> str:
    return f"{low:.6g}..{high:.6g}"
