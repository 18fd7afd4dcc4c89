"""What a model has learned from, and the record of what was done to it."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from patchbank._system.remote import is_remote
from patchbank.data import Sample, prefetch
from patchbank.data.content import digest_of

if TYPE_CHECKING:
    from patchbank.fitting import Fitted


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


def noted(training: dict[str, Any], what: str, **facts: Any) -> dict[str, Any]:
    """The summary of a fit with a further entry in its history."""
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {**training, "history": [*training.get("history", []), {"when": when, "what": what, **facts}]}


def recorded(
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
