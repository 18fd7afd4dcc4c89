"""`patchbank explain`: why an image was rejected, or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from patchbank._system.files import is_full, reason, replacing, write_text
from patchbank._system.written import Results
from patchbank.cli import options as o
from patchbank.cli.console import Failures, say
from patchbank.cli.opening import open_model
from patchbank.cli.outputs import check_folder, result_names
from patchbank.errors import DatasetError, ImageError, OptionError, PatchbankError


def explain(
    model: o.Model,
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    output_dir: o.OutputDir,
    machine: o.Machine,
    at: Annotated[
        str | None, typer.Option(metavar="X,Y", help="This pixel (column,row) instead of the most suspicious places.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=5, help="Number of good parts to show for each place.")] = 5,
    roi: o.Roi = None,
    weights: o.Weights = None,
) -> None:
    """Show the suspicious places of images beside the nearest patches of good ones: a picture and a JSON file each."""
    place = _position(at)
    check_folder(output_dir)
    from patchbank.data import gather
    from patchbank.pictures.channels import in_words
    from patchbank.pictures.drawing import read_again, save_png
    from patchbank.pictures.explanation import explanation_picture, finder_of
    from patchbank.prediction import finite

    failures = Failures()
    sources = gather(images, failures)
    detector = open_model(model, weights, machine, roi)
    paths = [source.name for source in sources]
    sources = [source.seen_in(detector.inputs_.channels[0]) for source in sources]
    find, done = finder_of(detector), 0
    results = Results(output_dir, "explain")
    results.begin()
    names = result_names(images, paths, beside=output_dir)
    for source in sources:
        try:
            explanation = detector.explain(source, place, count)
            seen = read_again(source, explanation.prediction.map.shape, detector.values_)
        except (ImageError, DatasetError) as error:  # the latter of a file that has gone
            failures(source.name, error)
            continue
        done += 1
        picture, document = explanation_picture(seen, explanation, find), explanation.to_dict()
        try:
            written = results.path(f"{names[source.name]}.png")
            with replacing(written) as temporary:
                save_png(picture, temporary)
            text = json.dumps(finite(document), indent=2) + "\n"
            write_text(results.path(f"{names[source.name]}.json"), text)
        except OSError as error:
            sentence = f"{error.filename}: cannot be written ({reason(error)})"
            if is_full(error):
                raise PatchbankError(sentence) from error
            failures(source.name, ImageError(sentence))
            continue
        verdict = "rejected" if explanation.prediction.is_anomalous else "accepted"
        words = in_words(explanation.prediction.channels)
        say("; ".join(filter(None, [f"{source.name}: {verdict}", words, str(written)])))
    raise typer.Exit(failures.exit_code if done else 2)


def _position(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        x, y = map(int, text.split(","))
    except ValueError:
        raise OptionError(f"--at takes a column and a row such as 120,80, not {text!r}") from None
    return x, y
