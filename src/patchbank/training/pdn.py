"""The networks of EfficientAD-S: the patch description network, the autoencoder, and a teacher that is distilled here.

Batzner, Heckler and König, "EfficientAD: Accurate Visual Anomaly Detection at Millisecond-Level Latencies" (WACV 2024),
arXiv 2303.14535, Tables 6 and 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchbank.errors import WeightsError
from patchbank.features.aggregation import OneGrid
from patchbank.features.backbones import reuse_backbone
from patchbank.features.backbones.registry import read_state
from patchbank.features.storage import moments
from patchbank.training.anomalies import Anomalies
from patchbank.training.network import Standard
from patchbank.training.pictures import GoodPictures

SHRINKS = 4  # pixels from one place of the network's map to the next
OUTPUTS = 384  # channels of the teacher (Table 6)
SEEN = 256  # pixels of a side of what the autoencoder sees
LATENT = 64  # numbers that it keeps of a picture (Table 8)
_FIRST, _SECOND, _REBUILDING = 128, 256, (32, 32, 64, 64, 64)
_ENLARGED = (3, 8, 15, 32, 63, 127)  # sides before each convolution on the way back; each adds one place
_DROPPED = 0.2
_MEAN, _SCALE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in 0..1
TAUGHT_BY = "efficientnet_lite0"


def wide(channels: int, width: float) -> int:
    """Channels of a layer of a network of a relative width."""
    return max(round(width * channels), 1)


def patch_description_network(width: float, outputs: int) -> nn.Sequential:
    """Pictures B×3×h×w → B×outputs×h/4×w/4; each place sees 33×33 pixels (Table 6)."""
    first, second = wide(_FIRST, width), wide(_SECOND, width)
    return nn.Sequential(
        nn.Conv2d(3, first, 4, padding=3),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(2, 2, padding=1),
        nn.Conv2d(first, second, 4, padding=3),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(2, 2, padding=1),
        nn.Conv2d(second, second, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(second, outputs, 4),
    )


class Autoencoder(nn.Module):
    """A picture → 64 numbers → what the teacher says of it (Table 8). Pictures of another size than the paper's 256×256
    are scaled to it, and the answer to the teacher's map."""

    def __init__(self, width: float, outputs: int):
        super().__init__()
        widths = [wide(each, width) for each in _REBUILDING]
        self.encode = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairwise([3, *widths]))
        self.latent = nn.Conv2d(widths[-1], LATENT, SEEN // 2 ** len(widths))
        inputs = [LATENT] + [widths[-1]] * (len(_ENLARGED) - 1)
        self.decode = nn.ModuleList(nn.Conv2d(each, widths[-1], 4, padding=2) for each in inputs)
        self.rebuild = nn.Conv2d(widths[-1], widths[-1], 3, padding=1)
        self.last = nn.Conv2d(widths[-1], outputs, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int], generator: torch.Generator | None = None) -> Tensor:
        """Pictures B×3×h×w → B×outputs×rows×columns. `generator`: of what is dropped while it learns."""
        x = _scaled(x, (SEEN, SEEN))
        for layer in self.encode:
            x = F.relu(layer(x))
        x = self.latent(x)
        for layer, side in zip(self.decode, _ENLARGED, strict=True):
            x = _dropped(F.relu(layer(_scaled(x, (side, side)))), generator)
        found: Tensor = self.last(F.relu(self.rebuild(_scaled(x, size))))
        return found


def _scaled(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def _dropped(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Dropout whose random numbers come from a generator; with None nothing is dropped."""
    if generator is None:
        return x
    stays = torch.rand(x.shape, generator=generator) >= _DROPPED
    return x * stays.to(x) / (1 - _DROPPED)


class Colours(Standard):
    """Pixels → as the teacher has learned to see them."""

    def reset(self, generator: torch.Generator) -> None:
        self.offset.copy_(torch.tensor(_MEAN))
        self.scale.copy_(torch.tensor(_SCALE))


# ---- the teacher -----------------------------------------------------------------------------------------------------


def read_teacher(path: str, teacher: nn.Module) -> None:
    """Fill a teacher with published weights: a state dict with the keys 0.weight … 8.bias.

    Raises:
        WeightsError: the file is none, or the weights are those of another network.
    """
    state = read_state(Path(path))
    for name, value in teacher.state_dict().items():
        if name not in state:
            raise WeightsError(f"{path}: these weights are not those of a PDN-S: they have no {name!r}")
        if state[name].shape != value.shape:
            raise WeightsError(
                f"{path}: these weights are not those of a PDN-S: {name} has shape {tuple(state[name].shape)} instead "
                f"of {tuple(value.shape)}"
            )
        value.copy_(state[name])


def learn_statistics(statistics: Standard, maps: Iterable[Tensor]) -> None:
    """Mean and standard deviation of each channel over maps B×C×h×w (Algorithm 1, lines 4 to 9)."""
    rows = (each.movedim(1, -1).flatten(0, -2) for each in maps)
    statistics.hold(*moments(rows, len(statistics.offset)))


class Described(nn.Module):
    """A teacher in the making, with the statistics of what it is to say."""

    def __init__(self, teacher: nn.Module, outputs: int):
        super().__init__()
        self.teacher, self.statistics = teacher, Standard(outputs)


class Distillation:
    """A teacher learns to say what a frozen network says of pictures (Algorithm 3). `rate`, `decay`: of Adam.

    The paper distils from ImageNet. Here the pictures are the user's good ones, on half of which an anomaly is drawn:
    the teacher has to know what the student never sees.
    """

    def __init__(
        self, teacher: nn.Module, colours: Standard, outputs: int, pictures: GoodPictures, rate: float, decay: float
    ):
        self.network, self.items = Described(teacher, outputs), pictures
        self._colours, self._outputs, self._rate, self._decay = colours, outputs, rate, decay
        self._anomalies = Anomalies()
        device = colours.offset.device
        self._network = reuse_backbone(TAUGHT_BY, device=device, head=OneGrid())
        self.network.statistics.to(device)
        every = (torch.tensor([i]) for i in range(pictures.images))
        learn_statistics(self.network.statistics, (self.said(pictures.pictures(one)) for one in every))

    def said(self, pictures: Tensor) -> Tensor:
        """What the frozen network says of B×3×h×w pictures in 0..1, at twice their size: B×outputs×h/4×w/4."""
        large = F.interpolate(pictures * 255, scale_factor=2.0, mode="bilinear", align_corners=False)
        vectors = self._network.arranged(large, OneGrid())
        batch, rows, columns, _ = vectors.shape
        pooled = F.adaptive_avg_pool1d(vectors.flatten(1, 2), self._outputs)
        return pooled.reshape(batch, rows, columns, -1).permute(0, 3, 1, 2)

    def optimisers(self) -> Sequence[torch.optim.Optimizer]:
        """Adam, as for the student."""
        return [torch.optim.Adam(self.network.teacher.parameters(), lr=self._rate, weight_decay=self._decay)]

    def loss(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        """The mean squared difference to what the frozen network says, standardised."""
        good = self.items.pictures(numbers)
        pictures, _ = self._anomalies.applied(good, generator, self.items.inspected(numbers))
        target = self.network.statistics.of_maps(self.said(pictures))
        return F.mse_loss(self.network.teacher(self._colours.of_maps(pictures)), target)
