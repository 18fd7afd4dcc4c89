"""Backbones of other libraries, by name: `timm/<name>` and `hf/<name-or-path>`; each library is imported only when
named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from patchbank.errors import MissingPackageError, OptionError, WeightsError
from patchbank.features.backbones.network import LoadedNetwork
from patchbank.features.backbones.registry import initialise, read_state

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_adapter(name: str, levels: tuple[int, ...] | None, weights: str | Path | None, seed: int) -> LoadedNetwork:
    """The network behind `timm/<name>` or `hf/<name-or-path>`. Levels as in a ResNet: level j has stride 2^(j+1); of a
    vision transformer: the number of the layer whose tokens are taken."""
    library, _, model = name.partition("/")
    return {"timm": _load_timm, "hf": _load_hf}[library](model, levels, weights, seed)


def _scaled(values: Any) -> tuple[float, float, float]:
    red, green, blue = (255.0 * float(v) for v in values)
    return red, green, blue


def _load_timm(model: str, levels: tuple[int, ...] | None, weights: str | Path | None, seed: int) -> LoadedNetwork:
    try:
        import timm
    except (
        Exception
    ) as error:  # timm imports torchvision, and a torchvision built for another torch fails in its own ways
        raise MissingPackageError(
            f"backbone timm/{model} needs timm with a torchvision that fits this torch "
            f"({type(error).__name__}: {str(error).splitlines()[0]}): `pip install patchbank[timm]`"
        ) from error
    if not timm.is_model(model):
        raise OptionError(f"timm has no model {model!r}; timm.list_models() names them")
    try:
        network = timm.create_model(model, pretrained=weights is None, features_only=True)
        reductions = network.feature_info.reduction()
        is_transformer = len(reductions) > 1 and len(set(reductions)) == 1  # every block has the patch's reduction
        if is_transformer:
            index, multiple = {i: i for i in range(len(reductions))}, reductions[0]
            options: dict[str, Any] = {"dynamic_img_size": True}
        else:
            index, multiple, options = {r.bit_length() - 2: i for i, r in enumerate(reductions)}, 32, {}
        levels = _choose_levels(f"timm/{model}", levels, index, is_transformer)
        chosen = [index[level] for level in levels]
        network = timm.create_model(
            model, pretrained=weights is None, features_only=True, out_indices=chosen, **options
        )
    except (OSError, RuntimeError) as error:
        raise _no_weights(f"timm/{model}", error) from error
    source = _load_weights(network, weights, seed) or f"timm {model}"
    config = network.pretrained_cfg if hasattr(network, "pretrained_cfg") else {}
    mean, std = config.get("mean", _IMAGENET_MEAN), config.get("std", _IMAGENET_STD)
    return LoadedNetwork(_Tupled(network), levels, _scaled(mean), _scaled(std), source, multiple)


def _choose_levels(
    name: str, levels: tuple[int, ...] | None, index: dict[int, int], is_transformer: bool
) -> tuple[int, ...]:
    """The levels asked for, −1 being the last one; or the default: 2 and 3, or two thirds of the way and the last layer
    of a vision transformer. Raises `OptionError`."""
    known = sorted(index)
    if is_transformer:
        default: tuple[int, ...] = (len(known) * 2 // 3, len(known) - 1)
    else:
        default = tuple(level for level in (2, 3) if level in index) or (known[-1],)
    chosen = tuple(known[level] if -len(known) <= level < 0 else level for level in levels or default)
    unknown = [level for level in chosen if level not in index]
    if unknown:
        raise OptionError(f"{name} has the levels {', '.join(map(str, index))}, not {unknown[0]}")
    return chosen


class _Tupled(nn.Module):
    """timm's feature networks return a list; every runtime here traces a tuple."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network(x))


def _load_hf(model: str, levels: tuple[int, ...] | None, weights: str | Path | None, seed: int) -> LoadedNetwork:
    try:
        import transformers
    except ImportError as error:
        raise MissingPackageError(f"backbone hf/{model} needs transformers: `pip install patchbank[hf]`") from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        if weights is None:
            network = transformers.AutoModel.from_pretrained(model)
        else:
            network = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(model))
    except (OSError, ValueError) as error:
        raise _no_weights(f"hf/{model}", error) from error
    source = _load_weights(network, weights, seed) or f"transformers {Path(model).name}"
    wrapped, levels, multiple = _hidden_states(network.eval().requires_grad_(False), f"hf/{model}", levels)
    mean, std = _hf_normalisation(transformers, model)
    return LoadedNetwork(wrapped, levels, _scaled(mean), _scaled(std), source, multiple)


