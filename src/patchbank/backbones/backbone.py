"""A frozen backbone, ready to run: images in, maps of the chosen levels out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from patchbank.backbones import runtime as runtimes
from patchbank.backbones.registry import (
    ADAPTERS,
    checksum,
    fold_batch_norm,
    get_spec,
    initialise,
    read_state,
)
from patchbank.errors import MissingPackageError, OptionError


@dataclass(frozen=True)
class LoadedNetwork:
    """A network with its weights, and what the rest needs to know about it.

    `weights` says where they came from; `multiple` is what image sides must be multiples of.
    """

    network: nn.Module
    levels: tuple[int, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: str
    multiple: int = 32


class Backbone:
    """Frozen network, cut off after the deepest level in use.

    `channels` and `strides` (input pixels per map cell) are those of `levels`, shallowest first.
    """

    def __init__(self, loaded: LoadedNetwork, name: str, device: torch.device, runtime: str, threads: int | None):
        self.name, self.levels, self.weights, self.multiple = name, loaded.levels, loaded.weights, loaded.multiple
        self.checksum = checksum(loaded.network)
        self.device = device
        self.runtime = runtimes.choose(device, runtime)
        network = runtimes.Normalised(loaded.network, loaded.mean, loaded.std).eval()
        size = 4 * self.multiple
        example = torch.zeros(1, 3, size, size)
        with torch.no_grad():
            maps = network(example)
        self.channels = tuple(m.shape[1] for m in maps)
        self.strides = tuple(size // m.shape[2] for m in maps)
        if self.runtime == "openvino":
            self._run = runtimes.openvino_runtime(network, example, threads)
        else:
            self._run = runtimes.torch_runtime(network, device)

    def __call__(self, batch: Tensor) -> list[Tensor]:
        """B×3×H×W RGB float32 in 0..255 → one B×C×h×w float32 map per level, on the backbone's device."""
        return self._run(batch)


def open_backbone(
    name: str,
    *,
    levels: tuple[int, ...] | None = None,
    weights: str | Path | None = None,
    device: torch.device | str = "cpu",
    runtime: str = "auto",
    threads: int | None = None,
    seed: int = 0,
) -> Backbone:
    """The backbone of that name with `levels` (default: its own).

    `weights` is None for the pretrained ones, a file, or "random" (seeded; only ever by name).
    Raises `OptionError` for unknown names and levels, `WeightsError` for weights that are missing or do not fit.
    """
    if runtime not in runtimes.RUNTIMES:
        raise OptionError(f"runtime must be one of {', '.join(runtimes.RUNTIMES)}, not {runtime!r}")
    device = torch.device(device)
    if runtime == "openvino" and not runtimes.openvino_available():
        raise MissingPackageError("runtime='openvino' needs the openvino package: `pip install openvino`")
    if runtime == "openvino" and device.type != "cpu":
        raise OptionError(f"runtime='openvino' runs on the CPU, not on {device}: use runtime='torch'")
    if levels is not None and (not levels or sorted(set(levels)) != list(levels)):
        raise OptionError(f"levels must be increasing numbers such as 2,3, not {','.join(map(str, levels))}")
    if name.startswith(ADAPTERS):
        from patchbank.backbones.adapters import load_adapter

        loaded = load_adapter(name, levels, weights, seed)
    else:
        loaded = _load_registered(name, levels, weights, seed)
    return Backbone(loaded, name, device, runtime, threads)


def _load_registered(name: str, levels: tuple[int, ...] | None, weights: str | Path | None, seed: int) -> LoadedNetwork:
    spec = get_spec(name)
    levels = levels or spec.default_levels
    unknown = [level for level in levels if level not in spec.levels]
    if unknown:
        raise OptionError(f"{name} has the levels {', '.join(map(str, spec.levels))}, not {unknown[0]}")
    with torch.device("meta"):  # no memory, no time, no draw from the global random state for values soon replaced
        network = spec.build(levels)
    if weights == "random":
        network = network.to_empty(device="cpu")
        initialise(network, seed)
        source = f"random (seed {seed})"
    else:
        path = Path(weights) if weights is not None else spec.weights.fetch(name)
        network.load_state_dict(fold_batch_norm(network, spec, read_state(path)), assign=True)
        source = f"file {path.name}" if weights is not None else spec.weights.describe()
    return LoadedNetwork(network.eval().requires_grad_(False), levels, spec.mean, spec.std, source)
