"""M3DM: Wang et al., "Multimodal Industrial Anomaly Detection via Hybrid Fusion" (CVPR 2023), arXiv 2303.00601.

Three memories: of the picture, of the points, and of both, drawn together by a fusion that is learned on good parts
(UFF, `training.fusion`). What the three say of good parts decides how they are weighed (DLF, `scoring.one_class`). The
points are seen by Point-MAE (`features.point_mae`), whose weights are to be given. Without them, `m3dm.lite` is the
same with the curvature of the surface as the network of the picture sees it.

Faults of the released code that are not copied stand in `training.fusion`; and its memories keep 10 % of 10 % of the
patches, here the share that is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from patchbank.detector import Detector
from patchbank.errors import OptionError, Progress
from patchbank.features.planning import Plan
from patchbank.features.storage import allocate, in_blocks
from patchbank.features.store import FeatureStore, PatchFeatures
from patchbank.memory.bank_scorer import BankSize, check_bank_search
from patchbank.memory.fused_scorer import FusedScorer
from patchbank.memory.good_distances import good_distances, largest
from patchbank.methods.patchcore import PatchCoreScorer, greedy_scorer
from patchbank.registry import register
from patchbank.scorer import Grid, Levels, Memory, PatchScores
from patchbank.scoring.one_class import fit_one_class
from patchbank.training.fusion import Fusion, FusionTask, Pairs
from patchbank.training.loop import Training, train
from patchbank.training.network import build
from patchbank.training.session import Session

_TEMPERATURE = 0.1  # of the fusion's loss


class M3DMScorer(FusedScorer):
    """Memories of two channels and of their fusion. `names`: of the two; `training`, `rate`: of the fusion."""

    keeps_patches: ClassVar[bool] = True
    learns_weights: ClassVar[bool] = True
    leaves_parts_out: ClassVar[bool] = True

    def __init__(
        self, members: Sequence[PatchCoreScorer], names: Sequence[str], training: Training, rate: float, device: Any
    ):
        super().__init__(members, [*names, "+".join(names)], "sum", device)
        self._training, self._rate, self._session = training, rate, Session()
        self.loss, self._on_disk = float("nan"), False
        self.image_weights = torch.ones(3)
        self.network = self._new_fusion().eval()
        # not one feature of each scale: one scale for a channel, the same at fit and at prediction
        self.channel_scales = torch.ones(2)

    def _new_fusion(self) -> Fusion:
        return build(lambda: Fusion(self.widths[0], self.widths[1]), self._training.seed).to(self._device)

    def begin(self, session: Session) -> None:
        self._session = session

    def release(self) -> None:
        super().release()
        self._session = Session()

    def plan(self, images: int, patches: int, device: torch.device, budget: int | None) -> Plan:
        plan = super().plan(images, patches, device, budget)  # the third memory is among the widths
        self._on_disk = plan.where == "disk"
        return plan

    def fit(self, features: FeatureStore, progress: Progress | None = None) -> Self:
        """Fusion, then the three memories, then how they are weighed."""
        for number, part in enumerate(features.parts):
            squares = sum(float(block.square().sum(dtype=torch.float64)) for _, block in in_blocks(part))
            self.channel_scales[number] = (squares / part.numel()) ** 0.5 or 1.0
            for _, block in in_blocks(part):
                block.div_(float(self.channel_scales[number]))
        self.network = self._new_fusion()
        task = FusionTask(self.network, Pairs(_OfImages(features)), self._rate, _TEMPERATURE)
        self.loss = train(task, self._training, self._session, features.content).loss
        a, b = features.parts
        fused = allocate(len(a), self.widths[2], a.device, self._on_disk)
        for rows, block in in_blocks(a):
            fused[rows] = self.network.fuse(block, b[rows])
        features.parts.append(fused)
        return super().fit(features, progress)

    def _weigh(self, features: FeatureStore, stores: Sequence[FeatureStore]) -> None:
        """Decision layer: one support vector machine for patches and one for images. Distances are scaled, not
        shifted."""
        found = good_distances(self.members, features, stores)
        patches, peaks = np.concatenate([distances.T for _, distances in found]), largest(found)
        means = np.maximum(patches.mean(0), 1e-12)
        self.fusion.scales = torch.as_tensor(means, dtype=torch.float32)
        some = patches[:: max(1, len(patches) // 20_000)]
        of_patches, of_images = fit_one_class(some / means), fit_one_class(peaks / means)
        self.fusion.weights = torch.as_tensor(of_patches.weights, dtype=torch.float32)
        self.image_weights = torch.as_tensor(of_images.weights, dtype=torch.float32)

    def prepare(self, vectors: Tensor) -> Tensor:
        a, b = (
            part / float(scale)
            for part, scale in zip(torch.split(vectors, self.widths[:2], -1), self.channel_scales, strict=True)
        )
        return super().prepare(torch.cat([a, b, self.network.fuse(a, b)], -1))

    def compare(
        self, points: Tensor, grid: Grid, inspected: Tensor | None = None, exclude: int | None = None
    ) -> PatchScores:
        """Image: the weighted sum of the largest distance in each memory; patches: of their distances."""
        scores = super().compare(points, grid, inspected, exclude)
        assert scores.by_channel is not None
        largest = scores.by_channel.flatten(1).amax(1)
        return replace(scores, image=(largest * self.image_weights.to(largest.device)).sum())

    def take_in(self, items: Iterable[PatchFeatures]) -> None:
        held = [replace(item, vectors=self.prepare(item.vectors)) for item in items]
        super().take_in(held)

    def merge(self, others: Sequence[Any], skipped: Sequence[set[str]], names: Sequence[Mapping[str, str]]) -> Self:
        raise OptionError("m3dm models cannot be merged: each has learned a fusion of its own; fit one to all parts")

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "loss": self.loss, "memory_weights": self.fusion.weights.tolist()}

    def state(self) -> tuple[Memory, dict[str, Any]]:
        tensors, values = super().state()
        learned = {f"fusion/{name}": tensor.detach() for name, tensor in self.network.state_dict().items()}
        learned |= {"fusion.image_weights": self.image_weights, "fusion.channel_scales": self.channel_scales}
        return tensors | learned, values | {"loss": self.loss}

    def restore(self, tensors: Memory, values: dict[str, Any]) -> Self:
        self.network.load_state_dict({name: tensors[f"fusion/{name}"] for name in self.network.state_dict()})
        self.network.eval().requires_grad_(False)
        self.image_weights, self.loss = tensors["fusion.image_weights"].cpu(), values["loss"]
        self.channel_scales = tensors["fusion.channel_scales"].cpu()
        return super().restore(tensors, values)


class _OfImages(Sequence[tuple[Tensor, Tensor]]):
    """The features of both channels, of one image when it is asked for: of the patches that have points."""

    def __init__(self, features: FeatureStore):
        self._features = features

    def __len__(self) -> int:
        return len(self._features.refs)

    def __getitem__(self, i: Any) -> Any:
        rows = slice(self._features.starts[i], self._features.starts[i + 1])
        a, b = (part[rows] for part in self._features.parts)
        present = b.abs().sum(1) > 0
        found = a[present], b[present]
        self._features.release_pages()
        return found


@register
@dataclass(kw_only=True, eq=False)
class M3DM(Detector):
    """Three memories, of the picture, of the points and of a learned fusion of both, weighed by two one-class support
    vector machines.

    Args:
        point_weights: a file of Point-MAE's weights, for the channel "points".
        coreset: share of all patches to keep in each memory (by default 10 %, but no more than 10 000 patches).
        bank_size: how many patches to keep instead.
        search: how neighbours are found, see `patchbank.memory.search`.
        epochs: of the fusion's training.
        learning_rate: of AdamW (0.003 in the paper).
    Other options: `Options`. `channels` must be two.
    """

    method: ClassVar[str] = "m3dm"
    summary: ClassVar[str] = "memories of picture, points and a learned fusion of both; for RGB + 3D"
    cost: ClassVar[str] = "an image takes two or three banks; seconds to learn (m3dm.lite)"
    needs: ClassVar[str] = "geometry beside the picture, and weights of Point-MAE (m3dm.lite: none)"
    scorer_class: ClassVar[type[M3DMScorer]] = M3DMScorer
    presets: ClassVar[dict[str, dict[str, Any]]] = {"lite": {"channels": ("rgb", "curvature")}}
    without_effect: ClassVar[frozenset[str]] = frozenset({"fusion"})

    channels: tuple[str, ...] | None = ("rgb", "points")
    point_weights: str | None = None
    coreset: float | None = None
    bank_size: int | None = None
    search: str = "auto"
    epochs: int = 3
    learning_rate: float = 0.003

    def check(self) -> None:
        super().check()
        if self.channels is None or len(self.channels) != 2:
            raise OptionError(f"m3dm takes two channels, such as rgb,points, not {self.channels}")
        if "points" in self.channels and self.point_weights is None:
            raise OptionError(
                "m3dm needs weights of Point-MAE: give their file as point_weights (--set point_weights=FILE), or use "
                "m3dm.lite, which needs none"
            )
        BankSize(self.coreset, self.bank_size).check()
        check_bank_search(self.search, self.torch_device, 0)
        if self.epochs < 1:
            raise OptionError(f"epochs must be at least 1, not {self.epochs}")
        if not 0 < self.learning_rate <= 1:
            raise OptionError(f"learning_rate must lie in (0, 1], not {self.learning_rate}")

    def fuse(self, levels: Sequence[Levels], channels: Sequence[str]) -> M3DMScorer:
        a, b = levels
        both = Levels((*a.channels, *b.channels), a.strides, a.dimension + b.dimension)
        members = [greedy_scorer(self, each) for each in (a, b, both)]
        training = Training(
            self.epochs, batch=1, seed=self.seed, schedule="cosine", warmup=min(1, self.epochs - 1)
        )  # fmt: skip
        return M3DMScorer(members, channels, training, self.learning_rate, self.torch_device)