def _hf_normalisation(transformers: Any, model: str) -> tuple[Any, Any]:
    try:
        config, _ = transformers.image_processing_utils.BaseImageProcessor.get_image_processor_dict(model)
    except (OSError, ValueError, AttributeError):  # a bare model folder without preprocessor_config.json
        config = {}
    return config.get("image_mean", _IMAGENET_MEAN), config.get("image_std", _IMAGENET_STD)


def _hidden_states(
    network: nn.Module, name: str, levels: tuple[int, ...] | None
) -> tuple[nn.Module, tuple[int, ...], int]:
    """Probe which hidden states the network gives, and wrap those of `levels`; also what sides must be multiples of."""
    patch = getattr(network.config, "patch_size", None)
    multiple = patch if isinstance(patch, int) and patch > 4 else 32  # hierarchical transformers have 4-pixel patches
    size = multiple * (224 // multiple)
    with torch.no_grad():
        states = network(torch.zeros(1, 3, size, size), output_hidden_states=True).hidden_states
    if states[0].ndim == 3:
        index = {i: i for i in range(len(states))}
    else:  # the last map of each stride; strides 4, 8, 16, 32 are levels 1, 2, 3, 4
        index = {(size // s.shape[2]).bit_length() - 2: i for i, s in enumerate(states)}
    levels = _choose_levels(name, levels, index, states[0].ndim == 3)
    return _HiddenStates(network, tuple(index[level] for level in levels), multiple), levels, multiple


class _HiddenStates(nn.Module):
    """A transformers model → the maps of chosen hidden states; tokens are put back on their grid, class and register
    tokens (which come first) dropped, and those of the last layer normalised as the network does for its output."""

    def __init__(self, network: nn.Module, indices: tuple[int, ...], patch: int):
        super().__init__()
        self.network, self.indices, self.patch = network, indices, patch

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        options: dict[str, Any] = {"output_hidden_states": True, "return_dict": True}
        if "interpolate_pos_encoding" in self._forward_arguments:
            options["interpolate_pos_encoding"] = True
        states = self.network(x, **options).hidden_states
        return tuple(self._on_grid(self._normed(states, i), x) for i in self.indices)

    def _normed(self, states: Any, i: int) -> Tensor:
        norm = getattr(self.network, "layernorm", None)
        state: Tensor = states[i]
        if i == len(states) - 1 and state.ndim == 3 and isinstance(norm, nn.LayerNorm):
            normed: Tensor = norm(state)
            return normed
        return state

    @property
    def _forward_arguments(self) -> tuple[str, ...]:
        forward: Callable[..., Any] = self.network.forward
        return forward.__code__.co_varnames

    def _on_grid(self, state: Tensor, x: Tensor) -> Tensor:
        if state.ndim == 4:
            return state
        rows, columns = x.shape[2] // self.patch, x.shape[3] // self.patch
        tokens = state[:, state.shape[1] - rows * columns :]
        return tokens.transpose(1, 2).reshape(state.shape[0], -1, rows, columns)


def _load_weights(network: nn.Module, weights: str | Path | None, seed: int) -> str | None:
    """Random or file weights into a freshly made network; None where the library has loaded its own."""
    if weights is None:
        return None
    if weights == "random":
        for module in network.modules():  # the library drew from the global random state: draw again, from the seed
            if isinstance(module, nn.Linear):
                generator = torch.Generator().manual_seed(seed)
                nn.init.normal_(module.weight, std=0.02, generator=generator)
        initialise(network, seed)
        return f"random (seed {seed})"
    missing, _ = network.load_state_dict(read_state(Path(weights)), strict=False)
    if missing:
        raise WeightsError(f"{weights}: these weights are not those of this network: they have no {missing[0]!r}")
    return f"file {Path(weights).name}"


def _no_weights(name: str, error: Exception) -> WeightsError:
    return WeightsError(
        f"the weights of {name} are not on this machine and could not be downloaded "
        f"({str(error).splitlines()[0][:160]}): give a local folder as "
        "hf/<path>, or a file with weights=PATH (--weights PATH)"
    )
