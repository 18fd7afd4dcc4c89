"""Which features the bank keeps."""

from patchbank.coresets.samplers import (
    SAMPLERS,
    ApproximateGreedyCoresetSampler,
    GreedyCoresetSampler,
    IdentitySampler,
    RandomSampler,
)

__all__ = [
    "SAMPLERS",
    "ApproximateGreedyCoresetSampler",
    "GreedyCoresetSampler",
    "IdentitySampler",
    "RandomSampler",
]
