"""The options that say what is learned: `fit` and `benchmark` have them all, other commands those of geometry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from patchbank.cli import choices as c
from patchbank.cli import options as o
from patchbank.cli.values import depth_format, parse_bytes, range_up_to
from patchbank.errors import OptionError

_GEOMETRY = "Geometry of the parts"


@dataclass(frozen=True)
class Depth:
    """What the numbers of depths, heights or points mean."""

    depth_unit: Annotated[
        str | None,
        c.known(
            c.DEPTH_UNITS,
            "--depth-unit",
            metavar="UNIT",
            panel=_GEOMETRY,
            help=f"Unit of depths, heights or points: {', '.join(c.DEPTH_UNITS)}, or a number of mm "
            "[default: recognise it].",
        ),
    ] = None
    depth_axis: Annotated[
        str | None,
        c.choice(
            c.DEPTH_AXES,
            "--depth-axis",
            panel=_GEOMETRY,
            help="depth: numbers grow away from the camera; height: towards it [default: depth].",
        ),
    ] = None
    invalid: Annotated[
        str | None,
        typer.Option(
            "--invalid",
            metavar="NUMBER,…",
            help="Numbers that mean `no point` [default: 0,-32768].",
            rich_help_panel=_GEOMETRY,
        ),
    ] = None
    camera: Annotated[
        Path | None,
        typer.Option(
            help="A JSON file with fx, fy, cx, cy, or with the pitch of a height map in mm.",
            rich_help_panel=_GEOMETRY,
        ),
    ] = None  # fmt: skip

    def format(self) -> Any:
        """The `DepthFormat`; None where no option says anything."""
        return depth_format(self.depth_unit, self.depth_axis, self.invalid, self.camera)


@dataclass(frozen=True)
class Learning(Depth):
    """What a detector learns, for `fit` and `benchmark`."""

    weights: o.Weights = None
    levels: Annotated[
        str | None, typer.Option(help="Levels of the backbone, such as 2,3.", rich_help_panel=o.LEARNING)
    ] = None
    image_size: o.ImageSize = None
    geometry: Annotated[
        str | None,
        c.choice(
            c.GEOMETRIES,
            "--geometry",
            panel=o.LEARNING,
            help="whole: the whole image; paper: a central square, as in the papers [default: whole].",
        ),
    ] = None
    coreset_ratio: o.CoresetRatio = None
    streaming: o.Streaming = False
    bank_size: o.BankSize = None
    bank_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Size of the bank, such as 6MB.", rich_help_panel=o.LEARNING),
    ] = None
    false_alarm_rate: o.FalseAlarmRate = None
    group_by: o.GroupBy = None
    roi: o.Roi = None
    align: Annotated[
        bool, typer.Option("--align", help="Align each image with a training image first.", rich_help_panel=o.LEARNING)
    ] = False
    tile: Annotated[
        int | None,
        typer.Option(
            min=128, help="Inspect images at their own size, in tiles of N pixels.", rich_help_panel=o.LEARNING
        ),
    ] = None
    overlap: Annotated[
        int | None,
        typer.Option(min=0, help="Pixels that neighbouring tiles share [default: 128].", rich_help_panel=o.LEARNING),
    ] = None
    full_scale: Annotated[
        float | None,
        typer.Option(
            help="Pixel value that means white in images of more than 8 bits, such as 4095 "
            "[default: found in the images].",
            rich_help_panel=o.LEARNING,
        ),
    ] = None
    channels: Annotated[
        str | None,
        c.known(
            c.CHANNELS,
            "--channels",
            metavar="NAME,…",
            panel=_GEOMETRY,
            help=f"What is inspected of each part: {', '.join(c.CHANNELS)} "
            "[default: rgb; rgb,curvature,normals,holes for parts with geometry].",
        ),
    ] = None
    fusion: Annotated[
        str | None,
        c.choice(
            c.FUSIONS, "--fusion", panel=_GEOMETRY,
            help="How the scores of several channels are combined [default: map-sum].",
        ),
    ] = None  # fmt: skip
    shots: o.Shots = None
    assignments: o.Set = None
    memory_budget: o.MemoryBudget = None

    def options(self) -> dict[str, Any]:
        """As options of detectors; None where nothing was given."""
        if self.streaming and self.coreset_ratio is not None:
            raise OptionError("--streaming does not go with --coreset-ratio: give a number of patches with --bank-size")
        if self.coreset_ratio is not None and not 0 < self.coreset_ratio <= 1:
            raise OptionError(f"--coreset-ratio must lie in (0, 1], such as 0.1 for 10 %, not {self.coreset_ratio}")
        if sum(size is not None for size in (self.coreset_ratio, self.bank_size, self.bank_memory)) > 1:
            raise OptionError("give only one of --coreset-ratio, --bank-size and --bank-memory")
        return {
            **{name: getattr(self, name) for name in _SAME},
            "coreset": "stream" if self.streaming else self.coreset_ratio,
            "bank_mb": None if self.bank_memory is None else _megabytes(self.bank_memory),
            "roi": self.roi and str(self.roi),
            "align": self.align or None,
            "value_range": range_up_to(self.full_scale),
            "depth": self.format(),
        }


def _megabytes(bank_memory: str) -> float:
    count = parse_bytes(bank_memory, "--bank-memory")
    if count == 0:
        raise OptionError("--bank-memory must be more than 0: give a size such as 6MB")
    return count / 1e6


_SAME = (
    "weights", "levels", "image_size", "geometry", "bank_size", "false_alarm_rate", "group_by", "tile", "overlap",
    "channels", "fusion",
)  # fmt: skip
