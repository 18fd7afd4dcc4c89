"""Banks that live: they take further images in, forget some, and join."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from patchbank.calibration.calibration import FOUND, Calibration, Row
from patchbank.data import Images, Source, gather
from patchbank.data.content import without_copies
from patchbank.errors import MemoryBudgetError, OptionError
from patchbank.features.extractor import OnError, Progress, warn
from patchbank.features.store import FeatureSet
from patchbank.io.thumbnails import make_thumbnails
from patchbank.memory.bank import Bank, TrainingImage
from patchbank.memory.coreset import SAMPLERS
from patchbank.methods.base import Detector
from patchbank.methods.changes import Changes, unique
from patchbank.methods.work import Work


@dataclass(kw_only=True, eq=False)
class LivingBank(Detector):
    """A detector whose memory is a bank of vectors."""

    bank_: Bank = dataclasses.field(init=False, repr=False)

    def add(
        self,
        images: Images,
        *,
        representative: bool = False,
        on_error: OnError = warn,
        progress: Progress | None = None,
    ) -> Self:
        """Take further good images in, such as false alarms that a person overruled; those in the bank already are
        passed over.

        Patches enter that are farther from the bank than its covering radius, farthest first, so the radius holds for
        the new images as it did for the old ones (where it is not known: the same share of them, at random). Where
        a new image would still be rejected, more of its patches enter until it is not.

        The threshold stays: images that were picked for their high scores say nothing of how good parts score. With
        `representative` (a fair sample of good parts, not picked) the new images' scores join the calibration, each
        without the image's own patches; those of the old images stay, and can only be too high.
        """
        given, _ = without_copies(gather(images, on_error, of="good"))
        if representative:
            given = self._labelled(given, None)
        unknown, _ = self._unknown(given)
        if not unknown:
            raise OptionError("all of these images are in the model already: there is nothing to add")
        sources = self._named_apart(unknown)
        readable = self._open().survey(self._views(sources), on_error)
        patches = 3 * sum(count for _, count in readable)  # as they come, as the bank keeps them, and together
        if self._plan(len(readable), patches).where not in ("memory", "stream"):
            raise MemoryBudgetError(f"{len(sources)} images do not fit into memory at once: add fewer at a time")
        features = self._open().collect([s for s, _ in readable], on_error, progress)
        points = torch.cat([self._as_kept(self._prepare(vectors)) for vectors in features.walk()])
        before, threshold, first = len(self.bank_), self.calibration_.threshold, len(self.bank_.images)
        chosen = self._entering(points)
        entering = points[chosen.to(points.device)]
        self.bank_ = self.bank_.joined(entering, features.provenance(chosen), features.images)
        upright = [i for i, image in enumerate(features.images) if not image.angle]
        if representative:
            self.calibration_ = self.calibration_.joined(self._score_added(features, upright, first))
        for i in upright:
            self._accept(first + i, features, i, min(threshold, self.calibration_.threshold))
        used = sum(len(t.jpeg) for t in self.thumbnails_.values()) / 1e6
        self.thumbnails_ |= make_thumbnails(sources, max(self.thumbnails - used, 0), self.values_)
        added = [features.images[i] for i in upright]
        self._changed("added", learned=added, vectors_before=before, patches=len(features))
        return self

    def _score_added(self, features: FeatureSet, numbers: list[int], first: int) -> Calibration:
        """New images, which the bank has from number `first` on, each scored without its own patches."""
        rows = []
        for i in numbers:
            image = features.images[i]
            vectors = self._prepare(features.of_image(i))
            scored = self._score(vectors, image.grid, features.views[i], without_image=first + i)
            rows.append(Row(image.name, scored.score, scored.peak, image.group))
        return Calibration.of_rows(rows, self.calibration_.false_alarm_rate)

    def _absorb(self, sources: list[Source], work: Work) -> None:
        """As `add`: a larger bank is nearer to everything, so the threshold of the smaller one holds for it."""
        bank, features, kept, at = self.bank_, FeatureSet(None), [], []
        for item in self._open().stream(sources, work.inside().on_error):  # told when they were scored
            points = self._as_kept(self._prepare(item.vectors))
            far = torch.nonzero(bank.nearest(points)[0] > bank.covering_radius)[:, 0]
            kept.append(points[far])
            at.append(far.cpu() + len(features))
            features.add(item)
        if not kept:  # all went away since they were scored
            return
        points, rows = torch.cat(kept), torch.cat(at)
        room = round(len(bank) / (1 - self._reserved)) - len(bank)
        found = bank.far_from(points, bank.covering_radius, room)
        chosen = found.indices
        self.bank_ = replace(
            bank.joined(points[chosen.to(points.device)], features.provenance(rows[chosen]), features.images),
            covering_radius=max(bank.covering_radius, found.radius),
        )

    def _as_kept(self, vectors: Tensor) -> Tensor:
        """P×D prepared patches as the bank keeps them."""
        return vectors

    def _entering(self, patches: Tensor) -> Tensor:
        """Which of N×D new patches enter the bank."""
        radius = self.bank_.covering_radius
        if math.isfinite(radius):
            return self.bank_.far_from(patches, radius).indices
        share = len(self.bank_) / max(self.training_["patches"], len(self.bank_))
        count = max(1, round(share * len(patches)))
        drawn = np.random.default_rng(self.seed).choice(len(patches), count, replace=False)
        return torch.from_numpy(np.sort(drawn))

    def _accept(self, number: int, features: FeatureSet, i: int, threshold: float) -> None:
        """Let more patches of an image in until it is not rejected any more."""
        image, vectors = features.images[i], self._prepare(features.of_image(i))
        patches = self._as_kept(vectors)
        radius = float(self.bank_.nearest(patches)[0].max())
        while radius > 0 and self._score(vectors, image.grid, features.views[i]).score > threshold:
            radius = radius / 2 if radius > 1e-6 else 0.0
            chosen = self.bank_.far_from(patches, radius).indices
            provenance = features.provenance(chosen + features.starts[i])
            provenance[:, 0] = number - len(self.bank_.images)  # an image that is listed already
            self.bank_ = self.bank_.joined(patches[chosen.to(patches.device)], provenance, ())

    def forget(self, names: str | Sequence[str]) -> Self:
        """Take the patches and scores of training images out. `names`: as the model knows them, or the end of them
        where that is clear. The covering radius becomes a bound; other images' scores stay, and can only be too low."""
        known = {self._known_as(name) for name in ([names] if isinstance(names, str) else names)}
        before = len(self.bank_)
        gone = [i for i, image in enumerate(self.bank_.images) if image.name in known]
        self.bank_ = self.bank_.without(gone)
        self.calibration_ = self.calibration_.without(known)
        self.thumbnails_ = {name: t for name, t in self.thumbnails_.items() if name not in known}
        self._changed("forgot", forgotten=known, vectors_before=before, names=sorted(known))
        return self

    def _known_as(self, name: str) -> str:
        """The whole name of a training image."""
        names = self._known() | set(self.calibration_.images)
        wanted = Path(name).parts
        found = {n for n in names if n == name} or {n for n in names if Path(n).parts[-len(wanted) :] == wanted}
        if len(found) != 1:
            what = f"could be {', '.join(sorted(found)[:3])}" if found else "is not among the images of this model"
            raise OptionError(f"{name}: {what}: give the name as the model has it (`patchbank info MODEL --images`)")
        return found.pop()

    def merge(self, other: Changes, bank_size: int | None = None) -> Self:
        """Take the bank and the calibration of another model in, which must see images as this one does; with
        `bank_size` the bank is thinned to that many vectors again, farthest first. Images that both learned from count
        once."""
        if not isinstance(other, type(self)):
            raise OptionError(f"a {self.method} model cannot be merged with one of {other.method}")
        self._check_mergeable(other)
        self.values_ = self.values_ | other.values_
        self._extractor = None  # which has the values
        before, scale = len(self.bank_), self._to_mine(other)
        new, twice = self._new_of(other)
        taken = self._known()
        theirs = {name: unique(name, taken) for name in other._known()}
        vectors = self._as_kept(new.vectors.float() * scale)
        radius = float(
            np.maximum(self.bank_.covering_radius, other.bank_.covering_radius * float(scale.max()))
        )  # or NaN
        images = [
            replace(image, name=theirs[image.name], group=_renamed_group(image.group, theirs)) for image in new.images
        ]
        bank = self.bank_.joined(vectors, new.provenance, images)
        self.bank_ = replace(bank, covering_radius=radius)
        if bank_size is not None and bank_size < len(self.bank_):
            points = self.bank_.vectors.float()
            sampler = SAMPLERS["greedy"](
                bank_size / len(points), self.torch_device, points.shape[1], count=bank_size, seed=self.seed
            )
            sampler.run(points)
            kept = sampler.indices_
            self.bank_ = replace(
                self.bank_,
                vectors=self.bank_.vectors[kept],
                provenance=self.bank_.provenance[kept.cpu().numpy()],
                covering_radius=radius + sampler.covering_radius_,
            )
        scores = other.calibration_.without(twice)
        names = tuple(theirs.get(name, name) for name in scores.images)
        groups = tuple(_renamed_group(group, theirs) for group in scores.groups)
        self.calibration_ = self.calibration_.joined(replace(scores, images=names, groups=groups))
        self.thumbnails_ |= {theirs.get(n, n): t for n, t in other.thumbnails_.items() if n not in twice}
        learned = [image for image in images if not image.angle]
        self._changed("merged", learned=learned, vectors_before=before, patches=other.training_["patches"])
        return self

    def _new_of(self, other: Self) -> tuple[Bank, set[str]]:
        """The other model's bank without the images that this one has learned from too, and the names of these."""
        mine = {digest for _, digest in self._learned_from() if digest}
        twice = {name for name, digest in other._learned_from() if digest in mine}
        if not twice:
            return other.bank_, twice
        if len(twice) == len(other._learned_from()):
            raise OptionError("the models cannot be merged: this one has learned from all images of the other already")
        return other.bank_.without([i for i, image in enumerate(other.bank_.images) if image.name in twice]), twice

    def _check_mergeable(self, other: Self) -> None:
        """Raise `OptionError` unless patches of both models are the same features."""
        mine, theirs = self.parameters(), other.parameters()
        of_features = ("backbone", "levels", "image_size", "geometry", "aggregation", "patch_size", "stride", "align")
        of_scores = ("bank_dtype", "distance", "image_score", "sigma", "tile", "overlap", "neighbours", "foreground")
        for name in (*of_features, *of_scores):
            if mine.get(name) != theirs.get(name):
                raise OptionError(
                    f"the models cannot be merged: {name} is {mine.get(name)} in one, {theirs.get(name)} in the other"
                )
        if self.learned_roi_ != other.learned_roi_:
            raise OptionError("the models cannot be merged: they have different regions of interest")
        if self.align and not (self.reference_ and self.reference_.same_as(other.reference_)):
            raise OptionError("the models cannot be merged: their images are aligned with different references")
        if self.training_["weights_sha256"] != other.training_["weights_sha256"]:
            raise OptionError("the models cannot be merged: they were fitted with different weights of the backbone")

    def _to_mine(self, other: Self) -> Tensor:
        """Factors D that bring the other bank's vectors to the scale of this one's."""
        raise OptionError(self._no_bank())

    def _changed(
        self,
        what: str,
        *,
        vectors_before: int,
        learned: Sequence[TrainingImage] = (),
        forgotten: Collection[str] = (),
        patches: int = 0,
        **facts: Any,
    ) -> None:
        training, images = self.training_, len(learned) - len(forgotten)
        known = [[name, digest] for name, digest in self._learned_from() if name not in forgotten]
        self.training_ = {
            **training,
            "images": training["images"] + images,
            "learned_from": known + [[image.name, image.digest] for image in learned],
            "patches": training["patches"] + patches,
            "memory_vectors": self.memory_vectors,
            "memory_mb": self.memory_mb,
        }
        facts |= {"vectors": len(self.bank_), "vectors_before": vectors_before, "covering_radius": self._known_radius()}
        self._note(what, **({"images": images} if images > 0 else {}), **facts)

    def _known(self) -> set[str]:
        return super()._known() | {image.name for image in self.bank_.images}

    def _known_radius(self) -> float | None:
        radius = self.bank_.covering_radius
        return radius if math.isfinite(radius) else None


def _renamed_group(group: str, names: Mapping[str, str]) -> str:
    """A group's label where images have new names: one that was found is called after its first image."""
    name = group.removeprefix(FOUND)
    return f"{FOUND}{names.get(name, name)}" if group.startswith(FOUND) else group
