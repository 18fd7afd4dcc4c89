"""Several channels of one sample, each with a memory of its own: their standardised distances become one map.

Late fusion: distances of different channels have different units, so each is standardised by what good parts reach when
they are left out of the memory. The fused map is scored and calibrated as any other.
"""

from __future__ import annotations

import math
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
from patchbank.sample import MADE_OF, SampleRef, parts_of
from patchbank.scorer import Grid, Memory, Origin, PatchScores, Scorer
from patchbank.scoring.displacement import Response
from patchbank.scoring.maps import anomaly_map
from patchbank.scoring.one_class import learned_weights

if TYPE_CHECKING:
    from patchbank.calibration.calibration import Calibration
    from patchbank.training.session import Session

_LOOKED_AT = 48  # good samples that distances are standardised by
_LEAST_SPREAD = 1e-6  # of the mean: of samples that are all the same
_NOBODY = -1  # the number of no sample
_BESIDE = {"holes": 0.5}  # weights of channels that show what no other channel of their source shows
_LEAST_REACH = 0.05  # of the mean peak: few samples say little of its spread


class FusedScorer(Scorer):
    """One scorer for each of several `channels`, whose features lie beside each other.

    Args:
        members: the scorers, not fitted.
        channels: their names.
        fusion: "map-sum", the sum of how unlikely each channel's map is among good samples (`surprise`), where n
            channels made of one source weigh √n together, and `holes` half as much as a picture; "max", the largest of
            them; "learned", a weighted sum of standardised distances, whose weights come from what good samples reach.
        device: of the memories.
        sigma: of the map's Gaussian, in pixels at the inspected size.
    """

    def __init__(
        self, members: Sequence[Any], channels: Sequence[str], fusion: str, device: torch.device, sigma: float = 0.0
    ):
        super().__init__(members[0].levels)
        self._sigma = sigma
        self.good_peaks = torch.tensor([[0.0, 1.0]] * len(members))  # mean and spread of the peaks of good maps
        self.members, self.channel_names, self.fusion = list(members), tuple(channels), fusion
        self.widths = [member.levels.dimension for member in members]  # of features
        self.offsets, self.scales = torch.zeros(len(members)), torch.ones(len(members))
        self.weights = torch.ones(len(members))
        first = members[0]
        self.localizes, self.keeps_grid = first.localizes, first.keeps_grid  # type: ignore[misc]
        self.keeps_patches, self.leaves_parts_out = first.keeps_patches, first.leaves_parts_out  # type: ignore[misc]
        self.can_reselect, self.can_add_held_out = first.can_reselect, first.can_add_held_out
        self.can_leave_out = all(member.can_leave_out for member in members)  # type: ignore[misc]
        self.learns_weights = first.learns_weights  # type: ignore[misc]
        self.loo_is_biased = any(member.loo_is_biased for member in members)
        self._prepared: list[int] = []  # widths of prepared vectors
        self._device = device

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
        """Mean and spread of each member's distances over patches of good samples; what the peaks of their maps reach;
        and the weights of the members."""
        found = self.good_distances(features, stores)
        patches = np.concatenate([distances.reshape(len(distances), -1).T for _, distances in found])
        self.offsets = torch.as_tensor(patches.mean(0), dtype=torch.float32)
        spread = patches.std(0)
        self.scales = torch.as_tensor(np.maximum(spread, _LEAST_SPREAD * patches.mean(0) + 1e-12), dtype=torch.float32)
        if self.fusion == "learned" and len(found) < 2:
            return  # nothing to learn from
        if self.fusion == "learned":
            standardised = (largest(found) - self.offsets.numpy()) / self.scales.numpy()
            self.weights = torch.as_tensor(learned_weights(standardised) * len(self.members), dtype=torch.float32)
            return
        peaks = np.stack([self._peaks(features, i, distances) for i, distances in found])
        logistic = np.maximum(peaks.std(0) * math.sqrt(3) / math.pi, _LEAST_REACH * np.abs(peaks.mean(0)) + 1e-12)
        self.good_peaks = torch.as_tensor(np.stack([peaks.mean(0), logistic], axis=1), dtype=torch.float32)
        if self.fusion == "map-sum":
            self.weights = torch.tensor(weights_of(self.channel_names))

    def _peaks(self, features: FeatureStore, i: int, distances: NDArray[np.float64]) -> NDArray[np.float32]:
        """K: the largest value of each member's map of sample i, whose distances are K×P, K×h×w, or K."""
        standard = self._standardised(torch.as_tensor(distances, dtype=torch.float32))
        if standard.ndim == 1:
            return standard.numpy()
        if i == _NOBODY:
            return np.asarray(standard.amax(1).numpy())
        view, inspected = features.views[i], _cells(features.inspected[i], standard.device)
        on_grid = PatchScores(standard[0], by_channel=standard).on_grid(features.refs[i].grid, inspected).by_channel
        assert on_grid is not None
        if inspected is not None and inspected.shape != on_grid.shape[1:]:
            inspected = None  # a finer grid: what is not inspected has distances of 0
        maps = [anomaly_map(grid, view.inspected, self._sigma, inspected) for grid in on_grid]
        return np.asarray([each.max() for each in maps], np.float32)

    def good_distances(
        self, features: FeatureStore, stores: Sequence[FeatureStore]
    ) -> list[tuple[int, NDArray[np.float64]]]:
        """What the members say of some good samples, each without its own patches, as far as a member can leave them
        out: the number of the sample, and K×P or K×h×w distances of its patches (K, for methods without a map)."""
        upright = [i for i, ref in enumerate(features.refs) if not ref.angle]
        some = upright[:: max(1, -(-len(upright) // _LOOKED_AT))]
        if len(set(parts_of(features.refs))) < 2:  # nothing is left without it
            return self._unknown(stores)
        known = []
        for i in some:
            of_members = []
            for member, store in zip(self.members, stores, strict=True):
                vectors = store.of_image(i)
                points = vectors if store.prepared else member.prepare(vectors)
                cells = _cells(features.inspected[i], points.device) if self.keeps_grid else None
                scores = member.compare(points, features.refs[i].grid, cells, i)
                found = scores.distances if scores.distances is not None else torch.as_tensor(scores.image)
                of_members.append(found.double().cpu().numpy())
            distances = np.stack(of_members)
            if np.isfinite(distances).all():  # not so where a bank comes from one image
                known.append((i, distances))
        return known or self._unknown(stores)

    def _unknown(self, stores: Sequence[FeatureStore]) -> list[tuple[int, NDArray[np.float64]]]:
        """In place of distances that nobody knows, of no sample: such that their mean and spread are the spread of the
        patches."""
        spreads = []
        for member, store in zip(self.members, stores, strict=True):
            vectors = store.of_image(0)
            points = (vectors if store.prepared else member.prepare(vectors)).float()
            spreads.append(float(points.std(0).square().sum().sqrt()) if len(points) > 1 else 1.0)
        return [(_NOBODY, np.maximum(spreads, 1e-12)[:, None] * np.array([[0.0, 2.0]]))]

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
            return PatchScores(None, image=self._fused(values)[0])
        distances = torch.stack([score.distances for score in scores])
        fused, dominant = self._fused(distances)
        nearest = None
        if all(score.nearest is not None for score in scores):
            shifted = torch.stack([s.nearest + first for s, first in zip(scores, self._first_references, strict=True)])
            nearest = shifted.gather(0, dominant[None])[0]
        return PatchScores(fused, nearest, by_channel=self._standardised(distances))

    @property
    def fuses_maps(self) -> bool:
        """Whether maps are fused after they were smoothed: where that is not the same as before."""
        return self.fusion in ("map-sum", "max")

    def fuse(self, standardised: Tensor) -> Tensor:
        """K×… standardised distances, of patches or of pixels → … fused."""
        return self._joined(self._shares(standardised))

    def _joined(self, shares: Tensor) -> Tensor:
        return shares.amax(0) if self.fusion == "max" else shares.sum(0)

    def _shares(self, standardised: Tensor) -> Tensor:
        """What each member contributes."""
        shape = (-1, *(1 for _ in standardised.shape[1:]))
        weights = self.weights.to(standardised.device).reshape(shape)
        if not self.fuses_maps:
            return standardised * weights
        mean, spread = (column.to(standardised.device).reshape(shape) for column in self.good_peaks.T)
        return surprise((standardised - mean) / spread) * weights

    def _standardised(self, values: Tensor) -> Tensor:
        """K×… distances of the members, in units of the spread over good samples."""
        shape = (-1, *(1 for _ in values.shape[1:]))
        offsets, scales = self.offsets.to(values.device), self.scales.to(values.device)
        return (values - offsets.reshape(shape)) / scales.reshape(shape)

    def _fused(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """K×… distances → … fused, and which member has the largest share."""
        shares = self._shares(self._standardised(values))
        return self._joined(shares), shares.argmax(0)

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
        shares = self._shares(torch.tensor([each[0][1] for each in found]))  # as of the patch that `compare` names
        return found[int(shares.argmax())]

    def closest_in(
        self, number: int, points: Tensor, patch: int, count: int, exclude: int | None
    ) -> list[tuple[int, float]]:
        """As `closest`, in the channel of that number; distances are standardised."""
        part, first = self._split(points)[number].contiguous(), self._first_references[number]
        offset, scale = float(self.offsets[number]), float(self.scales[number])
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
        found = {**self.members[0].facts(), "fusion": self.fusion}
        if self.fusion == "learned":
            found["fusion_weights"] = dict(zip(self.channel_names, self.weights.tolist(), strict=True))
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
        tensors: Memory = {"fusion.offsets": self.offsets, "fusion.scales": self.scales, "fusion.weights": self.weights,
                          "fusion.good_peaks": self.good_peaks}  # fmt: skip
        values = []
        for name, member in zip(self.channel_names, self.members, strict=True):
            of_member, value = member.state()
            tensors |= {f"{name}/{key}": tensor for key, tensor in of_member.items()}
            values.append(value)
        return tensors, {"channels": values}

    def restore(self, tensors: Memory, values: dict[str, Any]) -> Self:
        self.offsets, self.scales = tensors["fusion.offsets"].cpu(), tensors["fusion.scales"].cpu()
        self.weights, self.good_peaks = tensors["fusion.weights"].cpu(), tensors["fusion.good_peaks"].cpu()
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


def weights_of(channels: Sequence[str]) -> list[float]:
    """n channels of one source say nearly the same: together they weigh √n, not n."""
    sources = [MADE_OF.get(name, name) for name in channels]
    alike = [source for name, source in zip(channels, sources, strict=True) if name not in _BESIDE]
    return [_BESIDE.get(name) or alike.count(source) ** -0.5 for name, source in zip(channels, sources, strict=True)]


def surprise(x: Tensor) -> Tensor:
    """−log p of a logistic distribution, with p the share of good samples whose map somewhere exceeds x: log(1 + eˣ).

    Summed over channels this is Fisher's method ("Statistical Methods for Research Workers", 1925). A channel adds next
    to nothing where it lies below what good samples reach anyway, and in proportion to the excess above.
    """
    return torch.nn.functional.softplus(x)


def largest(found: Sequence[tuple[int, NDArray[np.float64]]]) -> NDArray[np.float64]:
    """N×K: the largest distance of each member over the patches of each sample."""
    return np.stack([distances.reshape(len(distances), -1).max(1) for _, distances in found])


def _cells(inspected: NDArray[np.bool_] | None, device: torch.device) -> Tensor | None:
    return None if inspected is None else torch.from_numpy(inspected).to(device)
