"""Which channels of its samples a fit looks at, and which options do not go with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from patchbank.data.deep import decode_deep
from patchbank.data.opening import open_file
from patchbank.data.pairing import in_geometry_folder
from patchbank.data.tiff import is_tiff, read_kind
from patchbank.errors import ImageError, OptionError, notify
from patchbank.features.aggregation import Cells
from patchbank.features.channels import WITH_GEOMETRY
from patchbank.sample import MADE_OF, RGB_CHANNEL, Sample
from patchbank.shape.decide import POINTS
from patchbank.shape.features import SHAPE_FEATURES

_LOOKED_AT = 3  # samples that nothing says of what they are
_FLOATING = 3  # the format of numbers in a TIFF
_LEAST_POINTS = 100
_AS_A_GRID = 0.9  # least correlation of x with the column and of y with the row; of colours it is near 0


def decide_channels(
    given: tuple[str, ...] | None,
    samples: Sequence[Sample],
    by_level: bool = False,
    with_geometry: tuple[str, ...] = WITH_GEOMETRY,
) -> tuple[str, ...]:
    """The channels that a fit looks at: those that were asked for, else rgb, and where the samples have geometry what a
    method has for them, also where points lie in what could be pictures. What was chosen, or is left out, is said.

    Args:
        given: as the user asked; None to decide.
        samples: those that are learned from.
        by_level: only channels that a network sees, level by level.
        with_geometry: for samples that have geometry; rgb of them is left out where no sample has a picture.
    """
    count = sum(sample.has_geometry for sample in samples)
    most_have = 2 * count > len(samples)
    if given is not None:
        if most_have and not any(name in MADE_OF for name in given):
            notify(f"the samples have geometry too, which the channels {','.join(given)} leave out (--channels)")
        return given
    alone = not count and _are_points(samples)
    if not (most_have or alone):
        if count:
            notify(f"{count} of {len(samples)} samples have geometry: rgb alone is inspected (--channels sets others)")
        return (RGB_CHANNEL,)
    has_pictures = any(RGB_CHANNEL in sample.channels for sample in samples)
    chosen = tuple(name for name in with_geometry if has_pictures or name != RGB_CHANNEL)
    chosen = tuple(name for name in chosen if not (by_level and name in SHAPE_FEATURES))
    what = "images hold points, not colours" if alone else "samples have geometry"
    notify(f"the {what}: the channels {','.join(chosen)} are inspected (--channels sets others)")
    return chosen


def _are_points(samples: Sequence[Sample]) -> bool:
    """Whether the first files, which no picture lies beside, are xyz images: by the name of their folder, or by their
    numbers, whose x grows along the rows and y along the columns."""
    few = [sample.path for sample in samples[:_LOOKED_AT]]
    return bool(few) and all(path is not None and (in_geometry_folder(path) or _holds_points(path)) for path in few)


def _holds_points(path: Path) -> bool:
    try:
        with open_file(path, header=True) as file:
            if not is_tiff(file.read(4)):
                return False
            kind = read_kind(file)
            if (kind.form, kind.channels) != (_FLOATING, 3):
                return False
            xyz = decode_deep(file).astype(np.float64)
    except (OSError, ImageError):
        return False
    valid = np.isfinite(xyz).all(2) & (xyz[..., 2] != 0)
    if valid.sum() < _LEAST_POINTS:
        return False
    rows, columns = np.nonzero(valid)
    along = abs(np.corrcoef(xyz[valid][:, 0], columns)[0, 1]), abs(np.corrcoef(xyz[valid][:, 1], rows)[0, 1])
    return bool(min(along) > _AS_A_GRID)


def check_together(options: Any, channels: Sequence[str]) -> None:
    """Raise `OptionError` for options that do not go with what is inspected."""
    geometry = [name for name in channels if name in MADE_OF]
    if not geometry and options.depth is not None:
        raise OptionError(
            "depth (--depth-unit, --depth-axis, --invalid, --camera) says what geometry means, and only "
            f"{','.join(channels)} is inspected: leave it out, or name channels such as curvature (--channels)"
        )
    if len(channels) == 1 and options.fusion != type(options).fusion and options.takes("fusion"):
        raise OptionError(
            f"fusion={options.fusion} makes one score of several channels, and {channels[0]} alone is inspected: leave "
            "it out, or name further channels (--channels)"
        )
    if geometry and options.align:
        raise OptionError(f"align lays pictures over each other, not {geometry[0]}: leave it out, or look at rgb alone")
    if geometry and getattr(options, "augment", None):
        raise OptionError(f"augment turns pictures, not {geometry[0]}: leave it out, or look at rgb alone")
    apart = len(channels) > 1 and options.fusion != "concat"
    if isinstance(options.arrange(), Cells):
        computed = [name for name in channels if name in SHAPE_FEATURES or name == POINTS]
        if computed:
            raise OptionError(
                f"{options.method} compares each level of a network at its own resolution, and {computed[0]} has no "
                "levels: take another method, such as patchcore, or channels that are pictures, such as curvature"
            )
        if len(channels) > 1 and not apart:
            raise OptionError(
                f"{options.method} compares each level of a network at its own resolution: leave out fusion=concat"
            )
    if (
        apart
        and options.takes("neighbours")
        and options.option("neighbours") != options.in_effect("neighbours", type(options).neighbours)
    ):
        raise OptionError("neighbours re-weights the score of one memory, not of several channels: leave it out")
    if len(channels) > 1 and getattr(options, "coreset", None) == "stream":
        raise OptionError("coreset='stream' is for one channel: name one (--channels rgb), or give a share to keep")
