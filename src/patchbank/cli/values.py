"""Texts of options as values: sizes, seeds, the format of depths, and the values of `--set`."""

from __future__ import annotations

import math
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from patchbank.cli.numbers import LARGEST_SEED
from patchbank.errors import OptionError

if TYPE_CHECKING:
    from patchbank.shape import DepthFormat

_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_PIXELS = {"p": 1, "kp": 10**3, "mp": 10**6, "gp": 10**9}
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parse_bytes(text: str, option: str = "--memory-budget", *, bare: bool = False) -> int:
    """ "4GB" or "500 MB" → bytes; 0 needs no unit, and with `bare` no number does."""
    count = _sized(text, _BYTES | ({"": 1} if bare else {}))
    if count is None:
        raise OptionError(f"{option} takes a size with its unit, such as 4GB or 500MB, not {text!r}")
    return count


def parse_pixels(text: str, option: str) -> int:
    """ "64MP" → pixels. Raises `OptionError`."""
    count = _sized(text, _PIXELS)
    if not count or count > 10**12:
        raise OptionError(f"{option} takes a number of pixels with its unit, such as 64MP, not {text!r}")
    return count


def _sized(text: str, units: dict[str, int]) -> int | None:
    """A number with one of the units; None for what is none."""
    number = text.strip().rstrip("BbKkMmGgIiPp ")
    unit = text.strip()[len(number) :].strip().lower()
    try:
        value = float(number)
        count = int(value * (1 if value == 0 and not unit else units[unit]))
    except (ValueError, KeyError, OverflowError):
        return None
    return count if 0 <= count < 2**63 else None


def depth_format(unit: str | None, axis: str | None, invalid: str | None, camera: Path | None) -> DepthFormat | None:
    """What the numbers of geometry mean; None where no option says anything. Raises `OptionError`."""
    if all(value is None for value in (unit, axis, invalid, camera)):
        return None
    from patchbank.shape import DepthFormat, read_camera

    given: dict[str, Any] = {}
    if unit is not None:
        given["unit"] = float(unit) if unit.replace(".", "", 1).isdigit() else unit
    if axis is not None:
        given["axis"] = axis
    if invalid is not None:
        try:
            given["invalid"] = tuple(float(number) for number in invalid.split(","))
        except ValueError:
            raise OptionError(f"--invalid takes numbers such as 0 or 0,65535, not {invalid!r}") from None
    if camera is not None:
        given["camera"] = read_camera(camera)
    return DepthFormat(**given)


def range_up_to(full_scale: float | None) -> tuple[float, float] | None:
    """The `value_range` of --full-scale."""
    if full_scale is None:
        return None
    if not (math.isfinite(full_scale) and full_scale > 0):
        raise OptionError(f"--full-scale must be a positive number such as 4095, not {full_scale}")
    return 0.0, full_scale


def parse_share(text: str | float) -> float:
    """ "0.05" → 0.05. Raises `typer.BadParameter`, to which the command line adds the name of the option."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"it takes a share, such as 0.05, not {text!r}") from None


def parse_seed(text: str) -> int:
    """A seed of a list that is separated by commas."""
    try:
        if not 0 <= (seed := int(text)) <= LARGEST_SEED:
            raise ValueError
        return seed
    except ValueError:
        raise OptionError(f"--seeds takes whole numbers such as 0,1,2, not {text!r}") from None


def parse_as(key: str, text: str, hint: Any) -> Any:
    """A text as a value of the type `hint`, that of an option of a detector. Raises `OptionError`."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(None) in kinds and text.lower() == "none":
        return None
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            if typing.get_origin(kind) is tuple:
                element = typing.get_args(kind)[0]
                return tuple(element(part) for part in text.split(","))
            return _BOOLEANS[text.lower()] if kind is bool else kind(text)
        except (ValueError, KeyError):
            continue
    wanted = "numbers such as 2,3" if "tuple" in str(hint) else " or ".join(k.__name__ for k in kinds)
    raise OptionError(f"{key} takes {wanted.replace('NoneType', 'none')}, not {text!r}")
