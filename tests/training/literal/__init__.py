"""The equations of the methods that learn weights, written out slowly in numpy: one file for each method.

Each has `OPTIONS` with which the method fits small images in a second, `forward(network, vectors, grid)` for the scores
of P×D features of an image, and `loss(task, numbers, seed)` for the loss of a batch. Random numbers of the loss come
from a generator of that seed. Where a method cannot be exported, `NOT_EXPORTED` is what it says.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

Array = NDArray[np.float64]


def values(network: nn.Module) -> dict[str, Array]:
    """All weights and statistics of a network by name."""
    return {name: value.double().numpy() for name, value in network.state_dict().items()}
