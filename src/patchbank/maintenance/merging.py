"""Several models made one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from patchbank.calibration.calibration import Calibration
from patchbank.calibration.position_scale import PositionScale
from patchbank.data.groups import FOUND
from patchbank.errors import OptionError
from patchbank.maintenance.record import known_images, known_names, recorded, unique
from patchbank.scorer import Mergeable, is_all

if TYPE_CHECKING:
    from patchbank.detector import Detector
    from patchbank.fitting import Fitted

_OF_FEATURES = (
    "channels", "fusion", "backbone", "levels", "image_size", "geometry", "aggregation", "patch_size", "stride",
    "align", "tile", "overlap",
)  # fmt: skip
_OF_SCORES = (
    "bank_dtype", "image_score", "sigma", "position_scale", "neighbours", "foreground", "covariance", "n_features",
    "variance", "radius", "spread", "spread_unit", "regions", "layer_wise", "patch_wise", "level_weights",
    "images_compared",
)  # fmt: skip


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
    return recorded(changed, fitted, "merged", learned=learned, patches=patches)


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
