"""Several detectors as one, such as PatchCore over several backbones: `PatchCore(backbone=["a", "b"])`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor
from typing_extensions import Self

from patchbank.calibration.calibration import CORRECTED, Calibration, standardised
from patchbank.data import Images, Source, gather
from patchbank.data.content import without_copies
from patchbank.errors import ImageError, OptionError
from patchbank.features.extractor import OnError, Progress, give_up, warn
from patchbank.features.planning import Plan
from patchbank.features.store import FeatureSet, ImageFeatures
from patchbank.methods.base import Detector
from patchbank.methods.method import PatchScores
from patchbank.prediction import Explanation, Prediction
from patchbank.scoring.decision import verdict
from patchbank.scoring.maps import peaks

_MACHINE = ("device", "runtime", "threads", "memory_budget")
_SHARED = 0.8  # of the images, that all members must have been calibrated on


@dataclass(kw_only=True, eq=False)
class Ensemble(Detector):
    """The mean of its members' image scores and maps, each standardised by its own calibration.

    members: detectors, fitted one after the other. The map threshold is that of the mean of the members' peaks, which
    is never below the peak of the mean map. `nearest` is the first member's.
    """

    method: ClassVar[str] = "ensemble"
    summary: ClassVar[str] = "the mean of several detectors, each standardised by its calibration"

    members: list[Detector] = field(default_factory=list)

    def __post_init__(self) -> None:
        from patchbank.methods import DETECTORS

        machine = {name: getattr(self, name) for name in _MACHINE}
        # from a model file they come as options
        self.members = [DETECTORS[m.pop("method")](**m, **machine) if isinstance(m, dict) else m for m in self.members]
        if len(self.members) < 2:
            raise OptionError("an ensemble takes at least two members, such as backbone=['a', 'b']")
        for member in self.members:
            if not member.localizes or isinstance(member, Ensemble):
                raise OptionError(f"an ensemble takes single methods that make a map, not {member.method}")
        for name in ("false_alarm_rate", "seed", *_MACHINE):
            setattr(self, name, getattr(self.members[0], name))
        self.backbone = "+".join(member.backbone for member in self.members)

    def parameters(self) -> dict[str, Any]:
        members = []
        for member in self.members:
            options = {k: v for k, v in member.parameters().items() if k not in (*_MACHINE, "roi")}
            members.append({"method": member.method, **options})
        return {"members": members}

    def _parts(self) -> list[Detector]:
        return self.members

    def fit(
        self,
        images: Images,
        *,
        groups: Sequence[object] | None = None,
        on_error: OnError = warn,
        progress: Progress | None = None,
        on_plan: Callable[[Plan], None] | None = None,
    ) -> Self:
        self.group_by = self.members[0].group_by
        # an iterator is walked through once
        sources, copies = without_copies(self._labelled(gather(images, on_error, of="good"), groups))
        if len({member.method for member in self.members}) > 1:  # all must be calibrated on the same images
            for member in self.members:
                member.calibration = CORRECTED if member.calibration == "auto" else member.calibration
        for number, member in enumerate(self.members):
            # an unreadable image is named once
            member.fit(sources, on_error=_silent if number else on_error, progress=progress, on_plan=on_plan)
            if number == 0:  # all must be calibrated by the same parts
                parts = dict(zip(member.calibration_.images, member.calibration_.groups, strict=False))
                sources = [replace(source, group=parts.get(source.name, source.group)) for source in sources]
        self.calibration_, self.thumbnails_ = self._combined(), self.members[0].thumbnails_
        self.values_ = self.members[0].values_
        training = [member.training_ for member in self.members]
        seconds = [t["fit_seconds"] for t in training]
        self.training_ = {
            **training[0],
            **({"copies": copies} if copies else {}),
            "patches": sum(t["patches"] for t in training),
            "fit_seconds": {key: sum(s[key] for s in seconds) for key in seconds[0]},
            "memory_mb": self.memory_mb,
            "memory_vectors": self.memory_vectors,
            **{key: "; ".join(str(t[key]) for t in training) for key in ("weights", "weights_sha256", "levels")},
        }
        del self.training_["history"]
        self._note("fitted", images=training[0]["images"], vectors=self.memory_vectors)
        return self

    def _combined(self) -> Calibration:
        all_of = [member.calibration_ for member in self.members]
        common = set.intersection(*(set(calibration.images) for calibration in all_of))
        first, *others = shared = all_of
        if _SHARED * max(map(len, all_of)) <= len(common):  # a file that went away meanwhile is no reason to give up
            first, *others = shared = [each.without(set(each.images) - common) for each in all_of]
        if any(other.images != first.images for other in others):
            raise OptionError("the members of an ensemble were calibrated on other images each: give them one seed")
        scores = [standardised(mine.scores, each.scores) for mine, each in zip(shared, all_of, strict=True)]
        # a method may have made the maps of some images only: NaN for the others
        peaks = [standardised(mine.peaks, each.peaks) for mine, each in zip(shared, all_of, strict=True)]
        return replace(first, scores=np.mean(scores, axis=0), peaks=np.mean(peaks, axis=0))

    def _inspected(
        self, sources: Iterable[Source], on_error: OnError, *, digests: bool = False
    ) -> Iterator[tuple[ImageFeatures, Prediction]]:
        """The features are the first member's."""
        for source in sources:
            try:
                together = self._together(source, digests)
            except ImageError as error:
                on_error(source.name, error)
            else:
                yield together

    def explain(
        self, image: Any, at: tuple[int, int] | None = None, count: int = 5, without_image: int | None = None
    ) -> Explanation:
        """As of a single detector; the nearest patches are those of the first member."""
        prediction = self.predict(image)
        places = [
            self.members[0].explain(image, p, count, without_image).places[0]
            for p in ([at] if at else peaks(prediction))
        ]
        return Explanation(prediction, tuple(replace(p, value=float(prediction.map[p.y, p.x])) for p in places))

    def _together(self, source: Source, digests: bool) -> tuple[ImageFeatures, Prediction]:
        inspected = [next(member._inspected([source], give_up, digests=digests)) for member in self.members]
        found = [prediction for _, prediction in inspected]
        calibrations = [member.calibration_ for member in self.members]
        pairs = list(zip(found, calibrations, strict=True))
        score = float(np.mean([standardised(np.float64(p.score), c.scores) for p, c in pairs]))
        mean_map = np.mean([standardised(p.map, c.peaks) for p, c in pairs], axis=0).astype(np.float32)
        timings = {key: sum(p.timings[key] for p in found) for key in found[0].timings}
        nearest = found[0]._nearest
        return inspected[0][0], verdict(
            source.name, score, mean_map, self.calibration_, nearest=nearest, timings=timings
        )

    # ---- the model file ----------------------------------------------------------------------------------------------

    @property
    def memory_vectors(self) -> int | None:
        counts = [member.memory_vectors for member in self.members]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def memory_mb(self) -> float:
        return sum(member.memory_mb for member in self.members)

    def _memory_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors: dict[str, Tensor] = {}
        values = []
        for i, member in enumerate(self.members):
            of_member, memory = member._memory_state()
            of_calibration, calibration = member.calibration_.state()
            of_member |= of_calibration
            tensors |= {f"{i}.{name}": tensor for name, tensor in of_member.items()}
            values.append({"memory": memory, "calibration": calibration, "training": member.training_})
        return tensors, {"members": values}

    def _restore_memory(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        for i, (member, value) in enumerate(zip(self.members, values["members"], strict=True)):
            mine = {name.partition(".")[2]: t for name, t in tensors.items() if name.startswith(f"{i}.")}
            member.calibration_ = Calibration.of(mine, value["calibration"])
            member.training_ = value["training"]
            member._restore_memory(mine, value["memory"])

    def _fit_memory(self, features: FeatureSet, progress: Progress | None) -> None:
        raise NotImplementedError("each member fits its own")

    def _compare(
        self, vectors: Tensor, grid: tuple[int, int], inside: Tensor | None, without_image: int | None
    ) -> PatchScores:
        raise NotImplementedError("each member compares its own")


def _silent(name: str, error: Exception) -> None:
    """An error that was told already."""
