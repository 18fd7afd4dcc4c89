"""`patchbank info`: what is in a model file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchbank.cli import options as o
from patchbank.cli.console import say

if TYPE_CHECKING:
    from patchbank.io.model_file import ModelFile


def info(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    images: Annotated[bool, typer.Option("--images", help="List the training images that it remembers.")] = False,
    as_json: o.Json = False,
) -> None:
    """Say what is in a model file."""
    from patchbank.io.model_file import read

    file = read(model)
    if images:
        learned = {name for name, _ in file.document["training"].get("learned_from", [])}
        banked = {image[0] for image in file.document["memory"].get("images", [])}
        names = sorted(learned | banked | set(file.calibration.images))
        say(json.dumps(names) if as_json else "\n".join(names))
        return
    description = describe(model, file)
    if as_json:
        say(json.dumps(description))
        return
    for key, value in description.items():
        say(f"{key:24} {_plain(value)}")


_ENDS = {"minutes": ", ended by max_minutes", "patience": ", ended early as the loss no longer fell"}


def _trained_words(document: dict[str, Any]) -> str | None:
    """How weights were learned; None for methods that learn none, and for ensembles."""
    training = document["training"]
    if "epochs" not in training or "members" in document["options"]:
        return None
    return f"{training['epochs']} epochs, loss {training['loss']:#.3g}{_ENDS.get(training.get('ended'), '')}"


def describe(path: Path, file: ModelFile) -> dict[str, Any]:
    """The facts about a model file that a person asks for, in the order to print."""
    import math

    from patchbank.cli.console import calibration_words
    from patchbank.data.values import ValueRange

    document, tensors = file.document, file.tensors
    training = document["training"]
    calibration = file.calibration
    threshold = calibration.threshold
    bank, radius = tensors.get("bank.vectors"), document["memory"].get("covering_radius")
    return {
        "file": str(path),
        "file_mb": path.stat().st_size / 1e6,
        "format_version": document["format_version"],
        "library_version": document["library_version"],
        "method": document["method"],
        "inspects": _channels(document),
        "geometry": _geometry_words(document.get("depths")),
        "images": training["images"],
        "unreadable": training["unreadable"],
        "copies": [f"{copy} of {original}" for copy, original in training.get("copies", [])],
        "patches": training["patches"],
        "bank_vectors": len(bank) if bank is not None else training.get("memory_vectors"),
        "bank_dimension": bank.shape[1] if bank is not None else None,
        "bank_mb": bank.numel() * bank.element_size() / 1e6 if bank is not None else training.get("memory_mb"),
        "trained": _trained_words(document),
        "covering_radius": radius if radius is not None and math.isfinite(radius) else None,
        "false_alarm_rate": calibration.false_alarm_rate,
        "threshold": threshold if math.isfinite(threshold) else None,
        "threshold_is_guaranteed": calibration.is_guaranteed,
        "no_guarantee_because": calibration.no_guarantee or None,
        "threshold_interval": calibration.interval(),
        "threshold_chosen_by": calibration.chosen_by or None,
        "calibration": calibration_words(calibration),
        "region_of_interest": _roi_words(document.get("roi")),
        "pixel_values": str(ValueRange.of(document.get("pixel_values"))),
        "aligned_with": _reference_words(document.get("reference")),
        "weights": training["weights"],
        "weights_sha256": training["weights_sha256"],
        "runtime_of_fit": training["runtime"],
        "search": training.get("search"),
        **{key: training[key] for key in ("components", "doubled_regions", "teacher") if key in training},
        "fit_seconds": training["fit_seconds"],
        "options": document["options"],
        "history": training.get("history", []),
    }


def _channels(document: dict[str, Any]) -> list[str]:
    """What is inspected of each part, of all members of an ensemble."""
    options = document["options"]
    found = [name for member in options.get("members", [options]) for name in _of_member(member)]
    return list(dict.fromkeys(found))


def _of_member(options: dict[str, Any]) -> list[str]:
    channels = options.get("channels")
    if isinstance(channels, list):
        return channels
    return [options.get("channel") or "rgb"]  # of older files


def _geometry_words(depths: dict[str, Any] | None) -> str | None:
    if depths is None:
        return None
    from patchbank.shape.decide import Depths

    known = Depths.of(depths)
    format = known.format
    unit = format.unit if isinstance(format.unit, str) else f"{format.unit:g} mm"
    invalid = ", ".join(f"{value:g}" for value in format.invalid)
    words = [
        f"in {unit}" if format.scale == 1 else f"in {format.scale:g} {unit}",
        "heights grow towards the camera" if format.axis == "height" else "depths grow away from the camera",
        f"no point: {invalid}",
        "on a background" if known.background else "without a background",
        f"up to {known.top_mm:.3g} mm high",
    ]
    return "; ".join([*words, *([str(format.camera)] if format.camera else [])])


def _roi_words(roi: dict[str, Any] | None) -> str | None:
    if roi is None:
        return None
    words = [f"{len(roi[key])} {key} polygons" for key in ("include", "ignore") if roi[key]]
    size = f"for {roi['size'][1]}×{roi['size'][0]} pixels" if roi["size"] else "for images of any size"
    return ", ".join([*words, *(["a mask"] if roi["mask"] else []), size])


def _reference_words(reference: dict[str, Any] | None) -> str | None:
    if reference is None:
        return None
    height, width = reference["size"]
    return f"{reference['name']} ({width}×{height} pixels)"


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "; ".join(map(_plain, value)) or "–"
    if isinstance(value, dict):
        return ", ".join(f"{k}={_plain(v)}" for k, v in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
