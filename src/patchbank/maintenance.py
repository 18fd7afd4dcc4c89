"""Changes to a fitted model: another threshold, a memory that grows, shrinks or is merged, and the record of them.

Each function returns a new `Fitted`; the detector that it is given does not change.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from patchbank._system.remote import is_remote
from patchbank.calibration.calibration import Calibration, Row
from patchbank.calibration.position_scale import PositionScale
from patchbank.data import Images, Sample, gather, prefetch
from patchbank.data.content import digest_of, without_copies
from patchbank.data.groups import FOUND, labelled, say_near_copies
from patchbank.errors import DatasetError, MemoryBudgetError, OnError, OptionError, Progress, notify
from patchbank.features.store import FeatureStore
from patchbank.io.thumbnails import make_thumbnails
from patchbank.scorer import Mergeable, Updatable, is_all

if TYPE_CHECKING:
    from patchbank.detector import Detector
    from patchbank.fitting import Fitted

_TOO_LOW = "these images score far below the training images, as other pictures of the same parts do"
_OF_FEATURES = (
    "channels", "fusion", "backbone", "levels", "image_size", "geometry", "aggregation", "patch_size", "stride",
    "align", "tile", "overlap",
)  # fmt: skip
_OF_SCORES = (
    "bank_dtype", "image_score", "sigma", "position_scale", "neighbours", "foreground", "covariance", "n_features",
    "variance", "radius", "spread", "spread_unit", "regions", "layer_wise", "patch_wise", "level_weights",
    "images_compared",
)  # fmt: skip


# ---- another threshold -----------------------------------------------------------------------------------------------


def calibrate(
    detector: Detector,
    good: Images,
    defects: Images | None,
    groups: Sequence[object] | None,
    cost_ratio: float | None,
    on_error: OnError,
    progress: Progress | None,
) -> Fitted:
    """See `Detector.calibrate`."""
    fitted = detector.require_fitted()
    given = labelled(detector.gather(good, on_error, of="good"), groups, detector.group_by)
    sources, _ = without_copies(given, fitted.inputs.channels)
    unknown, known = tell_apart(fitted, detector.folder, sources)
    if known:
        raise OptionError(
            f"the model has learned from {len(known)} of these {len(sources)} images, such as {known[0].name}: "
            "calibrate with good images that it has not seen"
        )
    rows, seen = list[Row](), FeatureStore()
    for item, p in detector.inspected(named_apart(fitted, detector.folder, unknown), on_error):
        seen.add(item)
        peak = float(np.max(p.map, initial=-np.inf, where=~np.isnan(p.map)))
        rows.append(Row(p.path, p.score, peak, item.source.group))
        if progress:
            progress("good", len(rows), len(unknown))
    if not rows:
        raise DatasetError(f"none of the {len(sources)} images could be read")
    if not any(row.group for row in rows) and (found := seen.find_near_copies()) is not None:
        say_near_copies(found, [row.name for row in rows])
        rows = [row._replace(group=ref.group) for row, ref in zip(rows, seen.refs, strict=True)]
    calibration = replace(Calibration.of_rows(rows, fitted.calibration.false_alarm_rate), how="held-out")
    if calibration.scores_far_below(fitted.calibration):
        calibration = replace(calibration, doubt=_TOO_LOW)
        notify(f"{_TOO_LOW}: calibrate with pictures of parts that the model has not seen")
    if defects is not None:
        scores = [p.score for p in detector.predictions(gather(defects, on_error, of="defects"), on_error)]
        calibration = calibration.choose(scores, cost_ratio)
    how = calibration.chosen_by or "good images given for it"
    training = noted(fitted.training, "calibrated", images=len(rows), how=how)
    return replace(fitted, calibration=calibration, training=training)


# ---- a bank that grows and shrinks -----------------------------------------------------------------------------------


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
    return _recorded(changed, fitted, "added", learned=added, patches=len(features))


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
    return _recorded(changed, fitted, "forgot", forgotten=known, names=sorted(known))


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


# ---- several models --------------------------------------------------------------------------------------------------


def merge(detector: Detector, others: Sequence[Detector], bank_size: int | None) -> Fitted:
    """See `Detector.merge`."""
    fitted = detector.require_fitted()
    if not others:
        raise OptionError("merge takes at least one other model")
    if not is_all(fitted.scorer, Mergeable):
        raise OptionError(f"{detector.method} models cannot be merged: fit a new model to all images")
    if bank_size is not None and not all(
        hasattr(m, "thinned") for m in getattr(fitted.scorer, "members", [fitted.scorer])
    ):
        raise OptionError(f"bank_size is for models with a bank, not for {detector.method}")
    for other in others:
        _check_mergeable(detector, other)
    taken, mine = known_names(fitted), {digest for _, digest in known_images(fitted) if digest}
    values, calibration, thumbnails = fitted.inputs.values, fitted.calibration, dict(fitted.thumbnails)
    skipped, names, learned, patches = list[set[str]](), list[dict[str, str]](), list[tuple[str, str]](), 0
    for other in others:
        theirs = other.require_fitted()
        twice = _twice(theirs, mine)
        named = {name: unique(name, taken) for name in sorted(known_names(theirs))}
        taken |= set(named.values())
        mine |= {digest for _, digest in known_images(theirs) if digest}
        called = named | {f"{FOUND}{old}": f"{FOUND}{new}" for old, new in named.items()}
        skipped.append(twice)
        names.append(called)
        values = values | theirs.inputs.values
        calibration = calibration.joined(_renamed(theirs.calibration.without(twice), called))
        thumbnails |= {named.get(n, n): t for n, t in theirs.thumbnails.items() if n not in twice}
        learned += [(named[name], digest) for name, digest in known_images(theirs) if name not in twice]
        patches += theirs.training["patches"]
    mergeable: Any = fitted.scorer
    scorer = mergeable.merge([other.require_fitted().scorer for other in others], skipped, names)
    if bank_size is not None and bank_size < scorer.memory_vectors:
        scorer = scorer.thinned(bank_size)
    inputs = replace(fitted.inputs, values=values)
    post = replace(fitted.post, scale=_common_scale([fitted, *(other.require_fitted() for other in others)]))
    changed = replace(fitted, scorer=scorer, post=post, calibration=calibration, inputs=inputs, thumbnails=thumbnails)
    return _recorded(changed, fitted, "merged", learned=learned, patches=patches)


def _common_scale(models: Sequence[Fitted]) -> PositionScale | None:
    """The mean of what models divide their maps by, weighted by their images; None unless all have one."""
    scale, images = models[0].post.scale, models[0].training["images"]
    for model in models[1:]:
        if scale is None or model.post.scale is None:
            return None
        scale = scale.joined(images, model.post.scale, model.training["images"])
        images += model.training["images"]
    return scale


def _twice(other: Fitted, known: Collection[str]) -> set[str]:
    """Names of the images of another model whose digests are known already."""
    images = known_images(other)
    twice = {name for name, digest in images if digest in known}
    if twice and len(twice) == len(images):
        raise OptionError("the models cannot be merged: this one has learned from all images of the other already")
    return twice


def _renamed(calibration: Calibration, names: Mapping[str, str]) -> Calibration:
    images = tuple(names.get(name, name) for name in calibration.images)
    return replace(calibration, images=images, groups=tuple(names.get(group, group) for group in calibration.groups))


def _check_mergeable(detector: Detector, other: Detector) -> None:
    """Raise `OptionError` unless patches of both models are the same features."""
    if type(other) is not type(detector):
        raise OptionError(f"a {detector.method} model cannot be merged with one of {other.method}")
    mine, theirs = detector.parameters(), other.parameters()
    for name in (*_OF_FEATURES, *_OF_SCORES):
        if mine.get(name) != theirs.get(name):
            raise OptionError(
                f"the models cannot be merged: {name} is {mine.get(name)} in one, {theirs.get(name)} in the other"
            )
    one, two = detector.require_fitted(), other.require_fitted()
    if one.inputs.zoom != two.inputs.zoom:
        raise OptionError(
            f"the models cannot be merged: one enlarges its images {one.inputs.zoom:.3g} times, the other "
            f"{two.inputs.zoom:.3g} times: fit both with the same --image-size and enlarge=false"
        )
    if one.inputs.painted != two.inputs.painted:
        raise OptionError("the models cannot be merged: they have different regions of interest")
    reference = one.inputs.reference
    if detector.align and not (reference and reference.same_as(two.inputs.reference)):
        raise OptionError("the models cannot be merged: their images are aligned with different references")
    if one.training["weights_sha256"] != two.training["weights_sha256"]:
        raise OptionError("the models cannot be merged: they were fitted with different weights of the backbone")


# ---- what a model has learned from -----------------------------------------------------------------------------------


def known_images(fitted: Fitted) -> list[tuple[str, str]]:
    """Name and pixel digest of each image that was learned from; in files of format 2 the names that the calibration
    has, without digests."""
    if "learned_from" in fitted.training:
        return [(name, digest) for name, digest in fitted.training["learned_from"]]
    return [] if fitted.calibration.how == "held-out" else [(name, "") for name in fitted.calibration.images]


def known_names(fitted: Fitted) -> set[str]:
    """Names of images that were learned from."""
    return {name for name, _ in known_images(fitted)} | {ref.name for ref in fitted.scorer.refs}


def tell_apart(fitted: Fitted, folder: str, sources: list[Sample]) -> tuple[list[Sample], list[Sample]]:
    """The images that a model has not learned from, and those that it has: known by their pixels, or by their paths
    where the model has no digests. `folder`: what relative names are relative to."""
    images = known_images(fitted)
    digests = {digest for _, digest in images if digest}
    paths = {os.path.normpath(os.path.join(folder, n)) for n, digest in images if not digest and not is_remote(n)}
    unknown: list[Sample] = []
    known: list[Sample] = []
    read = partial(digest_of, values=fitted.inputs.values)
    for source, digest in zip(sources, prefetch(read, sources), strict=True):
        old = source.path is not None and os.path.abspath(source.name) in paths
        (known if digest in digests or old else unknown).append(source)
    return unknown, known


def named_apart(fitted: Fitted, folder: str, sources: list[Sample]) -> list[Sample]:
    """The sources under names that no image of the model has: absolute where relative ones mean another folder."""
    taken, named = known_names(fitted), []
    for source in sources:
        name = source.name
        if source.path is not None and folder != os.getcwd() and not is_remote(name):
            name = os.path.abspath(name)
        named.append(replace(source, name=unique(name, taken)))
        taken.add(named[-1].name)
    return named


def unique(name: str, taken: Collection[str]) -> str:
    """The name, with a number behind it where it is taken."""
    numbered = (f"{name} ({i})" for i in itertools.count(2))
    return name if name not in taken else next(n for n in numbered if n not in taken)


# ---- the record ------------------------------------------------------------------------------------------------------


def noted(training: dict[str, Any], what: str, **facts: Any) -> dict[str, Any]:
    """The summary of a fit with a further entry in its history."""
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {**training, "history": [*training.get("history", []), {"when": when, "what": what, **facts}]}


def _recorded(
    changed: Fitted,
    before: Fitted,
    what: str,
    *,
    learned: Sequence[tuple[str, str]] = (),
    forgotten: Collection[str] = (),
    patches: int = 0,
    **facts: Any,
) -> Fitted:
    """The changed model with its summary. `learned`: names and digests of new images."""
    training, images = before.training, len(learned) - len(forgotten)
    known = [[name, digest] for name, digest in known_images(before) if name not in forgotten]
    scorer = changed.scorer
    training = {
        **training,
        "images": training["images"] + images,
        "learned_from": known + [[name, digest] for name, digest in learned],
        "patches": training["patches"] + patches,
        "memory_vectors": scorer.memory_vectors,
        "memory_mb": scorer.memory_mb,
    }
    facts |= {"vectors": scorer.memory_vectors, "vectors_before": before.scorer.memory_vectors}
    if (bank := getattr(scorer, "bank", None)) is not None:
        radius = bank.covering_radius
        facts["covering_radius"] = radius if math.isfinite(radius) else None
    training = noted(training, what, **({"images": images} if images > 0 else {}), **facts)
    return replace(changed, training=training)
