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

from patchbank._system.files import reason, replacing, spelled
from patchbank._system.remote import is_remote, located
from patchbank.calibration.calibration import Calibration
from patchbank.errors import ModelFileError, OptionError

# 3: digests and groups of training images; 4: anomalydino, statistics that can be merged; 5: a zoom, a position scale;
# 6: ensembles by the mean map, with a zoom of each member
FORMAT_VERSION = 6
_OLDEST = 2
_KEY = "patchbank"  # the one entry of the header's metadata: several would be written in an order that changes


@dataclass(frozen=True)
class ModelFile:
    """What a file holds: the JSON `document` and the `tensors`."""

    document: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def calibration(self) -> Calibration:
        return Calibration.of(self.tensors, self.document["calibration"])


def write(path: str | PathLike[str], document: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a document (without checksum) and tensors. Raises `OptionError` where the file cannot be written."""
    if is_remote(path):
        raise OptionError(f"{located(path)}: models are written to local files: name one, and copy it")
    text = json.dumps(document | {"sha256": _digest(document, tensors)}, sort_keys=True)
    try:
        with replacing(path) as temporary, spelled(temporary) as name:
            save_file(tensors, name, metadata={_KEY: text})
    except (OSError, SafetensorError, ValueError) as error:  # a full disk is no OSError to safetensors
        raise OptionError(f"{path}: cannot be written ({reason(error)})") from error


def read(path: str | PathLike[str]) -> ModelFile:
    """The contents of a `.patchbank` file, checked, without opening a backbone. Raises `ModelFileError`."""
    if is_remote(path):
        raise ModelFileError(f"{located(path)}: models are read from local files: copy it, and name that")
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
    if document["format_version"] < _OLDEST:
        raise ModelFileError(f"{path}: has a format that was never released (1): fit the model again")
    if _digest(document, tensors) != document.pop("sha256", None):
        raise ModelFileError(
            f"{path}: has been altered since it was written (checksum mismatch); fetch or fit it again"
        )
    return ModelFile(migrated(document), tensors)


def migrated(document: dict[str, Any]) -> dict[str, Any]:
    """A document of an older format as this one has it. Until format 3 AnomalyDINO was PatchCore with another distance.
    Format 5 kept the zoom of an ensemble's first member for all: None says that it is to be found again."""
    if document["format_version"] == 5:
        for member in document["memory"].get("members", []) if document["method"] == "ensemble" else []:
            member["zoom"] = None
    if document["format_version"] < 4:
        for owner in (document, *document["options"].get("members", [])):
            options = owner["options"] if owner is document else owner
            if owner["method"] == "patchcore":
                if options.pop("distance", "euclidean") == "cosine":
                    owner["method"] = "anomalydino"
                elif not options.get("foreground"):
                    options.pop("foreground", None)
    return document


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
