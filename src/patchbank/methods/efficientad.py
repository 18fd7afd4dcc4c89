"""EfficientAD-S: Batzner, Heckler and König, "EfficientAD: Accurate Visual Anomaly Detection at Millisecond-Level
Latencies" (WACV 2024), arXiv 2303.14535.

What is ours: the networks may be narrower (`width`). Where no published teacher is given, one is distilled here from
the installed network on the user's own pictures, not on ImageNet: that is not the published one. Without a folder of
other pictures (`penalty`) the student is not kept from imitating the teacher on them; the paper has ImageNet there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from patchbank.detector import Detector
from patchbank.errors import OptionError, Progress
from patchbank.features.aggregation import Arrangement
from patchbank.features.backbones import PIXELS
from patchbank.features.store import FeatureStore
from patchbank.registry import register
from patchbank.scorer import Grid, Levels
from patchbank.training import pdn
from patchbank.training.anomalies import PictureTextures, read_textures
from patchbank.training.anomalies.draws import generators
from patchbank.training.loop import Training, train
from patchbank.training.network import Standard
from patchbank.training.options import check_training, training_of
from patchbank.training.pictures import (
    AS_THEY_ARE,
    OF_NETWORKS,
    GoodPictures,
    PictureScorer,
    as_pictures,
    check_colours,
    check_pictures,
    check_width,
    default_width,
)
from patchbank.training.session import Session

_HARD = 0.999  # p_hard: the share of differences that the student need not learn from
_QUANTILES = (0.9, 0.995)  # q_a and q_b of the maps of good pictures, which become 0 and 0.1
_AT_SECOND = 0.1
_CHANGED = (0.8, 1.2)  # λ of the autoencoder's pictures
_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
_DROPS = (0.95,)  # of 70 000 steps the last 5 % have a tenth of the rate
_DECAY = 1e-5
_HELD_BACK = 10  # of the pictures, one is kept for the quantiles
_PER_PIXEL = 8500  # bytes of a step for each pixel, at full width: what gradients need


class MapScale(nn.Module):
    """q_a and q_b of the map of the student and of that of the autoencoder: `quantiles` 2×2."""

    quantiles: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("quantiles", torch.zeros(2, 2))

    def reset(self, generator: torch.Generator) -> None:
        """As before anything is learned."""
        self.quantiles.copy_(torch.tensor([[0.0, 1.0], [0.0, 1.0]]))

    def forward(self, maps: Tensor) -> Tensor:
        """B×2×h×w → M̂ = 0.1·(M − q_a)/(q_b − q_a)."""
        first, second = self.quantiles[:, 0, None, None], self.quantiles[:, 1, None, None]
        return _AT_SECOND * (maps - first) / (second - first).clamp(min=1e-12)


class EfficientADNetwork(nn.Module):
    """Teacher, student and autoencoder. `width`: of their layers, relative to the paper's."""

    def __init__(self, width: float):
        super().__init__()
        self.outputs = pdn.wide(pdn.OUTPUTS, width)
        self.colours, self.statistics, self.scale = pdn.Colours(3), Standard(self.outputs), MapScale()
        self.teacher = pdn.patch_description_network(width, self.outputs)
        self.student = pdn.patch_description_network(width, 2 * self.outputs)
        self.autoencoder = pdn.Autoencoder(width, self.outputs)

    def forward(self, vectors: Tensor, grid: Grid) -> Tensor:
        """Pixels B×P×3 → scores B×P: the mean of both maps (Algorithm 2)."""
        found: Tensor = self.scale(self.maps(vectors, grid)).mean(1)
        return found.flatten(1)

    def maps(self, vectors: Tensor, grid: Grid) -> Tensor:
        """Pixels B×P×3 → how far the student is from the teacher and from the autoencoder, B×2×h×w."""
        pictures = self.seen(as_pictures(vectors, grid))
        like_teacher, like_rebuilt = self.student(pictures).split(self.outputs, 1)
        rebuilt = self.autoencoder(pictures, (grid[0] // pdn.SHRINKS, grid[1] // pdn.SHRINKS))
        differences = self.taught(pictures) - like_teacher, rebuilt - like_rebuilt
        maps = torch.stack([each.square().mean(1) for each in differences], 1)
        return F.interpolate(maps, grid, mode="bilinear", align_corners=False)

    def seen(self, pictures: Tensor) -> Tensor:
        """B×3×h×w in 0..1 → as the networks see them."""
        return self.colours.of_maps(pictures)

    def taught(self, pictures: Tensor) -> Tensor:
        """What the teacher says, B×outputs×h/4×w/4, standardised. Nothing is learned through it."""
        with torch.no_grad():
            return self.statistics.of_maps(self.teacher(pictures))

    def loss(self, pictures: Tensor, changed: Tensor, others: Tensor | None, generator: torch.Generator) -> Tensor:
        """L_ST + L_AE + L_STAE of Algorithm 1, lines 15 to 36.

        Args:
            pictures: B×3×h×w in 0..1, good ones.
            changed: the same with other brightness, contrast or saturation.
            others: B×3×h×w that are no such parts, for the penalty; None for no penalty.
            generator: of what the autoencoder drops.
        """
        pictures, changed = self.seen(pictures), self.seen(changed)
        squared = (self.taught(pictures) - self.student(pictures)[:, : self.outputs]).square().flatten()
        hard = squared.numel() - math.ceil(_HARD * (squared.numel() - 1))  # those from the quantile on
        loss = torch.topk(squared, hard).values.mean()
        if others is not None:
            loss = loss + self.student(self.seen(others))[:, : self.outputs].square().mean()
        target, like_rebuilt = self.taught(changed), self.student(changed)[:, self.outputs :]
        rebuilt = self.autoencoder(changed, (target.shape[2], target.shape[3]), generator)
        return loss + F.mse_loss(rebuilt, target) + F.mse_loss(like_rebuilt, rebuilt)


def changed_colours(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, contrast or saturation of each of B×3×h×w pictures, times a number in 0.8..1.2 (Algorithm 1, lines 22
    to 25)."""
    which = torch.randint(3, (len(pictures),), generator=generator).tolist()
    low, high = _CHANGED
    factors = (low + (high - low) * torch.rand(len(pictures), generator=generator)).tolist()
    grey = (pictures * pictures.new_tensor(_GREY)[:, None, None]).sum(1, keepdim=True)
    towards = [torch.zeros_like(grey), grey.mean((2, 3), keepdim=True).expand_as(grey), grey]
    found = [p * f + towards[k][i] * (1 - f) for i, (p, k, f) in enumerate(zip(pictures, which, factors, strict=True))]
    return torch.stack(found).clamp(0, 1)


class EfficientADTask:
    """Good pictures, and `others` for the penalty. `rate`: of learning."""

    def __init__(
        self, network: EfficientADNetwork, pictures: GoodPictures, others: PictureTextures | None, rate: float
    ):
        self.network, self.items, self.others, self._rate = network, pictures, others, rate

    def optimisers(self) -> Sequence[torch.optim.Optimizer]:
        """One Adam for the student and the autoencoder (Algorithm 1, line 11)."""
        learning = [*self.network.student.parameters(), *self.network.autoencoder.parameters()]
        return [torch.optim.Adam(learning, lr=self._rate, weight_decay=_DECAY)]

    def loss(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        good = self.items.pictures(numbers)
        others = None if self.others is None else self._drawn(self.others, good, generator)
        return self.network.loss(good, changed_colours(good, generator), others, generator)

    def _drawn(self, others: PictureTextures, good: Tensor, generator: torch.Generator) -> Tensor:
        """Parts of other pictures, as many and as large as the good ones."""
        like = np.zeros((good.shape[2], good.shape[3], 3), np.float32)
        drawn = [others.texture(like, rng) for rng in generators(generator, len(good))]
        return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).to(good)


class EfficientADScorer(PictureScorer):
    """All three networks. `width`: of them; `teacher`: a file; `penalty`: a folder; `rate`: of learning."""

    def __init__(
        self,
        levels: Levels,
        training: Training,
        device: torch.device,
        width: float,
        teacher: str | None,
        penalty: str | None,
        rate: float,
    ):
        super().__init__(levels, training, device)
        self._width, self._teacher, self._penalty, self._rate = width, teacher, penalty, rate

    def make_network(self) -> EfficientADNetwork:
        return EfficientADNetwork(self._width)

    def pixel_bytes(self) -> float:
        return _PER_PIXEL * self._width

    def begin(self, session: Session) -> None:
        super().begin(session)
        session.stages = 1 if self._teacher else 2

    def task(self, network: EfficientADNetwork, features: FeatureStore) -> EfficientADTask:
        pictures = GoodPictures(features, self._split(len(features.refs))[0])
        if self._teacher is not None:
            pdn.read_teacher(self._teacher, network.teacher)
        else:
            distillation = pdn.Distillation(
                network.teacher, network.colours, network.outputs, pictures, self._rate, _DECAY
            )
            train(distillation, self.training_options, self.session, f"teacher {features.content}")
        with torch.no_grad():
            every = (pictures.pictures(torch.tensor([i])) for i in range(pictures.images))
            pdn.learn_statistics(network.statistics, (network.teacher(network.seen(one)) for one in every))
        others = None if self._penalty is None else read_textures(self._penalty)
        return EfficientADTask(network, pictures, others, self._rate)

    def fit(self, features: FeatureStore, progress: Progress | None = None) -> Self:
        super().fit(features, progress)
        held = GoodPictures(features, self._split(len(features.refs))[1])
        maps: list[Tensor] = []
        for i in range(held.images):
            number = torch.tensor([i])
            with torch.no_grad():
                found = self.network.maps(held.pictures(number).flatten(2).transpose(1, 2), held.grid(number))
            inspected = held.inspected(number)
            maps.append(found[0].flatten(1) if inspected is None else found[0][:, inspected[0, 0]])
        values = torch.cat(maps, 1).cpu().numpy()
        self.network.scale.quantiles.copy_(torch.from_numpy(np.quantile(values, _QUANTILES, axis=1).T))
        return self

    def _split(self, images: int) -> tuple[list[int], list[int]]:
        """Numbers of the images to learn from, and of a tenth whose maps are normalised (line 3 of Algorithm 1)."""
        order = torch.randperm(images, generator=torch.Generator().manual_seed(self.training_options.seed)).tolist()
        held = max(images // _HELD_BACK, 1)
        return sorted(order[held:]) or order, sorted(order[:held])

    def facts(self) -> dict[str, Any]:
        here = f"distilled here from {pdn.TAUGHT_BY} on your pictures, not from ImageNet: not the published one"
        given = None if self._teacher is None else f"file {Path(self._teacher).name}"
        return {**super().facts(), "teacher": given or here}


@register
@dataclass(kw_only=True, eq=False)
class EfficientAD(Detector):
    """A student that learns what a teacher says of good pictures, and what an autoencoder makes of them; the score is
    how far it is from both. Thresholds come from parts that were not learned from.

    Args:
        teacher: a file with published weights of a PDN-S; None to distil a teacher here from the installed network.
        penalty: a folder of other pictures, on which the student is to differ from the teacher; None for no penalty.
        width: of all layers, relative to the paper's; None for 1.0 on a GPU or with a published teacher, 0.25 else.
        learning_rate: of Adam (0.0001 in the paper, which learns for longer).
        epochs: how often each picture is seen (70 000 steps in the paper), by the teacher and by the student.
        batch: pictures at each step.
        max_minutes: when to stop, whether or not all epochs are done; all trainings of the fit together.
        patience: stop after so many epochs without a lower loss on a tenth of the images, which are kept back.
    Other options: `Options`.
    """

    method: ClassVar[str] = "efficientad"
    summary: ClassVar[str] = "a student that imitates a teacher on good parts, and an autoencoder"
    cost: ClassVar[str] = "an image takes three small networks; most of an hour to learn"
    scorer_class: ClassVar[type[EfficientADScorer]] = EfficientADScorer
    without_effect: ClassVar[frozenset[str]] = OF_NETWORKS

    backbone: str = PIXELS
    image_size: int | None = 256
    image_score: str | None = "max"
    sigma: float | None = 2.0
    teacher: str | None = None
    penalty: str | None = None
    width: float | None = None
    learning_rate: float = 1e-3
    epochs: int = 15
    batch: int = 1
    max_minutes: float | None = None
    patience: int | None = None

    def in_effect(self, name: str, value: Any) -> Any:
        if name == "width" and value is None:
            return 1.0 if self.teacher is not None else default_width(self)
        return super().in_effect(name, value)

    def check(self) -> None:
        super().check()
        check_training(self)
        check_pictures(self)
        check_width(self)
        if self.teacher is not None and self.option("width") != 1:
            raise OptionError(f"a published teacher has the published width: leave out width={self.width}")

    def arrange(self) -> Arrangement:
        return AS_THEY_ARE

    def make_scorer(self, levels: Levels) -> EfficientADScorer:
        check_colours(self, levels)
        training, width = training_of(self, drops=_DROPS), self.option("width")
        return self.scorer_class(
            levels, training, self.torch_device, width, self.teacher, self.penalty, self.learning_rate
        )
