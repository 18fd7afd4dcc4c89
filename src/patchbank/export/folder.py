"""The folder of an export: the graph, what lies beside it, and patchbank.json that says what they are."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from patchbank import __version__
from patchbank._system.environment import package_version
from patchbank._system.files import file_digest, replacing_folder, spelled
from patchbank._system.threads import thread_count
from patchbank.calibration.calibration import Calibration
from patchbank.data import Images, Sample, gather, image_size
from patchbank.detector import Detector
from patchbank.edge.runtime import DOCUMENT, EXPORT_VERSION, ExportedGraph, load, open_graph
from patchbank.errors import DatasetError, ImageError, OptionError
from patchbank.export import parity
from patchbank.export.formats import WRITERS, check_format
from patchbank.export.graph import Graph, make_graph
from patchbank.methods import Ensemble
from patchbank.prediction import finite
from patchbank.sample import MADE_OF, RGB_CHANNEL
from patchbank.scoring.together import BY_MEAN_MAP

BANKS = ("inside", "external")
_NOTE = "B×3×H×W float32, RGB in 0..255, resized as `geometry` says; scaled by mean and deviation inside the graph"
_OUTPUTS = {
    "score": "raw image score: anomalous above calibration.threshold",
    "map": "anomaly map at the inspected size; regions from calibration.map_threshold",
    "distances": "distance of each patch",
}


def export(
    detector: Detector,
    folder: str | PathLike[str],
    *,
    to: str = "onnx",
    bank: str = "inside",
    size: tuple[int, int] | None = None,
    images: Images | None = None,
    int8: bool = False,
) -> dict[str, Any]:
    """Write a fitted detector as a graph; the detector does not change. Returns what patchbank.json says.

    `to`: "onnx", "openvino" or "torchscript"; `bank`: the memory "inside" the graph, or "external" files that it takes
    as inputs; `size`: the inspected (height, width), by default that of most training images; `images`: real ones for
    the parity check, by default the thumbnails of the model; `int8`: of the backbone's convolutions (ONNX).
    Raises `ExportError` where the graph differs from the model by more than 1e-3, and leaves no folder then.
    """
    check_format(to)
    if bank not in BANKS:
        raise OptionError(f"bank must be one of {', '.join(BANKS)}, not {bank!r}")
    if not detector.is_fitted:
        raise OptionError("this detector has not been fitted: there is nothing to export yet")
    for part in detector.parts():
        if len(part.inputs_.channels) > 1 or part.inputs_.channels[0] in MADE_OF:
            raise OptionError(
                f"a graph sees one picture, and this model looks at {','.join(part.inputs_.channels)}: fit a model of "
                "one picture (--channels rgb), or run this one with patchbank itself"
            )
    if int8 and (to != "onnx" or isinstance(detector, Ensemble)):
        raise OptionError("int8 is for single models exported to onnx")
    final = Path(folder)
    if final.exists() and not (final / DOCUMENT).is_file() and (final.is_file() or any(final.iterdir())):
        raise OptionError(f"{final}: exists and is no earlier export: give another folder")
    sources = gather(images) if images is not None else parity.thumbnails_of(detector)
    if not sources:
        raise OptionError(
            f"this {detector.method} model carries no pictures to check the export with: give good images (--images)"
        )
    with replacing_folder(final) as temporary, spelled(temporary) as named:
        return _write(detector, named, to, bank, size, sources, int8)


def _write(
    detector: Detector,
    folder: Path,
    to: str,
    bank: str,
    size: tuple[int, int] | None,
    sources: Sequence[Sample],
    int8: bool,
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "export_version": _version(detector),
        "library_version": __version__,
        "method": detector.method,
        "to": to,
        "calibration": _calibration(detector.calibration_),
        "members": [],
        "versions": {name: package_version(name) for name in ("torch", "onnx", "onnxruntime", "openvino")},
        "int8": None,
    }
    checked = sources
    if isinstance(detector, Ensemble):
        document |= {"score": BY_MEAN_MAP} if detector.by_mean_map else {}
        for i, member in enumerate(detector.members):
            name = f"member{i}"
            (folder / name).mkdir()
            written = _write(member, folder / name, to, bank, size, sources, int8)
            document["members"].append(name)
            checked = _inspected_at(member, written["inspected"], checked)
    else:
        inspected = size or _usual_size(detector, sources)
        checked = _inspected_at(detector, inspected, sources)
        graph = make_graph(detector, inspected, bank == "external")
        document |= _describe(detector, graph, inspected)
        document["graph"] = WRITERS[to](graph, folder)
        if bank == "external":
            for name, tensor in graph.memory.items():
                np.save(folder / f"{name}.npy", tensor.numpy())
    checked = parity.some_of(checked)
    _finish(document, folder)
    exported = load(folder, threads=thread_count())
    detector = _searched_exactly(detector)
    found = parity.compare(detector, exported, checked)
    parity.check(found)
    document["parity"] = {**found.to_dict(), "tolerance": parity.TOLERANCE}
    if int8 and isinstance(exported, ExportedGraph):
        document["int8"] = _quantise(detector, exported, folder / document["graph"], checked)
    _finish(document, folder)
    return document


def _quantise(detector: Detector, exported: ExportedGraph, graph: Path, sources: Sequence[Sample]) -> dict[str, Any]:
    """The graph in eight bits; what that changed: results, time and size."""
    from patchbank.export.quantise import milliseconds, quantise

    size = graph.stat().st_size
    inputs = quantise(exported, graph, sources)
    before = milliseconds(exported.run, inputs)
    eight = replace(exported, run=open_graph(graph, exported.document, thread_count()))
    return {
        **parity.compare(detector, eight, sources).to_dict(),
        "mb": [size / 1e6, graph.stat().st_size / 1e6],
        "ms": [before, milliseconds(eight.run, inputs)],
    }


def _finish(document: dict[str, Any], folder: Path) -> None:
    """patchbank.json, with the checksums of the files beside it."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / DOCUMENT)
    document["files"] = {p.relative_to(folder).as_posix(): file_digest(p) for p in files}
    text = json.dumps(finite(document), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / DOCUMENT).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def _searched_exactly(detector: Detector) -> Detector:
    """A detector with an exact search, as a graph has: what an approximate one misses is no fault of the export."""
    if isinstance(detector, Ensemble):
        together = copy.copy(detector)
        together.members = [_searched_exactly(member) for member in detector.members]
        return together
    fitted = detector.require_fitted()
    bank = getattr(fitted.scorer, "bank", None)
    if bank is None or bank.search not in ("ivfpq", "hnsw"):
        return detector
    exact, scorer = copy.copy(detector), fitted.scorer.copied()
    scorer.__dict__["bank"] = replace(bank, search="auto")
    exact.fitted = replace(fitted, scorer=scorer)
    return exact


