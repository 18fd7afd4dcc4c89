"""What `patchbank export` writes, used without torch: `load(folder).predict(image)` on ONNX Runtime or OpenVINO alone.

Needs numpy, Pillow, OpenCV and one of the two; `python -m patchbank.edge.runtime FOLDER IMAGE…` prints a JSON line for
each image.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from patchbank._system.environment import import_openvino
from patchbank._system.files import file_digest, spelled
from patchbank._system.numbers import check_threads
from patchbank._system.threads import OfProcess, cores, torch_threads
from patchbank.calibration.calibration import Calibration
from patchbank.data import Geometry, Images, RegionOfInterest, Sample, ValueRange, View, gather, read_image, stream
from patchbank.data.channels import check_channels
from patchbank.errors import (
    ImageError,
    MissingPackageError,
    ModelFileError,
    OptionError,
    PatchbankError,
    notify,
)
from patchbank.prediction import Prediction, finite
from patchbank.sample import RGB_CHANNEL
from patchbank.scoring.decision import decide
from patchbank.scoring.maps import highest_in_cells
from patchbank.scoring.together import BY_MEAN_MAP, together

EXPORT_VERSION = 4  # 3 without a score by the mean map, 2 without a zoom, 1 without a value_range: read the same
DOCUMENT = "patchbank.json"
Feeds: TypeAlias = dict[str, NDArray[Any]]
Run: TypeAlias = Callable[[Feeds], dict[str, NDArray[Any]]]
OnError: TypeAlias = Callable[[str, Exception], None]


def load(folder: str | PathLike[str], *, threads: int | None = None) -> Exported:
    """An exported model, its files checked. `threads`: of the runtime, None for all processors this process may use.

    Raises `ModelFileError` for a folder that is no export or was altered, `MissingPackageError` where its runtime is
    not installed.
    """
    check_threads(threads)
    path = Path(folder)
    if path.name == DOCUMENT or path.is_file():
        path = path.parent
    document = _read_document(path, given=Path(folder))
    for name, digest in document["files"].items():
        if not (path / name).is_file():
            raise ModelFileError(f"{path}: its file {name} is missing: export the model again")
        if file_digest(path / name) != digest:
            raise ModelFileError(
                f"{path / name}: is not the file that {DOCUMENT} describes (checksum mismatch): copy both"
            )
    calibration = calibration_of(document["calibration"])
    if document["members"]:
        members = [load(path / name, threads=threads) for name in document["members"]]
        return ExportedEnsemble(document, calibration, members)
    count = threads or cores()
    with spelled(path) as named:
        run = open_graph(named / document["graph"], document, count)
    memory = {i["name"]: np.load(path / i["file"]) for i in document["inputs"] if i.get("file")}
    return ExportedGraph(document, calibration, run, memory)


def _warn(name: str, error: Exception) -> None:
    """What happens to an image without prediction unless the caller says otherwise."""
    warnings.warn(f"skipped: {error}", stacklevel=3)


@dataclass
class Exported:
    """An exported model: `document` is what its patchbank.json says; `calibration` decides and may be replaced, such as
    by `calibration.at_rate(0.001)`."""

    document: dict[str, Any]
    calibration: Calibration
    in_ensemble = False

    def predict(self, image: Any) -> Prediction:
        """The prediction for one image: a path, an array or a PIL image. Raises `ImageError` where there is none."""
        sources = gather(image)
        if len(sources) != 1:
            raise OptionError(f"predict takes one image, not {len(sources)}: use predict_many")
        return self.inspect(sources[0])

    def predict_many(self, images: Images, *, on_error: OnError | None = None) -> Iterator[Prediction]:
        """Predictions in order, one at a time; `on_error(name, error)` hears of each image that has none. An iterator
        is asked for the next image after the prediction before it was taken; it may be endless."""
        return self._inspected(stream(images, on_error or _warn), on_error or _warn)

    def _inspected(self, sources: Iterable[Sample], on_error: OnError) -> Iterator[Prediction]:
        for source in sources:
            try:
                prediction = self.inspect(source)
            except ImageError as error:
                on_error(source.name, error)
            else:
                yield prediction

    def inspect(self, source: Sample) -> Prediction:
        """The prediction for one image that has not been read yet."""
        raise NotImplementedError


@dataclass
class ExportedGraph(Exported):
    """One graph: `run` takes its inputs by name and gives its outputs; `memory`: those that lie beside it."""

    run: Run
    memory: Feeds

    def __post_init__(self) -> None:
        d = self.document
        self.geometry, self.inspected = Geometry(**d["geometry"]), tuple(d["inspected"])
        self.values = ValueRange.of(d.get("value_range"))
        self.channel = d.get("channel", RGB_CHANNEL)
        check_channels((self.channel,))
        self.squeezed = ""  # the image that was named because its longer side is squeezed
        self.roi, self.painted = (None if d[k] is None else RegionOfInterest.of(d[k]) for k in ("roi", "learned_roi"))
        self.masks = {i["name"]: tuple(i["shape"]) for i in d["inputs"] if i["name"].startswith("inside")}

    def feeds(self, source: Sample) -> tuple[Feeds, View, NDArray[np.bool_] | None]:
        """What the graph takes of an image, how that was inspected, and which of its pixels, None for all. Raises
        `ImageError` for one that is not for this export."""
        rgb = read_image(source.seen_in(self.channel), self.values, notify)
        if not self.squeezed and (words := self.geometry.squeeze_words(rgb.shape[0], rgb.shape[1])):
            self.squeezed = source.name
            notify(f"{source.name}: {words}")
        view, mask = self.geometry.view(rgb.shape[0], rgb.shape[1]), None
        if view.inspected != self.inspected:
            sizes = [f"{h}×{w}" for h, w in (view.inspected, self.inspected)]
            raise ImageError(
                f"{source.name}: would be inspected at {sizes[0]} pixels, this export is for {sizes[1]}: make one with "
                f"--input-size {sizes[0].replace('×', 'x')}"
            )
        feeds = dict(self.memory)
        try:
            if self.painted is not None:  # as it was learned from
                seen = self.painted.pixels(*view.input_size)
                rgb = np.where(seen[:, :, None], rgb, rgb[seen].mean(axis=0).astype(rgb.dtype))
            if self.roi is not None:
                mask = self.roi.pixels(*view.input_size)
                feeds |= {name: view.cells(mask, (h, w)).astype(np.float32) for name, (h, w) in self.masks.items()}
        except ImageError as error:
            raise ImageError(f"{source.name}: {error}") from None
        if any(not inside.any() for name, inside in feeds.items() if name in self.masks):
            raise ImageError(f"{source.name}: has nothing of the region of interest in its inspected part")
        return {**feeds, "image": view.apply(rgb)[None]}, view, mask

    def inspect(self, source: Sample) -> Prediction:
        started = time.perf_counter()
        feeds, view, mask = self.feeds(source)
        decoded = time.perf_counter()
        outputs = self.run(feeds)
        score = float(outputs["score"][0])
        if math.isnan(score):
            raise ImageError(f"{source.name}: its features are not finite numbers")
        cells = None
        if "map" in outputs:
            anomaly = view.to_input(outputs["map"][0])
            if mask is not None:
                anomaly[~mask] = np.nan
            if self.in_ensemble:
                cells = highest_in_cells(outputs["map"][0], None if mask is None else view.cells(mask, self.inspected))
        else:
            anomaly = np.full(view.input_size, np.nan, np.float32)
        timings = {"decode_ms": 1e3 * (decoded - started), "graph_ms": 1e3 * (time.perf_counter() - decoded)}
        return decide(source.name, score, anomaly, self.calibration, timings=timings, cells=cells)


@dataclass
class ExportedEnsemble(Exported):
    """Several exports as one, as `methods.ensemble.Ensemble`."""

    members: list[Exported]

    def __post_init__(self) -> None:
        for member in self.members:
            member.in_ensemble = True

    def inspect(self, source: Sample) -> Prediction:
        found = [(member.inspect(source), member.calibration) for member in self.members]
        score, anomaly, timings = together(found, self.document.get("score") == BY_MEAN_MAP)
        return decide(source.name, score, anomaly, self.calibration, timings=timings)


# ---- the folder ------------------------------------------------------------------------------------------------------


def calibration_of(values: dict[str, Any]) -> Calibration:
    """From patchbank.json, where a `threshold` other than the one of the rate is one that was chosen."""
    scores, peaks = (np.array([_number(v) for v in values[k]], dtype=np.float64) for k in ("scores", "peaks"))
    groups = tuple(values.get("groups", ()))  # exports up to 0.1 have none
    found = Calibration(
        scores, peaks, values["false_alarm_rate"], values["how"],
        chosen_by=values["chosen_by"], groups=groups, doubt=values.get("doubt", ""),
    )  # fmt: skip
    threshold = _number(values["threshold"])
    return found if threshold == found.threshold else replace(found, chosen=threshold)


def _number(value: float | None) -> float:
    """JSON has no word for infinity: a score without anything to compare with."""
    return math.inf if value is None else value


def _read_document(path: Path, given: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads((path / DOCUMENT).read_text(encoding="utf-8"))
        version = document["export_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFileError(
            f"{given}: is not an exported model: give the folder that `patchbank export` wrote"
        ) from error
    if version > EXPORT_VERSION:
        raise ModelFileError(f"{path}: was exported by a newer patchbank ({document['library_version']}): upgrade")
    return document


# ---- what runs a graph -----------------------------------------------------------------------------------------------


def open_graph(path: Path, document: dict[str, Any], threads: int) -> Run:
    """A graph file, ready to run, from any thread and in any process."""
    make = partial(_open_again, path.absolute(), document, threads)
    return _Graph(OfProcess(make, _RUNTIMES[document["to"]](path, document, threads)))


def _open_again(path: Path, document: dict[str, Any], threads: int) -> Run:
    expected = document.get("files", {}).get(path.name)
    if not path.is_file() or (expected and file_digest(path) != expected):
        raise ModelFileError(f"{path}: has been replaced since it was opened: load the export again")
    return _RUNTIMES[document["to"]](path, document, threads)


@dataclass(frozen=True)
class _Graph:
    opened: OfProcess[Run]

    def __call__(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        return self.opened.get()(feeds)


def _onnx(path: Path, document: dict[str, Any], threads: int) -> Run:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(f"{path}: needs ONNX Runtime: `pip install onnxruntime`") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


def _openvino(path: Path, document: dict[str, Any], threads: int) -> Run:
    try:
        ov = import_openvino()
    except ImportError as error:
        raise MissingPackageError(f"{path}: needs OpenVINO: `pip install openvino`") from error
    # its default precision may be bf16, which changes features
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    compiled = ov.Core().compile_model(str(path), "CPU", options)
    names = [output["name"] for output in document["outputs"]]

    lock = threading.Lock()  # it takes one request at a time

    def run(feeds: Feeds) -> dict[str, NDArray[Any]]:
        with lock:
            found = compiled(feeds, share_inputs=True)
            # the results are views into the runtime's own buffers, which the next call overwrites
            return {name: found[name].copy() for name in names}

    return run


def _torchscript(path: Path, document: dict[str, Any], threads: int) -> Run:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its successor, which needs a compiler
        graph = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    inputs, outputs = ([entry["name"] for entry in document[key]] for key in ("inputs", "outputs"))

    def run(feeds: Feeds) -> dict[str, NDArray[Any]]:
        with torch_threads(threads), torch.inference_mode():
            found = graph(*(torch.from_numpy(feeds[name]) for name in inputs))
        return {name: value.numpy() for name, value in zip(outputs, found, strict=True)}

    return run


_RUNTIMES = {"onnx": _onnx, "openvino": _openvino, "torchscript": _torchscript}


_USAGE = """usage: python -m patchbank.edge.runtime FOLDER IMAGE…
  FOLDER  the folder that `patchbank export` wrote
  IMAGE   images, or folders of images"""


def main(arguments: list[str]) -> int:
    """`python -m patchbank.edge.runtime FOLDER IMAGE…`. Exit codes as of the command line."""
    if len(arguments) < 2:
        print(_USAGE, file=sys.stderr)
        return 2
    failed = done = 0

    def skipped(name: str, error: Exception) -> None:
        nonlocal failed
        failed += 1
        print(f"skipped {error}", file=sys.stderr)

    def noted(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"note: {message}", file=sys.stderr)

    try:
        with warnings.catch_warnings():
            warnings.showwarning = noted
            for prediction in load(arguments[0]).predict_many(arguments[1:], on_error=skipped):
                done += 1
                print(json.dumps(finite(prediction.to_dict())), flush=True)
    except PatchbankError as error:
        print(f"patchbank: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `… | head`: the reader has what it wanted, and Python would complain when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return (1 if failed else 0) if done else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
