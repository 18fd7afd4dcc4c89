"""`patchbank show-anomalies`: the synthetic anomalies that networks learn from, drawn on the user's own parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchbank._system.files import replacing
from patchbank._system.written import Results
from patchbank.cli import choices as c
from patchbank.cli import options as o
from patchbank.cli.console import Failures, say
from patchbank.cli.learning import Depth
from patchbank.cli.outputs import check_folder, result_names
from patchbank.errors import ImageError, OptionError

if TYPE_CHECKING:
    from patchbank.data import ValueRange
    from patchbank.pictures.heat import Picture
    from patchbank.sample import Sample
    from patchbank.shape import DepthFormat
    from patchbank.training.anomalies.examples import Example, Examples

_SHEET, _PANEL = "sheet.png", 192  # pixels of the longer side of a panel


def show_anomalies(
    good: o.Good,
    output_dir: o.OutputDir,
    depth: Depth,
    count: Annotated[int, typer.Option(min=1, help="Number of images to show.")] = 8,
    kinds: Annotated[
        str | None,
        c.known(
            c.ANOMALIES, "--kinds", metavar="KIND,…",
            help="Draw only some of perlin, cutpaste, scar, and for parts with geometry dents, bumps, missing "
            "[default: all].",
        ),
    ] = None,
    textures: Annotated[
        Path | None, typer.Option(help="A folder of pictures to blend in, instead of generated textures.")
    ] = None,
    image_size: o.ImageSize = None,
    roi: o.Roi = None,
    seed: o.Seed = 0,
    layout: o.Layout = "auto",
    threads: o.Threads = None,
) -> None:  # fmt: skip
    """Show the synthetic anomalies that networks learn from: good images before and after, and what changed."""
    check_folder(output_dir)
    from patchbank.data import read_roi
    from patchbank.data.datasets import open_dataset
    from patchbank.data.pairing import Pairing
    from patchbank.training.anomalies import textures_of
    from patchbank.training.anomalies.examples import Examples

    failures, pairing = Failures(), Pairing()
    form = depth.format()
    region = None if roi is None else read_roi(roi)
    dataset = open_dataset(good, layout=layout, seed=seed, on_error=failures)
    # as many more, for those that cannot be read
    samples = [pairing.sample(path) for path in dataset.train[: 2 * count]]
    examples = Examples(
        _values_of(samples[:count], form),
        image_size or 256,
        region,
        textures_of(textures, failures),
    )
    drawn = islice(_drawn(samples, examples, _chosen(kinds, samples, examples), seed, failures), count)
    done = _write(drawn, [good], [sample.name for sample in samples], output_dir)
    if done:
        say(f"{done} images with synthetic anomalies, side by side: {output_dir / _SHEET}")
    raise typer.Exit(failures.exit_code if done else 2)


def _drawn(
    samples: Sequence[Sample], examples: Examples, kinds: Sequence[str], seed: int, failures: Failures
) -> Iterator[Example]:
    """One example of each sample that can be read; the kinds take turns."""
    import numpy as np

    turn = 0
    for number, sample in enumerate(samples):
        possible = [kind for kind in kinds if kind in examples.kinds_of(sample)]
        if not possible:
            failures(sample.name, ImageError(f"{sample.name}: can have none of {', '.join(kinds)}"))
            continue
        try:
            yield examples.of(sample, possible[turn % len(possible)], np.random.default_rng([seed, number]))
            turn += 1
        except ImageError as error:
            failures(sample.name, error)


def _write(drawn: Iterable[Example], roots: Sequence[Path], paths: Sequence[str], output: Path) -> int:
    """Write a picture of each example, and all of them on one sheet. Returns their number."""
    from patchbank.pictures.anomalies import before_after, contact_sheet
    from patchbank.pictures.drawing import save_png

    results = Results(output, "show-anomalies")
    results.begin()
    names = result_names(roots, paths, beside=output)
    strips: list[Picture] = []
    for example in drawn:
        with replacing(results.path(f"{names[example.name]}.png")) as temporary:
            save_png(before_after(example.name, example.kind, example.pairs, example.mask), temporary)
        strips.append(before_after(example.name, example.kind, example.pairs, example.mask, _PANEL))
    if strips:
        with replacing(results.path(_SHEET)) as temporary:
            save_png(contact_sheet(strips), temporary)
    results.close()
    return len(strips)


def _values_of(samples: Sequence[Sample], form: DepthFormat | None) -> ValueRange:
    """What the pixel values and the depths of the samples mean."""
    from patchbank.data import decide_range
    from patchbank.sample import GEOMETRY_CHANNEL
    from patchbank.shape.decide import decide_depths

    pictures = [sample for sample in samples if set(sample.channels) != {GEOMETRY_CHANNEL}]
    return replace(decide_range(pictures), depths=decide_depths(samples, ("curvature",), form))


def _chosen(kinds: str | None, samples: Sequence[Sample], examples: Examples) -> list[str]:
    """The kinds that were asked for, else all that some sample can have. Raises `OptionError`."""
    from patchbank.training.anomalies import DEPTH_KINDS, PICTURE_KINDS

    known = (*PICTURE_KINDS, *DEPTH_KINDS)
    possible = [kind for kind in known if any(kind in examples.kinds_of(sample) for sample in samples)]
    if kinds is None:
        return possible
    chosen = [kind.strip() for kind in kinds.split(",")]
    for kind in chosen:
        if kind not in known:
            raise OptionError(f"--kinds takes some of {', '.join(known)}, not {kind!r}")
        if kind not in possible:
            lacks = "geometry" if kind in DEPTH_KINDS else "pictures"
            raise OptionError(f"--kinds {kind}: the parts have no {lacks}; choose some of {', '.join(possible)}")
    return chosen
