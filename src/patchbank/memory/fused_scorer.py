"""Several channels of one sample, each with a memory of its own: their standardised distances become one map.

Late fusion (`memory.fusion`). The fused map is scored and calibrated as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

from patchbank.errors import OptionError, Progress
from patchbank.features.planning import Plan, plan_fit
from patchbank.features.store import FeatureStore, PatchFeatures
from patchbank.memory.fusion import Fusion
from patchbank.memory.good_distances import good_distances, peaks_of
from patchbank.sample import SampleRef
from patchbank.scorer import Grid, Memory, Origin, PatchScores, Scorer
from patchbank.scoring.displacement import Response

if TYPE_CHECKING:
    from patchbank.calibration.calibration import Calibration
    from patchbank.training.session import Session


class FusedScorer(Scorer):
    """One scorer for each of several `channels`, whose features lie beside each other.

    Args:
        members: the scorers, not fitted.
        channels: their names.
        fusion: how their distances become one, see `memory.fusion.Fusion`.
        device: of the memories.
        sigma: of the map's Gaussian, in pixels at the inspected size.
    """

    def __init__(
        self, members: Sequence[Any], channels: Sequence[str], fusion: str, device: torch.device, sigma: float = 0.0
    ):
        super().__init__(members[0].levels)
        self._sigma = sigma
        self.members, self.fusion = list(members), Fusion(fusion, channels)
        self.widths = [member.levels.dimension for member in members]  # of features
        first = members[0]
        self.localizes, self.keeps_grid = first.localizes, first.keeps_grid  # type: ignore[misc]
        self.keeps_patches, self.leaves_parts_out = first.keeps_patches, first.leaves_parts_out  # type: ignore[misc]
        self.can_reselect, self.can_add_held_out = first.can_reselect, first.can_add_held_out
        self.can_leave_out = all(member.can_leave_out for member in members)  # type: ignore[misc]
        self.learns_weights = first.learns_weights  # type: ignore[misc]
        self.loo_is_biased = any(member.loo_is_biased for member in members)
        self._prepared: list[int] = []  # widths of prepared vectors
        self._device = device

    @property
    def channel_names(self) -> tuple[str, ...]:
        """What the members see."""
        return self.fusion.channels

    # ---- learn -------------------------------------------------------------------------------------------------------

    def plan(self, images: int, patches: int, device: torch.device, budget: int | None) -> Plan:
        """All features are stored, also those of methods that would not need them one by one. The members learn one
        after the other, and the weights of all stay."""
        for member in self.members:
            member.reserved = self.reserved
        kept = max(member.kept(patches) for member in self.members)
        trained = [member.training_bytes(images, patches) for member in self.members]
        network = sum(weights for weights, _ in trained) + max(beside for _, beside in trained)
        options = self._plan_options() | {"network": network}
        return plan_fit(images, patches, sum(self.widths), kept, device, budget, **options)

    def _plan_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {}
        for member in self.members:
            for name, value in member.plan_options().items():
                options[name] = max(options.get(name, value), value)
        return options

    def begin(self, session: Session) -> None:
        session.of_each = len(self.members)
        for member in self.members:
            member.begin(session)

    def kept(self, patches: int) -> int:
        return sum(member.kept(patches) for member in self.members)

    def fit(self, features: FeatureStore, progress: Progress | None = None) -> Self:
        """Each member from its channel; then what good samples reach without themselves."""
        stores = [features.part(number) for number in range(len(self.members))]
        for member, store in zip(self.members, stores, strict=True):
            member.reserved = self.reserved
            member.fit(store, progress)
        self._weigh(features, stores)
        features.prepared = all(store.prepared for store in stores)
        self._note_widths()
        return self

    def _note_widths(self) -> None:
        empty = [torch.empty(0, width, device=self._device) for width in self.widths]
        self._prepared = [m.prepare(none).shape[-1] for m, none in zip(self.members, empty, strict=True)]

    def _weigh(self, features: FeatureStore, stores: Sequence[FeatureStore]) -> None:
        """How distances are standardised and weighed, by what good samples reach."""
        found = good_distances(self.members, features, stores)
        self.fusion.learn(found, lambda i, standard: peaks_of(features, i, standard, self._sigma))

    def revisit(self, points: Tensor) -> None:
        for member, part in self._with_parts(points):
            member.revisit(part)

    def normalise_scores(self, calibration: Calibration) -> Calibration:
        """As the first member does."""
        calibration = self.members[0].normalise_scores(calibration)
        self.normal = self.members[0].normal
        return calibration

    def release(self) -> None:
        for member in self.members:
            member.release()

    # ---- score -------------------------------------------------------------------------------------------------------

    def prepare(self, vectors: Tensor) -> Tensor:
        parts = torch.split(vectors, self.widths, -1)
        return torch.cat([member.prepare(part) for member, part in zip(self.members, parts, strict=True)], -1)

    def _split(self, points: Tensor) -> tuple[Tensor, ...]:
        return torch.split(points, self._prepared, -1)

    def _with_parts(self, points: Tensor) -> list[tuple[Any, Tensor]]:
        """Each member with its own part of P×D prepared patches."""
        return [(m, part.contiguous()) for m, part in zip(self.members, self._split(points), strict=True)]

    def compare(
        self, points: Tensor, grid: Grid, inspected: Tensor | None = None, exclude: int | None = None
    ) -> PatchScores:
        scores = [member.compare(part, grid, inspected, exclude) for member, part in self._with_parts(points)]
        if scores[0].distances is None:
            values = torch.stack([torch.as_tensor(s.image, dtype=torch.float32).reshape(()) for s in scores])
            return PatchScores(None, image=self.fusion(self.fusion.standardised(values)))
        standardised = self.fusion.standardised(torch.stack([score.distances for score in scores]))
        shares = self.fusion.shares(standardised)
        nearest = None
        if all(score.nearest is not None for score in scores):
            shifted = torch.stack([s.nearest + first for s, first in zip(scores, self._first_references, strict=True)])
            nearest = shifted.gather(0, shares.argmax(0)[None])[0]
        return PatchScores(self.fusion.joined(shares), nearest, by_channel=standardised)

    def gain(self, response: Response) -> Tensor | None:
        """The network's own response, through the first member that a network stands before."""
        for member, width in zip(self.members, self.widths, strict=True):
            if width == response.dimension:
                found: Tensor | None = member.gain(response)
                return found
        return None

    # ---- what it knows -----------------------------------------------------------------------------------------------

    @property
    def _first_references(self) -> list[int]:
        """References of member k begin here."""
        counts = [member.memory_vectors or 0 for member in self.members]
        return [sum(counts[:k]) for k in range(len(counts))]

    def channel_at(self, reference: int) -> str:
        """The channel that a reference into the memory belongs to."""
        return self.channel_names[int(np.searchsorted(self._first_references, reference, side="right")) - 1]

    def closest(self, points: Tensor, patch: int, count: int, exclude: int | None) -> list[tuple[int, float]]:
        """In the channel that has the largest share there."""
        found = [self.closest_in(number, points, patch, count, exclude) for number in range(len(self.members))]
        if not all(found):
            return []
        nearest = torch.tensor([each[0][1] for each in found])  # as of the patch that `compare` names
        shares = self.fusion.shares(nearest)
        return found[int(shares.argmax())]

    def closest_in(
        self, number: int, points: Tensor, patch: int, count: int, exclude: int | None
    ) -> list[tuple[int, float]]:
        """As `closest`, in the channel of that number; distances are standardised."""
        part, first = self._split(points)[number].contiguous(), self._first_references[number]
        offset, scale = float(self.fusion.offsets[number]), float(self.fusion.scales[number])
        found = self.members[number].closest(part, patch, count, exclude)
        return [(reference + first, (distance - offset) / scale) for reference, distance in found]

    def origin_of(self, references: NDArray[np.int64]) -> Origin:
        firsts = np.asarray(self._first_references)
        member = np.searchsorted(firsts, references, side="right") - 1
        origin = np.zeros((*references.shape, 3), np.int32)
        fineness = 1
        for k in np.unique(member):
            here = member == k
            origin[here], _, fineness = self.members[k].origin_of(references[here] - firsts[k])
        return origin, self.refs, fineness

    @property
    def refs(self) -> tuple[SampleRef, ...]:
        refs: tuple[SampleRef, ...] = self.members[0].refs
        return refs

    @property
    def memory_vectors(self) -> int | None:
        counts = [member.memory_vectors for member in self.members]
        return None if None in counts else sum(counts)

    @property
    def memory_mb(self) -> float:
        return float(sum(member.memory_mb for member in self.members))

    def facts(self) -> dict[str, Any]:
        found = {**self.members[0].facts(), "fusion": self.fusion.kind}
        if self.fusion.kind == "learned":
            found["fusion_weights"] = dict(zip(self.channel_names, self.fusion.weights.tolist(), strict=True))
        return found

    # ---- it grows, shrinks and is merged -----------------------------------------------------------------------------

    def _with(self, members: Sequence[Any]) -> Self:
        scorer = self.copied()
        scorer.members = list(members)
        return scorer

    def reselected(self, features: FeatureStore, held: Sequence[int]) -> Self:
        """Each member without some images."""
        stores = [features.part(number) for number in range(len(self.members))]
        return self._with([m.reselected(store, held) for m, store in zip(self.members, stores, strict=True)])

    def take_in(self, items: Iterable[PatchFeatures]) -> None:
        """Held-out images, channel by channel."""
        held = list(items)
        left = 0
        for member, width in zip(self.members, self.widths, strict=True):
            member.take_in([replace(item, vectors=item.vectors[:, left : left + width]) for item in held])
            left += width

    def grown(self, points: Tensor, features: FeatureStore, patches_so_far: int) -> Self:
        """In each channel, with those patches that its own bank needs."""
        return self._with([m.grown(part, features, patches_so_far) for m, part in self._with_parts(points)])

    def reach(self, points: Tensor) -> list[float]:
        return [radius for member, part in self._with_parts(points) for radius in member.reach(part)]

    def nearer(self, points: Tensor, radii: Sequence[float], place: Callable[[Tensor], NDArray[np.int32]]) -> Self:
        pairs = zip(self._with_parts(points), radii, strict=True)
        return self._with([member.nearer(part, [radius], place) for (member, part), radius in pairs])

    def thinned(self, count: int) -> Self:
        """Thinned to that many vectors, in all channels together."""
        return self._with([member.thinned(max(count // len(self.members), 1)) for member in self.members])

    def without(self, images: Sequence[int]) -> Self:
        """Without the vectors of some images, in all channels."""
        return self._with([member.without(images) for member in self.members])

    def merge(self, others: Sequence[Any], skipped: Sequence[set[str]], names: Sequence[Mapping[str, str]]) -> Self:
        """Channel by channel; distances stay standardised as in this one."""
        return self._with([
            member.merge([other.members[k] for other in others], skipped, names)
            for k, member in enumerate(self.members)
        ])  # fmt: skip

    # ---- files -------------------------------------------------------------------------------------------------------

    def state(self) -> tuple[Memory, dict[str, Any]]:
        tensors: Memory = self.fusion.state()
        values = []
        for name, member in zip(self.channel_names, self.members, strict=True):
            of_member, value = member.state()
            tensors |= {f"{name}/{key}": tensor for key, tensor in of_member.items()}
            values.append(value)
        return tensors, {"channels": values}

    def restore(self, tensors: Memory, values: dict[str, Any]) -> Self:
        self.fusion.restore(tensors)
        for name, member, value in zip(self.channel_names, self.members, values["channels"], strict=True):
            mine = {key.partition("/")[2]: t for key, t in tensors.items() if key.startswith(f"{name}/")}
            member.restore(mine, value)
        self.normal = self.members[0].normal
        self._note_widths()
        return self

    def export_memory(self, grid: Grid) -> tuple[Memory, dict[str, int]]:
        raise OptionError(
            "a model of several channels cannot be exported yet: fit one channel (--channels rgb), or use the service"
        )
