"""Several detectors as one, such as PatchCore over several backbones: `PatchCore(backbone=["a", "b"])`."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from typing_extensions import Self

from patchbank.calibration.calibration import CORRECTED, Calibration
from patchbank.calibration.monitor import FitMonitor
from patchbank.calibration.schemes import LEAST_HELD_OUT
from patchbank.data import Images, Sample, gather, zoom_for
from patchbank.data.content import without_copies
from patchbank.data.groups import labelled
from patchbank.detector import Detector
from patchbank.errors import ImageError, OnError, OptionError, give_up
from patchbank.explain import one_source
from patchbank.features.store import PatchFeatures
from patchbank.fitting import Cluster, Fitted
from patchbank.maintenance import noted
from patchbank.prediction import Explanation, Prediction
from patchbank.registry import METHODS, register_combination
from patchbank.scorer import Memory, Scorer
from patchbank.scoring.combined import combined
from patchbank.scoring.decision import decide
from patchbank.scoring.maps import peaks
from patchbank.scoring.together import BY_MEAN_MAP, together

MACHINE = ("device", "runtime", "threads", "memory_budget")


class EnsembleMemory(Scorer):
    """Those of the members. `by_mean_map`: how the image score is made, see `Ensemble`."""

    def __init__(self, members: Sequence[Detector], by_mean_map: bool):
        super(Scorer, self).__init__()
        self.by_mean_map: bool = by_mean_map
        self.scorers = [member.require_fitted().scorer for member in members]

    @property
    def memory_vectors(self) -> int | None:
        counts = [scorer.memory_vectors for scorer in self.scorers]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def memory_mb(self) -> float:
        return sum(scorer.memory_mb for scorer in self.scorers)


class Ensemble(Detector):
    """The mean of its members' maps, each standardised by its own calibration.

    Where each member's image score is the peak of its map, re-weighted or not, the score is the peak of the mean map
    (`scoring.together.score_together`); else it is the mean of the members' standardised scores. `nearest` is the first
    member's.

    Args:
        members: detectors, fitted one after the other.
        options: of `Options`, for every member.

    Raises:
        OptionError: there are fewer than two members, or they cannot be one ensemble.
    """

    method: ClassVar[str] = "ensemble"
    summary: ClassVar[str] = "the mean of several detectors' maps, each standardised by its calibration"
    scorer_class: ClassVar[type[Scorer]] = EnsembleMemory

    members: list[Detector]

    def __init__(self, *, members: Sequence[Detector | dict[str, Any]] = (), **options: Any) -> None:
        unknown = sorted(options.keys() - set(Detector.parameter_names()))
        if unknown or "backbone" in options:
            raise OptionError(f"an ensemble has no option {(unknown or ['backbone'])[0]}: give it to the members")
        # from a model file they come as options
        made = [METHODS[m["method"]](**_without_method(m)) if isinstance(m, dict) else copy.copy(m) for m in members]
        if len(made) < 2:
            raise OptionError("an ensemble takes at least two members, such as backbone=['a', 'b']")
        for member in made:
            if not member.localizes or isinstance(member, Ensemble):
                raise OptionError(f"an ensemble takes single methods that make a map, not {member.method}")
            for name, value in options.items():
                setattr(member, name, value)
            member.in_ensemble = True
        rates = sorted({member.false_alarm_rate for member in made})
        if len(rates) > 1:
            raise OptionError(
                f"the members differ in false_alarm_rate ({rates[0]}, {rates[-1]}): give the ensemble one"
            )
        shared = {name: getattr(made[0], name) for name in Detector.parameter_names()}
        super().__init__(**shared | {"backbone": "+".join(member.backbone for member in made)})
        self.members = made

    def parameters(self) -> dict[str, Any]:
        members = []
        for member in self.members:
            options = {k: v for k, v in member.parameters().items() if k not in (*MACHINE, "roi", "depth")}
            members.append({"method": member.method, **options})
        return {"members": members}

    def parts(self) -> Sequence[Detector]:
        return self.members

    @property
    def by_mean_map(self) -> bool:
        """Whether the image score is the peak of the mean map; that of the members' scores otherwise."""
        memory = self.require_fitted().scorer
        assert isinstance(memory, EnsembleMemory)
        return memory.by_mean_map

    def check(self) -> None:
        for member in self.members:
            member.check()

    # ---- the flow ----------------------------------------------------------------------------------------------------

    def _fit(
        self, images: Images, groups: Sequence[object] | None, monitor: FitMonitor, cluster: Cluster | None = None
    ) -> Self:
        if cluster is not None:
            raise OptionError("an ensemble cannot be fitted on a cluster: fit its members one by one")
        on_error = monitor.on_error
        # an iterator is walked through once
        given = labelled(gather(images, on_error, of="good"), groups, self.group_by)
        sources, copies = without_copies(given, list(dict.fromkeys(name for one in given for name in one.channels)))
        members = [copy.copy(member) for member in self.members]  # those in use stay as they are until all are fitted
        scheme_of_all = _common_scheme(members, len(sources))
        for number, member in enumerate(members):
            scheme = member.calibration
            if scheme == "auto":
                member.calibration = scheme_of_all
            # an unreadable image is named once
            told = _silent if number else on_error
            of_member = replace(monitor, on_error=told, seconds={}, labels={})
            with member.context.active():
                member._fit(sources, None, of_member, None)
            member.calibration = scheme
            if number == 0:  # all must be calibrated by the same parts
                parts = of_member.labels
                sources = [replace(source, group=parts.get(source.name, source.group)) for source in sources]
        first = members[0].require_fitted()
        calibration, by_mean_map = combined([member.calibration_ for member in members])
        memory, training = EnsembleMemory(members, by_mean_map), [member.training_ for member in members]
        seconds = [t["fit_seconds"] for t in training]
        summary = {
            **training[0],
            **({"copies": copies} if copies else {}),
            "patches": sum(t["patches"] for t in training),
            "fit_seconds": {key: sum(s.get(key, 0.0) for s in seconds) for key in seconds[0]},
            "memory_mb": memory.memory_mb,
            "memory_vectors": memory.memory_vectors,
            **{key: "; ".join(str(t[key]) for t in training) for key in ("weights", "weights_sha256", "levels")},
        }
        del summary["history"]
        summary = noted(summary, "fitted", images=training[0]["images"], vectors=memory.memory_vectors)
        for member in members:  # what only the joint calibration needed
            alone = member.require_fitted()
            member.fitted = replace(alone, calibration=replace(alone.calibration, cells=None, apart=None))
        fitted = replace(first, scorer=memory, calibration=calibration, training=summary)
        self.__dict__.update(members=members, fitted=fitted)  # at once
        return self

    def inspected(
        self, sources: Iterable[Sample], on_error: OnError, *, digests: bool = False
    ) -> Iterator[tuple[PatchFeatures, Prediction]]:
        """The features are the first member's."""
        self.require_fitted()
        for source in sources:
            try:
                found = self._together([next(m.inspected([source], give_up, digests=digests)) for m in self.members])
            except ImageError as error:
                on_error(source.name, error)
            else:
                yield found

    def explained(self, source: Sample, exclude: int | None) -> tuple[PatchFeatures, Prediction]:
        return self._together([member.explained(source, exclude) for member in self.members])

    def explain(
        self, image: Any, at: tuple[int, int] | None = None, count: int = 5, without_image: int | None = None
    ) -> Explanation:
        """As of a single detector; the nearest patches are those of the first member."""
        source = one_source(image, at, count)
        _, prediction = self.explained(source, without_image)
        places = [
            self.members[0].explain(source, p, count, without_image).places[0]
            for p in ([at] if at else peaks(prediction))
        ]
        return Explanation(prediction, tuple(replace(p, value=float(prediction.map[p.y, p.x])) for p in places))

    def _together(self, found: list[tuple[PatchFeatures, Prediction]]) -> tuple[PatchFeatures, Prediction]:
        """One prediction of those of the members."""
        item, first = found[0]
        pairs = [(p, member.calibration_) for (_, p), member in zip(found, self.members, strict=True)]
        score, mean_map, timings = together(pairs, self.by_mean_map)
        return item, decide(
            first.path, score, mean_map, self.calibration_, nearest=first._nearest, timings=timings
        )  # fmt: skip

    # ---- the model file ----------------------------------------------------------------------------------------------

    def memory_state(self) -> tuple[Memory, dict[str, Any]]:
        tensors: Memory = {}
        values = []
        for i, member in enumerate(self.members):
            of_member, memory = member.memory_state()
            of_calibration, calibration = member.calibration_.state()
            of_member |= of_calibration
            tensors |= {f"{i}.{name}": tensor for name, tensor in of_member.items()}
            zoom = {} if member.inputs_.zoom == 1 else {"zoom": member.inputs_.zoom}
            values.append({"memory": memory, "calibration": calibration, "training": member.training_, **zoom})
        return tensors, {"members": values, **({"score": BY_MEAN_MAP} if self.by_mean_map else {})}

    def restore(self, tensors: Memory, values: dict[str, Any], common: Fitted) -> None:
        for i, (member, value) in enumerate(zip(self.members, values["members"], strict=True)):
            mine = {name.partition(".")[2]: t for name, t in tensors.items() if name.startswith(f"{i}.")}
            calibration = Calibration.of(mine, value["calibration"])
            inputs = common.inputs if member.align else replace(common.inputs, reference=None)
            zoom = value.get("zoom", 1.0)
            inputs = replace(inputs, channels=member.channels or inputs.channels, zoom=zoom or 1.0)
            own = replace(common, calibration=calibration, training=value["training"], inputs=inputs)
            member.restore(mine, value["memory"], own)
            if zoom is None and (found := _zoom_again(member)) != 1:
                member.restore(mine, value["memory"], replace(own, inputs=replace(inputs, zoom=found)))
        first = self.members[0].require_fitted()
        memory = EnsembleMemory(self.members, values.get("score") == BY_MEAN_MAP)
        self.fitted = replace(common, scorer=memory, post=first.post)


def _common_scheme(members: Sequence[Detector], images: int) -> str:
    """The calibration of members that were not given one: all must be calibrated on the same images."""
    if len({member.method for member in members}) == 1:
        return "auto"
    # a bank says of each image how it scores without it; weights only of those that were held out, or in many trainings
    all_can_leave_out = all(member.scorer_class.can_leave_out for member in members)
    return CORRECTED if all_can_leave_out or images < LEAST_HELD_OUT else "held-out"


def _zoom_again(member: Detector) -> float:
    """What a member enlarges small pictures by, where its file does not say: by the training images that it knows."""
    fitted = member.require_fitted()
    if not member.enlarges(fitted.inputs.channels):
        return 1.0
    sizes = [ref.size for ref in fitted.scorer.refs] or [fitted.training["usual_size"]]
    return zoom_for(map(min, sizes), member.option("image_size"))


def _without_method(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "method"}


def _silent(name: str, error: Exception) -> None:
    """An error that was told already."""


register_combination(Ensemble)
