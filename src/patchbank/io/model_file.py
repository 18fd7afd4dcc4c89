"""The `.patchbank` file: one safetensors file whose header holds one JSON document.

The document has the format version, the method and its options, the calibration, the provenance of the bank and a
summary of the training, and a SHA-256 over the rest of the document and every tensor. Nothing in the file is executed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from patchbank import __version__
from patchbank._system.files import reason, replacing, spelled
from patchbank.calibration.calibration import Calibration
from patchbank.data import Reference, RegionOfInterest, ValueRange
from patchbank.errors import ModelFileError, OptionError, WeightsError
from patchbank.io import thumbnails
from patchbank.methods import LOADABLE, Detector

FORMAT_VERSION = 3  # 3: digests and groups of training images
_KEY = "patchbank"  # the one entry of the header's metadata: several would be written in an order that changes
_UNSAVED = ("device", "threads", "runtime", "memory_budget", "roi")  # of the machine, or kept apart


@dataclass(frozen=True)
class ModelFile:
    """What a file holds: the JSON `document` and the `tensors`."""

    document: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def calibration(self) -> Calibration:
        # version 1 had only the rate
        document = self.document
        return Calibration.of(
            self.tensors, document.get("calibration") or {"false_alarm_rate": document["false_alarm_rate"]}
        )


def save(detector: Detector, path: str | PathLike[str]) -> None:
    """Write a fitted detector. Raises `OptionError` where it has not been fitted or the file cannot be written."""
    if not hasattr(detector, "calibration_"):
        raise OptionError("this detector has not been fitted: there is nothing to save yet")
    tensors, memory = detector._memory_state()
    of_calibration, calibration = detector.calibration_.state()
    pictures, listed = thumbnails.state(detector.thumbnails_)
    reference = next((part.reference_ for part in detector._parts() if part.reference_), None)
    of_reference, aligned_to = ({}, None) if reference is None else reference.state()
    tensors |= of_calibration | pictures | of_reference
    tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
    options = {k: v for k, v in detector.parameters().items() if k not in _UNSAVED}
    plain = detector.values_.is_plain
    if plain:  # so that the file is the same, and an older version reads it; it refuses one with a range
        for of_part in (options, *options.get("members", [])):
            of_part.pop("value_range", None)
    document = {
        "format_version": FORMAT_VERSION,
        "library_version": __version__,
        "method": detector.method,
        "options": options,
        "calibration": calibration,
        "thumbnails": listed,
        "roi": None if (roi := detector._parts()[0].learned_roi_) is None else roi.state(),
        "reference": aligned_to,
        **({} if plain else {"pixel_values": detector.values_.state()}),
        "memory": memory,
        "training": detector.training_,
    }
    text = json.dumps(document | {"sha256": _digest(document, tensors)}, sort_keys=True)
    try:
        with replacing(path) as temporary, spelled(temporary) as name:
            save_file(tensors, name, metadata={_KEY: text})
    except (OSError, SafetensorError, ValueError) as error:  # a full disk is no OSError to safetensors
        raise OptionError(f"{path}: cannot be written ({reason(error)})") from error


def load(
    path: str | PathLike[str],
    *,
    weights: str | None = None,
    device: str = "auto",
    runtime: str = "auto",
    threads: int | None = None,
) -> Detector:
    """The fitted detector of a `.patchbank` file, ready to predict, with its backbone opened.

    `weights`: the backbone's weight file, where the model was fitted with one that is no longer at its place.
    Raises `ModelFileError` for a file that is truncated, altered, newer or not a model; `WeightsError` where the
    backbone's weights are missing or differ from those of the fit.
    """
    file = read(path)
    document, tensors = file.document, file.tensors
    if document["method"] not in LOADABLE:
        raise ModelFileError(f"{path}: its method {document['method']!r} is not one of {', '.join(LOADABLE)}")
    options = {**document["options"], "device": device, "runtime": runtime, "threads": threads}
    if weights is not None:
        for of_part in options.get("members", [options]):
            of_part["weights"] = weights if of_part is options or of_part["weights"] else None
    for name in ("levels", "value_range"):
        if options.get(name) is not None:
            options[name] = tuple(options[name])
    try:
        detector = LOADABLE[document["method"]](**options)
    except TypeError as error:
        raise ModelFileError(f"{path}: has an option that this version of patchbank does not know ({error})") from error
    for part in detector._parts():
        if part.torch_device.type != "cuda":
            part.precision = "float32"  # the narrow ones are a GPU's
        elif getattr(part, "search", "auto") not in ("auto", "blocked"):
            part.search = "auto"  # type: ignore[attr-defined]  # the others are a CPU's
    detector.calibration_ = file.calibration
    detector.thumbnails_ = thumbnails.restore(tensors, document.get("thumbnails", []))
    detector.training_ = document["training"]
    for part in (detector, *detector._parts()):
        part.values_ = ValueRange.of(document.get("pixel_values"))
    if roi := document.get("roi"):
        for part in detector._parts():
            part.roi_ = part.learned_roi_ = RegionOfInterest.of(roi)
    if reference := document.get("reference"):
        for part in detector._parts():
            part.reference_ = Reference.restore(tensors, reference) if part.align else None
    memory = {name: value.to(detector.torch_device) for name, value in tensors.items()}
    detector._restore_memory(memory, document["memory"])
    for part in detector._parts():
        part._lie_as_learned()
        if part._open().backbone.checksum != part.training_["weights_sha256"]:
            raise WeightsError(
                f"{path}: was fitted with other weights of {part.backbone} ({part.training_['weights']}) than "
                f"those found here: give the file it was fitted with as weights=PATH (--weights PATH)"
            )
    return detector


def read(path: str | PathLike[str]) -> ModelFile:
    """The contents of a `.patchbank` file, checked, without opening a backbone. Raises `ModelFileError`."""
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: no such model file")
    try:
        with spelled(path) as name, safe_open(name, framework="pt") as file:
            header = file.metadata() or {}
            # copied: they are views of the file, and one that is overwritten in place would end the process
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(_unreadable(path)) from error
    if _KEY not in header:
        raise ModelFileError(f"{path}: is a safetensors file, but not a patchbank model; `patchbank fit` makes one")
    document = _parse(path, header[_KEY])
    if document["format_version"] > FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: was written by a newer patchbank ({document.get('library_version', 'unknown version')}, format "
            f"{document['format_version']}; this one reads up to {FORMAT_VERSION}): upgrade patchbank"
        )
    if _digest(document, tensors) != document.pop("sha256", None):
        raise ModelFileError(
            f"{path}: has been altered since it was written (checksum mismatch); fetch or fit it again"
        )
    return ModelFile(document, tensors)


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
        document["format_version"] > 0  # noqa: B015 (raises where it is missing or no number)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{path}: has been altered since it was written (its header is damaged)") from error
    parsed: dict[str, Any] = document
    return parsed


def _unreadable(path: Path) -> str:
    """Whether a file that safetensors refuses began as one: eight bytes of header length, then a JSON object."""
    with path.open("rb") as file:
        start = file.read(9)
    size = path.stat().st_size
    length = int.from_bytes(start[:8], "little")
    if size < 9 or start[8:] != b"{" or length > 100_000_000:
        return f"{path}: is not a patchbank model (`patchbank fit` makes one)" if size else f"{path}: is empty"
    return f"{path}: is truncated or damaged ({size} bytes, an incomplete safetensors file); fetch or fit it again"


def _digest(document: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    rest = {key: value for key, value in document.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