def _calibration(calibration: Calibration) -> dict[str, Any]:
    """Thresholds and the scores behind them, as data."""
    return {
        "threshold": calibration.threshold,
        "map_threshold": calibration.map_threshold,
        "false_alarm_rate": calibration.false_alarm_rate,
        "how": calibration.how,
        "chosen_by": calibration.chosen_by,
        "scores": calibration.scores.tolist(),
        "peaks": calibration.peaks.tolist(),
        "groups": list(calibration.groups),
        "doubt": calibration.doubt,
    }


def _describe(detector: Detector, graph: Graph, inspected: tuple[int, int]) -> dict[str, Any]:
    """How images become inputs, and what goes in and comes out."""
    extractor = detector.extractor
    geometry = extractor.geometry
    inputs: list[dict[str, Any]] = [
        {"name": "image", "type": "float32", "shape": ["batch", 3, *inspected], "meaning": _NOTE}
    ]
    for name, shape in graph.masks.items():
        meaning = "1 where the region of interest has a pixel of the cell, else 0"
        inputs.append({"name": name, "type": "float32", "shape": list(shape), "meaning": meaning})
    for name, tensor in graph.memory.items() if graph.external else ():
        axes: list[int | str] = list(tensor.shape)
        if name in graph.growing:
            axes[graph.growing[name]] = f"{name}_length"
        kind = str(tensor.dtype).removeprefix("torch.")
        inputs.append({"name": name, "type": kind, "shape": axes, "file": f"{name}.npy", "meaning": "the memory"})
    shapes = {"score": [], "map": list(inspected), "distances": [graph.down.shape[-1], graph.across.shape[-1]]}
    outputs = [
        {"name": name, "type": "float32", "shape": ["batch", *shapes[name]], "meaning": _OUTPUTS[name]}
        for name in graph.output_names
    ]
    return {
        "inputs": inputs,
        "outputs": outputs,
        "inspected": list(inspected),
        "geometry": {
            "kind": geometry.kind,
            "image_size": geometry.image_size,
            "multiple": geometry.multiple,
            "native": geometry.native,
            **({} if geometry.zoom == 1 else {"zoom": geometry.zoom}),
        },
        "roi": None if extractor.inputs.roi is None else extractor.inputs.roi.state(),
        **({} if detector.values_.is_plain else {"value_range": detector.values_.state()}),
        **({} if (channel := detector.inputs_.channels[0]) == RGB_CHANNEL else {"channel": channel}),
        "learned_roi": None if extractor.inputs.painted is None else extractor.inputs.painted.state(),
        "backbone": {
            "name": extractor.backbone.name,
            "levels": list(extractor.backbone.levels),
            "weights": extractor.backbone.weights,
            "weights_sha256": extractor.backbone.checksum,
        },
        "memory_vectors": detector.memory_vectors,
    }


def _version(detector: Detector) -> int:
    """The oldest runtime version that reads the same pixels and makes the same scores."""
    if isinstance(detector, Ensemble) and detector.by_mean_map:
        return EXPORT_VERSION
    if any(part.inputs_.zoom != 1 for part in detector.parts()):
        return 3
    return 1 if detector.values_.is_plain else 2


def _usual_size(detector: Detector, sources: Sequence[Sample]) -> tuple[int, int]:
    """The size that most of the training images that the model remembers are inspected at; of those given, where it
    remembers none."""
    remembered = detector.require_fitted().scorer.refs
    sizes = [ref.size for ref in remembered] or [image_size(source) for source in _readable(sources)]
    geometry = detector.extractor.geometry
    views = Counter(geometry.view(*size).inspected for size in sizes)
    return views.most_common(1)[0][0]


def _inspected_at(detector: Detector, size: Sequence[int], sources: Sequence[Sample]) -> list[Sample]:
    """The images that are inspected at that size."""
    geometry = detector.extractor.geometry
    views = [(source, geometry.view(*image_size(source)).inspected) for source in _readable(sources)]
    found = [source for source, inspected in views if inspected == tuple(size)]
    if not found:
        others = ", ".join(sorted({f"{h}x{w}" for _, (h, w) in views}))
        raise OptionError(
            f"none of the {len(views)} images is inspected at {size[0]}x{size[1]} pixels, but at {others}: give such "
            "an --input-size, or such images (--images)"
        )
    return found


def _readable(sources: Sequence[Sample]) -> list[Sample]:
    found = []
    for source in sources:
        try:
            image_size(source)
        except ImageError:
            continue
        found.append(source)
    if not found:
        raise DatasetError(f"none of the {len(sources)} images could be read")
    return found
