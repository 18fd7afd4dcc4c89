"""What the numbers of a geometry file mean: unit, scale, invalid values, direction of the axis, camera."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from patchbank._system.numbers import is_finite, is_whole
from patchbank.errors import OptionError
from patchbank.shape.shape import Camera, Pinhole, Pitch

UNITS = {"um": 1e-3, "mm": 1.0, "cm": 10.0, "m": 1e3, "in": 25.4}  # millimetres
AUTO = "auto"
AXES = ("depth", "height")
MOST_PIXELS = 2**27  # of one grid: a line scan of 4096 × 32768 fits
_LEAST_SIDE = 4


@dataclass(frozen=True)
class DepthFormat:
    """How stored numbers become millimetres. Plain values, which a model file keeps.

    A distance is (stored · scale + offset) · unit. Points are scaled on all three axes; the offset moves z alone.

    Attributes:
        unit: "um", "mm", "cm", "m" or "in"; a number of millimetres; or "auto". "auto" takes whole numbers for
            millimetres, points for metres where they lie less than 3 units apart, a depth for metres where it is
            nowhere beyond 20 units, and the rest for millimetres.
        scale: factor of the stored numbers, before the unit.
        offset: what is added to the scaled numbers, before the unit.
        invalid: stored numbers that mean "no point". NaN and infinity always do. A point with x, y and z is none where
            all three are such numbers, or where z is one other than 0.
        axis: "depth" grows away from the camera, "height" grows towards it.
        camera: gives x and y of a file that has depths or heights alone; None if unknown, or if the points tell.
        projection: (height, width) of the grid that a cloud or mesh without one is seen on, along its z axis; None to
            refuse such files. A `Pitch` as camera fixes the scale of the grid; otherwise the part fills it.

    Raises:
        OptionError: a value that cannot be used.
    """

    unit: str | float = AUTO
    scale: float = 1.0
    offset: float = 0.0
    invalid: tuple[float, ...] = (0.0, -32768.0)
    axis: str = "depth"
    camera: Camera | None = None
    projection: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "unit", _checked_unit(self.unit))
        object.__setattr__(self, "scale", _checked_number("scale", self.scale, zero=False))
        object.__setattr__(self, "offset", _checked_number("offset", self.offset))
        object.__setattr__(self, "invalid", _checked_invalid(self.invalid))
        if self.axis not in AXES:
            raise OptionError(f"axis must be depth (away from the camera) or height (towards it), not {self.axis!r}")
        if self.camera is not None:
            check_camera(self.camera)
        if self.projection is not None:
            object.__setattr__(self, "projection", _checked_projection(self.projection))
            if isinstance(self.camera, Pinhole):
                raise OptionError("projection goes along parallel rays: give it a camera with a pitch, or none")

    @property
    def millimetres(self) -> float | None:
        """Of one unit; None while the unit is "auto"."""
        if isinstance(self.unit, str):
            return UNITS.get(self.unit)
        return self.unit

    @property
    def camera_is_known(self) -> bool:
        """Whether depths and heights have a true x and y; without a camera a pixel counts as one millimetre."""
        return self.camera is not None

    def in_unit(self, unit: str | float) -> DepthFormat:
        """The same with another unit."""
        return replace(self, unit=unit)

    def state(self) -> dict[str, Any]:
        """As plain values, for the model file."""
        camera = None if self.camera is None else {key: float(value) for key, value in asdict(self.camera).items()}
        return {
            "unit": self.unit,
            "scale": self.scale,
            "offset": self.offset,
            "invalid": list(self.invalid),
            "axis": self.axis,
            "camera": camera,
            "projection": None if self.projection is None else list(self.projection),
        }

    @classmethod
    def of(cls, state: dict[str, Any]) -> DepthFormat:
        """The inverse of `state`."""
        camera, projection = state["camera"], state["projection"]
        return cls(
            unit=state["unit"],
            scale=state["scale"],
            offset=state["offset"],
            invalid=tuple(state["invalid"]),
            axis=state["axis"],
            camera=None if camera is None else (Pinhole if "fx" in camera else Pitch)(**camera),
            projection=None if projection is None else (projection[0], projection[1]),
        )


def check_camera(camera: Camera) -> None:
    """Raise `OptionError` for a camera that cannot be."""
    scales = (camera.fx, camera.fy) if isinstance(camera, Pinhole) else (camera.x, camera.y)
    centre = (camera.cx, camera.cy) if isinstance(camera, Pinhole) else ()
    if not all(map(math.isfinite, (*scales, *centre))) or min(scales) <= 0:
        wanted = "fx and fy above 0, cx and cy" if isinstance(camera, Pinhole) else "a pitch above 0"
        raise OptionError(f"camera needs {wanted}, all finite, not {camera}")


def _checked_unit(unit: Any) -> str | float:
    if isinstance(unit, str):
        name = unit.strip().lower().replace("µ", "u").replace("μ", "u")
        if name == AUTO or name in UNITS:
            return name
        try:
            unit = float(name)
        except ValueError:
            unit = math.nan
    if not is_finite(unit) or unit <= 0:
        raise OptionError(f"unit must be one of {', '.join([AUTO, *UNITS])}, or the millimetres of one stored unit")
    return float(unit)


def _checked_number(name: str, value: Any, zero: bool = True) -> float:
    if not is_finite(value) or (value == 0 and not zero):
        raise OptionError(f"{name} must be a finite number{'' if zero else ' other than 0'}, not {value!r}")
    return float(value)


def _checked_invalid(values: Any) -> tuple[float, ...]:
    fine = isinstance(values, Sequence) and not isinstance(values, str)
    if not fine or not all(isinstance(value, (int, float)) for value in values):
        raise OptionError(
            f"invalid must be a list of the numbers that mean no point, such as (0, -32768), not {values!r}"
        )
    return tuple(float(value) for value in values if math.isfinite(value))


def _checked_projection(projection: Any) -> tuple[int, int]:
    fine = isinstance(projection, Sequence) and len(projection) == 2 and all(map(is_whole, projection))
    if not fine or min(projection) < _LEAST_SIDE or projection[0] * projection[1] > MOST_PIXELS:
        raise OptionError(
            f"projection must be the height and width of a grid in pixels, each at least {_LEAST_SIDE}, such as "
            f"(400, 400), not {projection!r}"
        )
    return int(projection[0]), int(projection[1])
