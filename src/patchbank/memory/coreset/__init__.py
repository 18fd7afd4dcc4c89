"""Which features the bank keeps."""

from collections.abc import Callable
from typing import Any

from patchbank.memory.coreset.proxies import ProxySampler
from patchbank.memory.coreset.samplers import (
    ApproximateGreedyCoresetSampler,
    GreedyCoresetSampler,
    IdentitySampler,
    RandomSampler,
)

SAMPLERS: dict[str, Callable[..., Any]] = {
    "greedy": GreedyCoresetSampler,
    "approximate": ApproximateGreedyCoresetSampler,
    "random": RandomSampler,
    "proxies": ProxySampler,
    "identity": IdentitySampler,
}

__all__ = [
    "SAMPLERS",
    "ApproximateGreedyCoresetSampler",
    "GreedyCoresetSampler",
    "IdentitySampler",
    "ProxySampler",
    "RandomSampler",
]
