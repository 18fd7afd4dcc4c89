"""A bank that grows by further good images, or shrinks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from patchbank.calibration.calibration import Calibration, Row
from patchbank.data import Images
from patchbank.data.content import without_copies
from patchbank.data.groups import labelled
from patchbank.errors import MemoryBudgetError, OnError, OptionError, Progress
from patchbank.features.store import FeatureStore
from patchbank.io.thumbnails import make_thumbnails
from patchbank.maintenance.record import known_names, named_apart, recorded, tell_apart
from patchbank.scorer import Updatable, is_all

if TYPE_CHECKING:
    from patchbank.detector import Detector
    from patchbank.fitting import Fitted


def add(
    detector: Detector, images: Images, representative: bool, on_error: OnError, progress: Progress | None
) -> Fitted:
    """See `Detector.add`."""
    fitted = detector.require_fitted()
    scorer: Any = _updatable(detector, fitted)
    given, _ = without_copies(detector.gather(images, on_error, of="good"), fitted.inputs.channels)
    if representative:
        given = labelled(given, None, detector.group_by)
    unknown, _ = tell_apart(fitted, detector.folder, given)
    if not unknown:
        raise OptionError("all of these images are in the model already: there is nothing to add")
    sources, extractor = named_apart(fitted, detector.folder, unknown), detector.extractor
    readable = extractor.survey(detector.augmented(sources), on_error)
    patches = 3 * sum(count for _, count in readable)  # as they come, as the bank keeps them, and together
    plan = scorer.plan(len(readable), patches, detector.torch_device, detector.memory_budget)
    if plan.where not in ("memory", "stream"):
        raise MemoryBudgetError(f"{len(sources)} images do not fit into memory at once: add fewer at a time")
    features = extractor.collect([s for s, _ in readable], on_error, progress)
    points = torch.cat([scorer.prepare(vectors) for vectors in features.walk()])
    threshold, first = fitted.calibration.threshold, len(scorer.refs)
    grown = scorer.grown(points, features, fitted.training["patches"])
    upright = [i for i, ref in enumerate(features.refs) if not ref.angle]
    calibration, area = fitted.calibration, extractor.area
    if representative:
        rows = []
        for i in upright:
            ref, view, vectors = features.refs[i], features.views[i], grown.prepare(features.of_image(i))
            scored = fitted.post.score(grown, vectors, ref.grid, view, area(view), exclude=first + i)
            rows.append(Row(ref.name, scored.score, scored.peak, ref.group))
        calibration = calibration.joined(Calibration.of_rows(rows, calibration.false_alarm_rate))
    for i in upright:
        limit = min(threshold, calibration.threshold)
        grown = _accepting(grown, fitted, features, i, area(features.views[i]), first + i, limit)
    used = sum(t.length for t in fitted.thumbnails.values()) / 1e6
    pictures = make_thumbnails(sources, max(detector.thumbnails_mb - used, 0), fitted.inputs.values)
    changed = replace(
        fitted, scorer=grown, calibration=calibration, thumbnails={**fitted.thumbnails, **pictures}
    )  # fmt: skip
    added = [(features.refs[i].name, features.refs[i].digest) for i in upright]
    return recorded(changed, fitted, "added", learned=added, patches=len(features))


def _accepting(
    scorer: Any, fitted: Fitted, features: FeatureStore, i: int, area: Any, number: int, threshold: float
) -> Any:
    """The scorer with more patches of image i, until the image is not rejected any more."""
    ref, view, points = features.refs[i], features.views[i], scorer.prepare(features.of_image(i))

    def place(patches: torch.Tensor) -> Any:
        provenance = features.provenance(patches + features.starts[i])
        provenance[:, 0] = number
        return provenance

    radii: list[float] = scorer.reach(points)
    while max(radii) > 0:
        if fitted.post.score(scorer, points, ref.grid, view, area).score <= threshold:
            break
        radii = [radius / 2 if radius > 1e-6 else 0.0 for radius in radii]
        scorer = scorer.nearer(points, radii, place)
    return scorer


def forget(detector: Detector, names: Sequence[str]) -> Fitted:
    """See `Detector.forget`."""
    fitted = detector.require_fitted()
    scorer: Any = _updatable(detector, fitted)
    known = {_known_as(fitted, name) for name in names}
    gone = [i for i, ref in enumerate(scorer.refs) if ref.name in known]
    changed = replace(
        fitted,
        scorer=scorer.without(gone),
        calibration=fitted.calibration.without(known),
        thumbnails={name: t for name, t in fitted.thumbnails.items() if name not in known},
    )
    return recorded(changed, fitted, "forgot", forgotten=known, names=sorted(known))


def _known_as(fitted: Fitted, name: str) -> str:
    """The whole name of a training image."""
    names = known_names(fitted) | set(fitted.calibration.images)
    wanted = Path(name).parts
    found = {n for n in names if n == name} or {n for n in names if Path(n).parts[-len(wanted) :] == wanted}
    if len(found) != 1:
        what = f"could be {', '.join(sorted(found)[:3])}" if found else "is not among the images of this model"
        raise OptionError(f"{name}: {what}: give the name as the model has it (`patchbank info MODEL --images`)")
    return found.pop()


def _updatable(detector: Detector, fitted: Fitted) -> Any:
    if not is_all(fitted.scorer, Updatable):
        raise OptionError(
            f"{detector.method} has no bank that could grow or shrink: fit a new model (patchcore and lmf have one)"
        )
    return fitted.scorer
