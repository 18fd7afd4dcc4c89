"""A `.patchbank` file → the detector that wrote it."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from typing import Any, cast

from patchbank._system.former_names import with_new_names
from patchbank.data import Reference, RegionOfInterest, ValueRange
from patchbank.detector import Detector
from patchbank.errors import ModelFileError, WeightsError
from patchbank.features.channels import points_digest
from patchbank.features.loading import Inputs
from patchbank.fitting import Fitted
from patchbank.io import thumbnails
from patchbank.io.model_file import ModelFile, read
from patchbank.methods import METHODS  # importing it registers them
from patchbank.registry import COMBINATIONS
from patchbank.sample import RGB_CHANNEL
from patchbank.shape.decide import Depths


def load(
    path: str | PathLike[str],
    *,
    weights: str | None = None,
    device: str = "auto",
    runtime: str = "auto",
    threads: int | None = None,
) -> Detector:
    """The fitted detector of a `.patchbank` file, ready to predict, with its backbone opened.

    Args:
        path: the file.
        weights: the backbone's weight file, where the model was fitted with one that is no longer at its place.
        device: as in `Options`; it is not in the file.
        runtime: as in `Options`; it is not in the file.
        threads: as in `Options`; it is not in the file.

    Raises:
        ModelFileError: the file is truncated, altered, newer, or not a model.
        WeightsError: the backbone's weights are missing or differ from those of the fit.
    """
    file = read(path)
    document, tensors = file.document, file.tensors
    loadable = METHODS | COMBINATIONS
    if document["method"] not in loadable:
        raise ModelFileError(f"{path}: its method {document['method']!r} is not one of {', '.join(loadable)}")
    detector = _unfitted(path, loadable[document["method"]], document["options"], weights,
                         device=device, runtime=runtime, threads=threads)  # fmt: skip
    memory = {name: value.to(detector.torch_device) for name, value in tensors.items()}
    detector.restore(memory, document["memory"], _common(file))
    for part in detector.parts():
        if part.extractor.backbone.checksum != part.training_["weights_sha256"]:
            raise WeightsError(
                f"{path}: was fitted with other weights of {part.backbone} ({part.training_['weights']}) than "
                f"those found here: give the file it was fitted with as weights=PATH (--weights PATH)"
            )
        points = part.extractor.point_weights
        if points is not None and points_digest(points) != part.training_.get("point_weights_sha256"):
            raise WeightsError(
                f"{path}: was fitted with other weights than those in {points} now: put the file back that it was "
                "fitted with (point_weights)"
            )
    return detector


def _unfitted(
    path: Any, method: type[Detector], given: dict[str, Any], weights: str | None, **machine: Any
) -> Detector:
    options = {**given, **machine}
    if weights is not None:
        for of_part in options.get("members", [options]):
            of_part["weights"] = weights if of_part is options or of_part["weights"] else None
    if "members" in options:
        options["members"] = [options_of_today(each["method"], each) for each in options["members"]]
    options = options_of_today(method.method, options)
    for of_part in (options, *options.get("members", [])):
        for name, value in of_part.items():
            if isinstance(value, list) and name != "members":  # JSON has no tuples
                of_part[name] = tuple(value)
        # older versions took, and kept, options that have no effect
        for name in METHODS.get(of_part.get("method", ""), method).without_effect:
            of_part.pop(name, None)
    try:
        detector = method(**options)
    except TypeError as error:
        raise ModelFileError(f"{path}: has an option that this version of patchbank does not know ({error})") from error
    for part in detector.parts():
        if part.torch_device.type != "cuda":
            part.precision = "float32"  # the narrow ones are a GPU's
        if part.torch_device.type != "cpu" and getattr(part, "search", "auto") not in ("auto", "blocked"):
            part.search = "auto"  # type: ignore[attr-defined]  # the others are a CPU's
    return detector


def options_of_today(method: str, options: dict[str, Any]) -> dict[str, Any]:
    """Options as they are called today, from files that have them under older names."""
    renamed = with_new_names((METHODS | COMBINATIONS)[method].former, options)
    if isinstance(renamed.get("channels"), int) or (
        method == "padim" and "n_features" not in renamed and "channels" in renamed
    ):
        renamed["n_features"] = renamed.pop("channels")
    if method == "lmf" and renamed.get("fusion") in ("variance", "equal"):
        renamed["level_fusion"] = renamed.pop("fusion")
    if "channel" in renamed:
        renamed["channels"] = (renamed.pop("channel"),)
    return renamed


def _first_options(document: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = document["options"]
    members: list[dict[str, Any]] = options.get("members", [options])
    return members[0]


def _common(file: ModelFile) -> Fitted:
    """What was fitted, but for the memory and what follows it."""
    document, tensors = file.document, file.tensors
    roi = RegionOfInterest.of(document["roi"]) if document.get("roi") else None
    reference = Reference.restore(tensors, document["reference"]) if document.get("reference") else None
    channels = tuple(options_of_today(document["method"], _first_options(document)).get("channels") or (RGB_CHANNEL,))
    values = ValueRange.of(document.get("pixel_values"))
    if document.get("depths"):
        values = replace(values, depths=Depths.of(document["depths"]))
    inputs = Inputs(values, roi, roi, reference, channels, document.get("zoom", 1.0))
    pictures = thumbnails.restore(tensors, document.get("thumbnails", []))
    nothing = cast(Any, None)
    return Fitted(nothing, nothing, file.calibration, inputs, document["training"], pictures)
