"""The memory of a method and how it scores patches: what a method's file defines.

A `Scorer` is fitted once, from a `FeatureStore`, and scores the patches of one image after that. The same `compare`
runs eagerly, on a GPU, and traced for an export, where `traced` puts searches in its place that graph formats have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import Self

from patchbank._system.passing import packed, unpacked
from patchbank.errors import Progress
from patchbank.features.levels import Levels
from patchbank.features.planning import Plan, plan_fit
from patchbank.features.store import FeatureStore
from patchbank.sample import SampleRef
from patchbank.scoring.displacement import Response
from patchbank.scoring.patch_scores import Grid, PatchScores

if TYPE_CHECKING:
    from patchbank.calibration.calibration import Calibration
    from patchbank.training.session import Session

__all__ = [
    "Grid",
    "Levels",
    "Memory",
    "Mergeable",
    "Origin",
    "PatchScores",
    "Scorer",
    "Updatable",
    "by_channel",
    "is_all",
    "lengths",
    "masked",
    "pick",
]

Memory: TypeAlias = dict[str, Tensor]
Origin: TypeAlias = tuple[NDArray[np.int32], tuple[SampleRef, ...], int]


class Scorer(nn.Module):
    """A method's memory. Its constructor takes options and `levels`; `fit` or `restore` fills it.

    Tensors of the memory are plain attributes, not buffers: an export decides whether they lie in the graph.
    """

    localizes: ClassVar[bool] = True  # whether it makes a map
    keeps_grid: ClassVar[bool] = False  # whether it needs all patches, also those that are not inspected
    keeps_patches: ClassVar[bool] = False  # whether it can name the nominal patch that a position was compared with
    leaves_parts_out: ClassVar[bool] = False  # whether its leave-one-out leaves all pictures of a part out
    learns_weights: ClassVar[bool] = False  # whether a loop trains it, which may last long
    learns_in_shards: ClassVar[bool] = False  # whether several processes can fit it; said by each class for itself
    folds_images: ClassVar[bool] = False  # whether it learns by `FeatureStore.fold`
    can_leave_out: ClassVar[bool] = True  # whether it scores a training image as if it had not learned from it
    can_reselect: bool = False  # whether a memory without some images can be had from the stored features
    can_add_held_out: bool = False  # whether held-out images can be taken in so that no score grows by it
    loo_is_biased: bool = False  # whether leave-one-out scores are too high: no substitutes for the removed patches
    reserved: float = 0.0  # share of the memory that `fit` keeps free for held-out images
    normal: tuple[float, float] = (0.0, 1.0)  # what image scores are shifted and divided by

    def __init__(self, levels: Levels):
        super().__init__()
        self.levels = levels

    # ---- learn -------------------------------------------------------------------------------------------------------

    def plan(self, images: int, patches: int, device: torch.device, budget: int | None) -> Plan:
        """Where the features of a fit go, forecast. Raises `MemoryBudgetError` for one that cannot fit."""
        kept = self.kept(patches)
        return plan_fit(images, patches, self.levels.dimension, kept, device, budget, **self.plan_options())

    def plan_options(self) -> dict[str, Any]:
        """What else the forecast must know, as keywords of `plan_fit`."""
        return {}

    def kept(self, patches: int) -> int:
        """How many of N patches the memory keeps, for the forecast."""
        return 0

    def training_bytes(self, images: int, patches: int) -> tuple[int, int]:
        """Bytes of the weights that are learned, and of what their training takes beside them, for the forecast."""
        return 0, 0

    def begin(self, session: Session) -> None:
        """Hear of the session that a training belongs to, before `fit`."""

    def fit(self, features: FeatureStore, progress: Progress | None = None) -> Self:
        """Learn from the patches of the nominal images."""
        raise NotImplementedError

    def release(self) -> None:
        """Let go of what only learning and the calibration needed."""

    # ---- score -------------------------------------------------------------------------------------------------------

    def forward(
        self, vectors: Tensor, grid: Grid, inspected: Tensor | None = None, exclude: int | None = None
    ) -> PatchScores:
        """P×D patch features of an image on their grid → scores; a graph gives those of a batch, B×P×D.

        Args:
            vectors: of all cells, or of those that are inspected where the method does not need all of them.
            grid: (rows, columns).
            inspected: which cells of the grid count, None for all.
            exclude: the number of a training image, whose part is left out of the memory.
        """
        return self.compare(self.prepare(vectors), grid, inspected, exclude)

    def prepare(self, vectors: Tensor) -> Tensor:
        """P×D patches of an image → the space of the memory."""
        return vectors

    def compare(
        self, points: Tensor, grid: Grid, inspected: Tensor | None = None, exclude: int | None = None
    ) -> PatchScores:
        """As `forward`, for prepared patches; traced also for a batch, B×P×D."""
        raise NotImplementedError

    def quick_score(self, i: int, images: int, points: Tensor, inspected: NDArray[np.bool_] | None) -> float | None:
        """The image score of training image i of N without its part, where a map of each would take too long; None
        where the calibration is to make it."""
        return None

    def gain(self, response: Response) -> Tensor | None:
        """The weight of each dimension of a feature in squared distances, D, given how each responds; None: the same.
        Where levels keep their own resolution, of each channel."""
        return None

    def revisit(self, points: Tensor) -> None:
        """Hear of every training image once more, on the walk of leave-one-out."""

    def normalise_scores(self, calibration: Calibration) -> Calibration:
        """What a method makes of the scores of nominal images."""
        return calibration

    # ---- what it knows -----------------------------------------------------------------------------------------------

    def closest(self, points: Tensor, patch: int, count: int, exclude: int | None) -> list[tuple[int, float]]:
        """The nearest patch of each of `count` training images to one of P×D prepared patches, as references into the
        memory with distances; none where the method keeps none, or can tell only the nearest."""
        return []

    def channel_at(self, reference: int) -> str:
        """The channel that a reference into the memory belongs to; "" for a scorer of one channel."""
        return ""

    def origin_of(self, references: NDArray[np.int64]) -> Origin:
        """Where references into the memory come from: image, row and column of each, …×3; the images; and how many rows
        and columns a cell of their grids has."""
        raise NotImplementedError

    @property
    def refs(self) -> tuple[SampleRef, ...]:
        """The images that its patches come from, as far as it keeps them."""
        return ()

    @property
    def memory_vectors(self) -> int | None:
        """How many vectors the memory holds; None where it is no bank."""
        return None

    @property
    def memory_mb(self) -> float:
        """MB of what new images are compared with."""
        tensors, _ = self.state()
        return sum(t.numel() * t.element_size() for t in tensors.values() if t.is_floating_point()) / 1e6

    def facts(self) -> dict[str, Any]:
        """What `patchbank info` says about the memory."""
        return {}

    # ---- files, processes, exports -----------------------------------------------------------------------------------

    def state(self) -> tuple[Memory, dict[str, Any]]:
        """The memory as tensors and plain values, for the model file."""
        raise NotImplementedError

    def restore(self, tensors: Memory, values: dict[str, Any]) -> Self:
        """The inverse of `state`."""
        raise NotImplementedError

    def on_cpu(self) -> Self:
        """A copy whose own tensors lie on the CPU; what `export_memory` gives is on it anyway."""
        scorer = self.copied()
        for name, value in self.__dict__.items():
            if isinstance(value, Tensor):
                scorer.__dict__[name] = value.detach().cpu()
        return scorer

    def copied(self) -> Self:
        """A shallow copy: what is set on it is not set on this one."""
        scorer: Self = object.__new__(type(self))
        scorer.__dict__.update(self.__dict__)
        return scorer

    def __getstate__(self) -> dict[str, Any]:
        # arrays: torch would move tensors that go to another process into memory that both share
        state: dict[str, Any] = packed(self.__dict__)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(unpacked(state))  # type: ignore[no-untyped-call]

    def export_memory(self, grid: Grid) -> tuple[Memory, dict[str, int]]:
        """The memory for a graph of images with that patch grid: tensors by name, and which of their axes may have
        another length in another memory. Raises `OptionError` for what no graph can hold."""
        raise NotImplementedError

    def traced(self, memory: Memory, grid: Grid) -> Self:
        """This scorer over `export_memory`, in operations that every graph format has, for a batch: B×P×D."""
        raise NotImplementedError


@runtime_checkable
class Mergeable(Protocol):
    """A memory that can take in others that were learned apart."""

    def merge(self, others: Sequence[Any], skipped: Sequence[set[str]], names: Sequence[dict[str, str]]) -> Any:
        """A new memory of all. `skipped`: names of images of each other that count once; `names`: new ones."""
        ...


@runtime_checkable
class Updatable(Protocol):
    """A memory that can take further images in, and forget some."""

    def grown(self, points: Tensor, features: FeatureStore, patches_so_far: int) -> Any:
        """With those of the prepared patches of a store that enter; all of its images are listed."""
        ...

    def reach(self, points: Tensor) -> list[float]:
        """The largest distance of prepared patches to each of its banks."""
        ...

    def nearer(self, points: Tensor, radii: Sequence[float], place: Callable[[Tensor], NDArray[np.int32]]) -> Any:
        """With those of the prepared patches of a listed image that each bank needs for its radius; `place`: numbers of
        patches → image among those listed, row and column."""
        ...

    def without(self, images: Sequence[int]) -> Any: ...


def is_all(scorer: Any, kind: type[Mergeable] | type[Updatable]) -> bool:
    """Whether a memory is of that kind, and so are those that it is made of."""
    return isinstance(scorer, kind) and all(isinstance(member, kind) for member in getattr(scorer, "members", ()))


def by_channel(scorer: Any, scored: Any) -> dict[str, float]:
    """How far the patches at the peak of a fused map are from good ones in each channel, in standard deviations of good
    ones; empty for a scorer of one channel."""
    if scored.by_channel is None:
        return {}
    return {name: float(value) for name, value in zip(scorer.channel_names, scored.by_channel, strict=True)}


# ---- what several scorers share, eagerly and traced ------------------------------------------------------------------


def masked(distances: Tensor, inspected: Tensor | None) -> Tensor:
    """…×P distances, 0 where the grid is not inspected (bool eagerly, 0 and 1 in a graph)."""
    if inspected is None:
        return distances
    if inspected.dtype == torch.bool:
        return distances.masked_fill(~inspected.reshape(distances.shape[-1]), 0.0)
    return distances * inspected.reshape(1, -1)


def pick(values: Tensor, index: Tensor) -> Tensor:
    """…×P or …×P×D, and one of P for each of … → …, or …×D."""
    if index.ndim == 0:
        return values[index]
    if values.ndim == 2:
        return values.gather(1, index[:, None])[:, 0]
    return values.gather(1, index[:, None, None].expand(-1, 1, values.shape[2]))[:, 0]


def lengths(vectors: Tensor) -> Tensor:
    """Euclidean lengths along the last axis."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]  # not all graph formats have norms
        return vectors.square().sum(-1).sqrt()
    found: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return found
