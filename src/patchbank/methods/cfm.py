"""CFM: Costanzino et al., "Multimodal Industrial Anomaly Detection by Crossmodal Feature Mapping" (CVPR 2024),
arXiv 2312.04521.

The two mappings, their loss and their score are `training.crossmodal`. The paper
maps features of DINO to those of Point-MAE; here any two channels are mapped to each other, by default the picture and
the curvature of the surface as one network sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from patchbank.detector import Detector
from patchbank.errors import OptionError, Progress
from patchbank.features.planning import Plan, plan_fit
from patchbank.features.store import FeatureStore
from patchbank.registry import register
from patchbank.scorer import Grid, Levels, Memory, PatchScores, Scorer, masked
from patchbank.training.crossmodal import Crossmodal, train_crossmodal
from patchbank.training.loop import Training, build


class CFMScorer(Scorer):
    """Two mappings between the features of two channels. `hidden`: widths of their hidden layers."""

    can_leave_out: ClassVar[bool] = False

    def __init__(self, levels: Sequence[Levels], training: Training, hidden: Sequence[int], device: torch.device):
        super().__init__(levels[0])
        self._widths, self._hidden, self._device = [each.dimension for each in levels], list(hidden), device
        self.training_options, self.loss = training, float("nan")
        self.mapping = build(self._make, training.seed).to(device)
        # features of one scale: what a network gives has channels that differ by orders of magnitude
        self.offset, self.scale = torch.zeros(sum(self._widths)), torch.ones(sum(self._widths))

    def _make(self) -> Crossmodal:
        return Crossmodal(self._widths[0], self._widths[1], self._hidden)

    def plan(self, images: int, patches: int, device: torch.device, budget: int | None) -> Plan:
        return plan_fit(images, patches, sum(self._widths), 0, device, budget)

    def fit(self, features: FeatureStore, progress: Progress | None = None) -> Self:
        """On the patches of good samples, standardised."""
        a, b = features.parts
        for part, (start, stop) in zip((a, b), self._ranges, strict=True):
            self.offset[start:stop] = part.mean(0).cpu()
            self.scale[start:stop] = part.std(0).cpu().clamp(min=1e-6)
            part.sub_(self.offset[start:stop].to(part.device)).div_(self.scale[start:stop].to(part.device))
        features.prepared = True
        self.mapping, self.loss = train_crossmodal(a, b, self.training_options, self._hidden, progress)
        return self

    @property
    def _ranges(self) -> list[tuple[int, int]]:
        first = self._widths[0]
        return [(0, first), (first, sum(self._widths))]

    def prepare(self, vectors: Tensor) -> Tensor:
        return (vectors - self.offset.to(vectors.device)) / self.scale.to(vectors.device)

    def compare(
        self, points: Tensor, grid: Grid, inspected: Tensor | None = None, exclude: int | None = None
    ) -> PatchScores:
        """The product of how far each channel is off the prediction from the other."""
        a, b = torch.split(points, self._widths, -1)
        nothing = self.prepare(torch.zeros(1, sum(self._widths), device=points.device))  # of patches without a point
        present = torch.stack([
            (part != none).any(-1)
            for part, none in zip((a, b), torch.split(nothing, self._widths, -1), strict=True)
        ]).all(0)  # fmt: skip
        return PatchScores(masked(self.mapping.scores(a, b, present), inspected))

    def facts(self) -> dict[str, Any]:
        return {"loss": self.loss}

    def state(self) -> tuple[Memory, dict[str, Any]]:
        weights = {name: tensor.detach() for name, tensor in self.mapping.state_dict().items()}
        return weights | {"offset": self.offset, "scale": self.scale}, {"loss": self.loss}

    def restore(self, tensors: Memory, values: dict[str, Any]) -> Self:
        self.mapping.load_state_dict({name: tensors[name] for name in self.mapping.state_dict()})
        self.mapping.eval().requires_grad_(False)
        self.offset, self.scale, self.loss = tensors["offset"], tensors["scale"], values["loss"]
        return self


@register
@dataclass(kw_only=True, eq=False)
class CFM(Detector):
    """Networks that predict each channel's features from the other's, learned on good parts; the score is how far both
    are off. Thresholds come from parts that were not learned from.

    Args:
        hidden: widths of the hidden layers of the mappings.
        steps: of training.
        batch: patches at each step.
        learning_rate: of Adam (0.001 in the paper).
    Other options: `Options`. `channels` must be two.
    """

    method: ClassVar[str] = "cfm"
    summary: ClassVar[str] = "how badly the picture predicts the geometry and the other way round; for RGB + 3D"
    cost: ClassVar[str] = "not measured here: an image costs two small networks, learning a minute or more"
    needs: ClassVar[str] = "two channels, such as geometry beside the picture"
    scorer_class: ClassVar[type[CFMScorer]] = CFMScorer
    without_effect: ClassVar[frozenset[str]] = frozenset({"fusion"})

    channels: tuple[str, ...] | None = ("rgb", "curvature")
    hidden: tuple[int, ...] = (256, 256)
    steps: int = 1000
    batch: int = 1024
    learning_rate: float = 1e-3

    def check(self) -> None:
        super().check()
        if self.channels is None or len(self.channels) != 2:
            raise OptionError(f"cfm takes two channels, such as rgb,curvature, not {self.channels}")
        if not self.hidden or min(self.hidden) < 1:
            raise OptionError(f"hidden takes widths of at least 1, such as 256,256, not {self.hidden}")
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.learning_rate <= 1:
            raise OptionError(f"learning_rate must lie in (0, 1], not {self.learning_rate}")

    def fuse(self, levels: Sequence[Levels], channels: Sequence[str]) -> CFMScorer:
        training = Training(self.steps, self.batch, self.learning_rate, self.seed)
        return CFMScorer(levels, training, self.hidden, self.torch_device)
