"""`patchbank export`: a model as a graph of ONNX, OpenVINO or TorchScript."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from patchbank.cli import choices as c
from patchbank.cli import options as o
from patchbank.cli.console import say
from patchbank.cli.opening import open_model
from patchbank.cli.outputs import check_folder
from patchbank.errors import OptionError


def export(
    model: o.Model,
    output_dir: o.OutputDir,
    machine: o.Machine,
    format: Annotated[str, c.choice(c.FORMATS, "--format", help="Format of the graph.")] = "onnx",
    bank: Annotated[
        str, c.choice(c.BANKS, "--bank", help="Where the bank is: inside the graph, or in external files beside it.")
    ] = "inside",
    input_size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="Height and width that the graph inspects [default: those of most training images].",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(help="Images or folders to check the export with [default: the pictures in the model]."),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Run the backbone in eight bits (format onnx), with ranges from the images.")
    ] = False,
    roi: o.Roi = None,
    weights: o.Weights = None,
) -> None:
    """Write a model as a graph, checked against the model on real images (docs/guides/export.md)."""
    inspected = _size(input_size)
    check_folder(output_dir)
    from patchbank.export import export as write

    detector = open_model(model, weights, machine, roi)
    document = write(detector, output_dir, to=format, bank=bank, size=inspected, images=images, int8=int8)
    for line in _summary(document, output_dir):
        say(line)


def _summary(document: dict[str, Any], output: Path) -> list[str]:
    """What was written, how well it agrees, and what int8 changed."""
    parity = document["parity"]
    of_map = f", map by {parity['map']['relative']:.1e}" if parity["map"] else ""
    lines = [
        f"{output}: {document['method']} as {document['to']}; on {parity['images']} images the score differs by "
        f"{parity['score']['relative']:.1e}{of_map} (relative)"
    ]
    if int8 := document["int8"]:
        lines.append(
            f"int8: the score differs by {int8['score']['relative']:.1e}, {int8['verdicts']} of {int8['images']} "
            f"verdicts change, median score × {int8['score_ratio']:.3f}; graph {int8['ms'][0]:.1f} → "
            f"{int8['ms'][1]:.1f} ms, {int8['mb'][0]:.1f} → {int8['mb'][1]:.1f} MB; set the threshold anew "
            "(docs/guides/export.md)"
        )
    return lines


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        height, width = (int(part) for part in text.lower().split("x"))
        if min(height, width) < 1:
            raise ValueError
    except ValueError:
        raise OptionError(f"--input-size takes a height and a width such as 384x512, not {text!r}") from None
    return height, width
