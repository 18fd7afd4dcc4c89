"""A fitted detector → what its model file holds: one JSON document and tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from patchbank import __version__
from patchbank.io import thumbnails
from patchbank.io.model_file import FORMAT_VERSION

if TYPE_CHECKING:
    from patchbank.detector import Detector

_UNSAVED = ("device", "threads", "runtime", "memory_budget", "roi", "depth")  # of the machine, or kept apart


def document_of(detector: Detector) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The document, without its checksum, and the tensors. Raises `OptionError` where it has not been fitted."""
    fitted = detector.require_fitted()
    tensors, memory = detector.memory_state()
    of_calibration, calibration = fitted.calibration.state()
    pictures, listed = thumbnails.state(fitted.thumbnails)
    reference = next((r for part in detector.parts() if (r := part.require_fitted().inputs.reference)), None)
    of_reference, aligned_to = ({}, None) if reference is None else reference.state()
    tensors = {**tensors, **of_calibration, **pictures, **of_reference}
    options = {k: v for k, v in detector.parameters().items() if k not in _UNSAVED}
    values, painted = fitted.inputs.values, fitted.inputs.painted
    if values.is_plain:  # so that the file is the same as without
        for of_part in (options, *options.get("members", [])):
            of_part.pop("value_range", None)
    document = {
        "format_version": FORMAT_VERSION,
        "library_version": __version__,
        "method": detector.method,
        "options": options,
        "calibration": calibration,
        "thumbnails": listed,
        "roi": None if painted is None else painted.state(),
        "reference": aligned_to,
        **({} if values.is_plain else {"pixel_values": values.state()}),
        **({} if values.depths is None else {"depths": values.depths.state()}),
        **({} if fitted.inputs.zoom == 1 else {"zoom": fitted.inputs.zoom}),
        "memory": memory,
        "training": fitted.training,
    }
    return document, {name: value.cpu().contiguous() for name, value in tensors.items()}
