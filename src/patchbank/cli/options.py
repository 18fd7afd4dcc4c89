"""The options that several commands share. A command takes a group of them as one parameter (`command.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from patchbank.cli import choices as c
from patchbank.cli.numbers import LARGEST_SEED, MOST_SECONDS, MOST_THREADS
from patchbank.cli.values import parse_share
from patchbank.errors import OptionError

LEARNING, _MACHINE, _CLUSTER = "What is learned", "Machine", "Cluster"


def _use_threads(count: int | None) -> int | None:
    """Set the threads of the process, for work that no detector does."""
    if count is not None:
        from patchbank._system.threads import set_default

        set_default(count)
    return count


Model: TypeAlias = Annotated[Path, typer.Argument(help="A model file.")]
Good: TypeAlias = Annotated[Path, typer.Argument(help="A folder of good images, or a dataset (its training images).")]
OutputDir: TypeAlias = Annotated[Path, typer.Option("-O", "--output-dir", help="Folder for the results.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Roi: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help="What to inspect: a mask image (black: not), or a JSON file with polygons (docs/guides/regions.md)."
    ),
]
Threshold: TypeAlias = Annotated[float | None, typer.Option(help="Reject images whose score is above this number.")]
Resume: TypeAlias = Annotated[
    bool, typer.Option("--resume", help="Continue a training, or a fit with --ray, that was interrupted.")
]

Method: TypeAlias = Annotated[
    str,
    c.known(
        c.METHODS + c.PRESET_METHODS, "--method", metavar="METHOD", panel=LEARNING,
        help=f"One of {', '.join(c.METHODS)}, or a preset: {', '.join(c.PRESET_METHODS)} (see `patchbank methods`).",
    ),
]  # fmt: skip
Quality: TypeAlias = Annotated[
    str | None,
    c.choice(
        c.QUALITIES, "--quality", panel=LEARNING,
        help="How much time an image may take: several options in one (docs/start/choosing.md) [default: balanced].",
    ),
]  # fmt: skip
BackboneName: TypeAlias = Annotated[
    str | None,
    c.known(
        c.BACKBONES, "--backbone", metavar="NAME", panel=LEARNING,
        help="A network of `patchbank backbones`; several, as in a+b, become an ensemble.",
    ),
]  # fmt: skip
Weights: TypeAlias = Annotated[
    str | None, typer.Option(help="A weight file for the backbone, or `random`.", rich_help_panel=LEARNING)
]
ImageSize: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=32, max=4096, help="Maximum length of the shorter side, in pixels.", rich_help_panel=LEARNING
    ),
]  # fmt: skip
BankSize: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Number of patches to keep.", rich_help_panel=LEARNING)
]
CoresetRatio: TypeAlias = Annotated[
    float | None,
    typer.Option(
        help="Fraction of the patches to keep, above 0 and up to 1 [default: 0.1, at most 10 000 patches].",
        rich_help_panel=LEARNING,
    ),
]
Streaming: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--streaming", help="Select patches in chunks, so that not all features are held at once.",
        rich_help_panel=LEARNING,
    ),
]  # fmt: skip
FalseAlarmRate: TypeAlias = Annotated[
    float | None,
    typer.Option(
        parser=parse_share,
        metavar="SHARE",
        help="Fraction of good parts that may be rejected.",
        rich_help_panel=LEARNING,
    ),
]
GroupBy: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="RULE",
        help="Which images show the same part: `folder`, a CSV file (image,group), or a regular expression on names "
        "[default: look for near-copies].",
        rich_help_panel=LEARNING,
    ),
]
Shots: TypeAlias = Annotated[
    int | None,
    typer.Option(min=1, help="Learn from N of the images, drawn by the seed.", rich_help_panel=LEARNING),
]
Seed: TypeAlias = Annotated[
    int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of every random choice.", rich_help_panel=LEARNING)
]
Set: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other option of the method.", rich_help_panel=LEARNING),
]
MaxSeconds: TypeAlias = Annotated[
    float | None,
    typer.Option(
        min=0.001, max=100 * MOST_SECONDS, help="End the training of weights after this time, in seconds.",
        rich_help_panel=LEARNING,
    ),
]  # fmt: skip
MemoryBudget: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Most memory that a fit may plan for, such as 4GB.", rich_help_panel=_MACHINE),
]
Device: TypeAlias = Annotated[
    str, c.choice(c.DEVICES, "--device", help="Processor that runs the network.", panel=_MACHINE)
]
Threads: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1, max=MOST_THREADS, help="Number of CPU threads [default: one per core].", rich_help_panel=_MACHINE,
        callback=_use_threads,
    ),
]  # fmt: skip
Layout: TypeAlias = Annotated[
    str, c.choice(c.LAYOUTS, "--layout", help="How the dataset is laid out (see `patchbank datasets`).")
]
Split: TypeAlias = Annotated[Path | None, typer.Option(help="A JSON file that lists the split (layout mtd).")]


@dataclass(frozen=True)
class Machine:
    """Where the network runs."""

    device: Device = "auto"
    engine: Annotated[str, c.choice(c.ENGINES, "--engine", help="Library that runs the network.", panel=_MACHINE)] = (
        "auto"
    )
    threads: Threads = None

    def options(self) -> dict[str, Any]:
        """As options of detectors and of `patchbank.load`."""
        return {"device": self.device, "runtime": self.engine, "threads": self.threads}


@dataclass(frozen=True)
class Cluster:
    """The cluster that a command shares its work with."""

    ray: Annotated[
        str | None,
        typer.Option(
            metavar="auto|local|ADDRESS",
            help="Work on a Ray cluster: that of this machine (auto), workers on this machine alone (local), or the "
            "one at an address.",
            rich_help_panel=_CLUSTER,
        ),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes on the cluster [default: one for each of its CPUs].", rich_help_panel=_CLUSTER
        ),
    ] = None

    def check(self) -> None:
        """Raise `OptionError` for workers without a cluster."""
        if self.workers is not None and self.ray is None:
            raise OptionError("--workers is for a Ray cluster: give --ray auto, or leave it out")


@dataclass(frozen=True)
class Data:
    """Which images of a dataset are read."""

    layout: Layout = "auto"
    split: Split = None
    train_list: Annotated[str, typer.Option(help="The list of the split file to train on.")] = "train"

    def options(self) -> dict[str, Any]:
        """As arguments of `open_dataset`."""
        return {"layout": self.layout, "split": self.split, "train_list": self.train_list}
