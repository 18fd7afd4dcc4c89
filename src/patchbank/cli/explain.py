"""`patchbank explain`: why an image was rejected, or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from patchbank.cli import options as o
from patchbank.cli.console import Failures
from patchbank.cli.predict import output_names
from patchbank.errors import ImageError, OptionError
from patchbank.files import replacing, write_text


def explain(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    output: o.Out,
    at: Annotated[
        str | None, typer.Option(metavar="X,Y", help="This pixel (column,row) instead of the most suspicious places.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=5, help="Good parts to show for each place.")] = 5,
    roi: o.Roi = None,
    weights: o.Weights = None,
    device: o.Device = "auto",
    runtime: o.Runtime = "auto",
    threads: o.Threads = None,
) -> None:
    """Show the suspicious places of images beside the nearest patches of good ones: a picture and a JSON file each."""
    place = _position(at)
    from patchbank.images import gather, read_image
    from patchbank.modelfile import load
    from patchbank.prediction import finite
    from patchbank.report.explanation import explanation_picture, finder_of
    from patchbank.report.pictures import save_png

    failures = Failures()
    sources = gather(images, failures)
    detector = load(model, weights=weights, device=device, runtime=runtime, threads=threads)
    if roi is not None:
        detector.restrict(roi)
    names = output_names(images, [source.name for source in sources])
    find = finder_of(detector)
    done = 0
    for source in sources:
        try:
            explanation = detector.explain(source.data, place, count)
            rgb = read_image(source, detector.values_).astype("uint8", copy=False)
        except ImageError as error:
            failures(source.name, error)
            continue
        done += 1
        picture = explanation_picture(rgb, explanation, find)
        name = names[source.name]
        written = output / name.with_name(f"{name.name}.png")
        with replacing(written) as temporary:
            save_png(picture, temporary)
        document = explanation.to_dict()
        write_text(written.with_suffix(".json"), json.dumps(finite(document), indent=2) + "\n")
        verdict = "rejected" if explanation.prediction.is_anomalous else "accepted"
        typer.echo(f"{source.name}: {verdict}; {written}")
    raise typer.Exit(2 if not done else failures.exit_code)


def _position(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        x, y = map(int, text.split(","))
    except ValueError:
        raise OptionError(f"--at takes a column and a row such as 120,80, not {text!r}") from None
    return x, y
