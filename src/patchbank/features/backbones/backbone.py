"""A frozen backbone, ready to run: images in, maps of the chosen levels out."""

from __future__ import annotations

import os
import threading
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchbank._system.environment import package_version
from patchbank._system.threads import keep_in_children, thread_count
from patchbank.errors import OptionError
from patchbank.features.aggregation import Arrangement
from patchbank.features.backbones import engines
from patchbank.features.backbones.engines import Head
from patchbank.features.backbones.network import LoadedNetwork
from patchbank.features.backbones.pixels import PIXELS, load_pixels
from patchbank.features.backbones.registry import (
    ADAPTERS,
    checksum,
    fold_batch_norm,
    get_spec,
    initialise,
    materialise,
    read_state,
)

# short names of networks of other libraries
ALIASES = {f"dinov2_vit{size[0]}14": f"hf/facebook/dinov2-{size}" for size in ("small", "base", "large")}
_SHAPES_CHECKED = 16  # image sizes at which a runtime is compared with torch; parts come in a few


class Backbone:
    """Frozen network, cut off after the deepest level in use.

    `channels` and `strides` (input pixels per map cell) are those of `levels`, shallowest first. `difference` is the
    largest found between the runtime's features and torch's, relative.
    """

    def __init__(
        self, loaded: LoadedNetwork, name: str, device: torch.device, runtime: str, head: Head | None, precision: str
    ):
        self.name, self.levels, self.weights, self.multiple = name, loaded.levels, loaded.weights, loaded.multiple
        self.checksum = checksum(loaded.network)
        self.device, self.precision = device, precision
        network = engines.Normalised(loaded.network, loaded.mean, loaded.std).eval()
        size = 4 * self.multiple
        example = torch.zeros(1, 3, size, size)
        with torch.no_grad():
            maps = network(example)
        self.channels = tuple(m.shape[1] for m in maps)
        self.strides = tuple(size // m.shape[2] for m in maps)
        self.runtime, self.difference = runtime, 0.0
        self.has_head = head is not None
        network.head = head
        self._lock, self.process = threading.Lock(), os.getpid()
        keep_in_children(self)
        self._network, self._checked = network, set[tuple[int, int]]()
        if self.runtime == "openvino":
            self._run = engines.openvino_runtime(network, example)
        elif self.runtime == "onnxruntime":
            self._run = engines.onnx_runtime(network, example)
        else:
            self._run = engines.torch_runtime(network, device, precision)

    def __call__(self, batch: Tensor) -> list[Tensor]:
        """B×3×H×W RGB float32 in 0..255 → one B×C×h×w float32 map per level, or [what the head made of them], on the
        backbone's device."""
        with self._lock:  # a compiled network takes one batch at a time, and detectors may share it
            if self.runtime != "torch":
                self._check(batch)
            return self._run(batch)

    @property
    def identity(self) -> str:
        """Everything about it that decides features, the last digit included: weights, what runs them and on what."""
        ran_by = [f"{name}={package_version(name)}" for name in ("patchbank", "torch", self.runtime, "pillow")]
        head = f"head={self.has_head} precision={self.precision} device={self.device} threads={thread_count()}"
        return f"{self.name} {self.checksum} levels={self.levels} runtime={self.runtime} {head} {' '.join(ran_by)}"

    def arranged(self, pictures: Tensor, arrangement: Arrangement) -> Tensor:
        """B×3×S×S pictures → the vectors of an arrangement, B×h×w×D, by the engine in use, not compared with torch."""
        with self._lock, torch.inference_mode():
            maps = self._run(pictures)
            return maps[0] if self.has_head else arrangement(maps)

    def _check(self, batch: Tensor) -> None:
        """Compare with torch on the first image of a new shape; a runtime that computes something else is not used."""
        shape = (batch.shape[2], batch.shape[3])
        if shape in self._checked or len(self._checked) >= _SHAPES_CHECKED:
            return
        self._checked.add(shape)
        self.difference = max(self.difference, engines.difference(self._run, self._network, batch[:1]))
        if not self.difference <= engines.TOLERANCE:
            warnings.warn(
                f"{self.runtime} computes features of {self.name} that differ by {self.difference:.1e} from torch's "
                f"at {shape[0]}×{shape[1]} pixels: torch is used instead",
                stacklevel=2,
            )
            self.runtime, self._run = "torch", engines.torch_runtime(self._network, self.device)


def open_backbone(
    name: str,
    *,
    levels: tuple[int, ...] | None = None,
    weights: str | Path | None = None,
    device: torch.device | str = "cpu",
    runtime: str = "auto",
    seed: int = 0,
    head: Head | None = None,
    precision: str = "float32",
) -> Backbone:
    """The backbone of that name with `levels` (default: its own).

    `weights` is None for the pretrained ones, a file, or "random" (seeded; only ever by name). `head`: a function of
    the maps that becomes a part of the network. `precision`: of the arithmetic on a GPU. The backbone "pixels" computes
    nothing, so torch runs it whatever the `runtime`.
    Raises `OptionError` for unknown names and levels, `WeightsError` for weights that are missing or do not fit.
    """
    device = torch.device(device)
    runtime = engines.choose(device, runtime)
    if precision not in engines.PRECISIONS:
        raise OptionError(f"precision must be one of {', '.join(engines.PRECISIONS)}, not {precision!r}")
    if precision != "float32" and device.type != "cuda":
        raise OptionError(f"precision={precision!r} is for a GPU: on a CPU float32 is faster and exact")
    if levels is not None and (not levels or sorted(set(levels)) != list(levels)):
        raise OptionError(f"levels must be increasing numbers such as 2,3, not {','.join(map(str, levels))}")
    name = ALIASES.get(name, name)
    if name == PIXELS:
        loaded, runtime = load_pixels(levels, weights), "torch"
    elif name.startswith(ADAPTERS):
        from patchbank.features.backbones.adapters import load_adapter

        loaded = load_adapter(name, levels, weights, seed)
    else:
        loaded = _load_registered(name, levels, weights, seed)
    return Backbone(loaded, name, device, runtime, head, precision)


def numbers_layers(name: str) -> bool:
    """Whether the levels of a backbone of that name may be numbers of layers, as those of a vision transformer are."""
    library, _, model = name.rpartition("/")
    is_transformer = any(family in model for family in ("vit", "deit", "beit", "eva", "dino"))
    return name in ALIASES or library.startswith("hf") or (library == "timm" and is_transformer)


def reuse_backbone(name: str, **options: Any) -> Backbone:
    """As `open_backbone`, or the one that was opened before with the same options, weights and number of threads:
    reading, checking and compiling a network takes a second."""
    weights = options.get("weights")
    changed = Path(weights).stat().st_mtime_ns if weights not in (None, "random") and Path(weights).exists() else 0
    # by process: a compiled network has threads, which a forked child has not
    return _reuse(name, os.getpid(), thread_count(), changed, **options)


@lru_cache(maxsize=4)
def _reuse(name: str, process: int, threads: int, changed: int, **options: Any) -> Backbone:
    return open_backbone(name, **options)


def _load_registered(name: str, levels: tuple[int, ...] | None, weights: str | Path | None, seed: int) -> LoadedNetwork:
    spec = get_spec(name)
    levels = levels or spec.default_levels
    unknown = [level for level in levels if level not in spec.levels]
    if unknown:
        raise OptionError(f"{name} has the levels {', '.join(map(str, spec.levels))}, not {unknown[0]}")
    with torch.device("meta"):  # no memory, no time, no draw from the global random state for values soon replaced
        network = spec.build(levels)
    if weights == "random":
        materialise(network)
        initialise(network, seed)
        source = f"random (seed {seed})"
    else:
        path = Path(weights) if weights is not None else spec.weights.fetch(name)
        network.load_state_dict(fold_batch_norm(network, spec, read_state(path)), assign=True)
        source = f"file {path.name}" if weights is not None else spec.weights.describe()
    return LoadedNetwork(network.eval().requires_grad_(False), levels, spec.mean, spec.std, source)
