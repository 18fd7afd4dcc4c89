"""A training set looked over before it is learned from: what cannot be read, what has an odd size, what is there twice,
and what does not look like the rest."""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from patchbank.data import Images, Sample, ValueRange, gather, image_size, prefetch
from patchbank.detector import Detector
from patchbank.errors import ImageError, OnError, OptionError, Progress, warn
from patchbank.methods import PatchCore
from patchbank.shape.shown import shown

SUSPICIOUS = 3.5  # robust standard deviations above the median (Iglewicz and Hoaglin, 1993)
_SIDE = 64  # of the small grey pictures that are compared to find duplicates
_GREY = 1.5  # mean difference in grey levels of two pictures of one scene: noise and JPEG, averaged
_SHARE = 0.5  # of the usual difference between an image and the one most like it: parts of one kind may look much alike
_BLOCK = 256
_PLAIN = ValueRange()


@dataclass(frozen=True)
class Suspect:
    """An image, its score against the others, and how many robust standard deviations that lies above the median."""

    image: str
    score: float
    deviation: float


@dataclass(frozen=True)
class Audit:
    """`ranked`: all images that could be read, the strangest first; `duplicates`: pairs and their mean difference in
    grey levels, the most alike first; `odd_sizes` with (height, width) where most have `usual_size`; `unreadable` with
    the reason; `model`: what was fitted to them."""

    ranked: tuple[Suspect, ...]
    duplicates: tuple[tuple[str, str, float], ...]
    odd_sizes: tuple[tuple[str, tuple[int, int]], ...]
    usual_size: tuple[int, int]
    unreadable: tuple[tuple[str, str], ...]
    model: PatchCore = field(repr=False, compare=False)

    @property
    def suspicious(self) -> tuple[Suspect, ...]:
        """Those that stand out."""
        return tuple(suspect for suspect in self.ranked if suspect.deviation > SUSPICIOUS)

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "images": len(self.ranked),
            "suspicious": [vars(s) for s in self.suspicious],
            "duplicates": [{"a": a, "b": b, "grey_levels": d} for a, b, d in self.duplicates],
            "odd_sizes": [{"image": name, "height": h, "width": w} for name, (h, w) in self.odd_sizes],
            "usual_size": {"height": self.usual_size[0], "width": self.usual_size[1]},
            "unreadable": [{"image": name, "error": error} for name, error in self.unreadable],
        }


def audit(
    images: Images,
    detector: Detector | None = None,
    *,
    duplicates: bool = True,
    on_error: OnError = warn,
    progress: Progress | None = None,
) -> Audit:
    """Look a training set over: each image is scored against the bank without its own patches.

    Args:
        images: good images, as `Detector.fit` takes them.
        detector: options of the PatchCore that is fitted to them; it does not change.
        duplicates: also compare the images with each other.
        on_error, progress: as for `Detector.fit`.
    """
    detector = PatchCore() if detector is None else copy.copy(detector)  # the caller's stays as it is
    if not isinstance(detector, PatchCore):
        raise OptionError("an audit leaves images out of a bank: it takes a patchcore detector")
    unreadable: list[tuple[str, str]] = []

    def note(name: str, error: Exception) -> None:
        unreadable.append((name, str(error)))
        on_error(name, error)

    sources = gather(images, note, of="good")
    detector.calibration = "leave-one-out"
    detector.fit(sources, on_error=note, progress=progress)
    calibration, lost = detector.calibration_, {name for name, _ in unreadable}
    if len(calibration) < 3:
        raise OptionError(f"an audit compares images with each other: it takes at least three, not {len(calibration)}")
    deviations = robust_deviations(calibration.scores)
    ranked = [
        Suspect(name, float(score), float(deviation))
        for name, score, deviation in zip(calibration.images, calibration.scores, deviations, strict=True)
    ]
    first = detector.inputs_.channels[0]
    readable = [source.seen_in(first) for source in sources if source.name not in lost]
    usual, odd = _odd_sizes(readable, detector.values_)
    ranked.sort(key=lambda suspect: (-suspect.score, suspect.image))
    twice = near_duplicates(readable, detector.values_) if duplicates else ()
    return Audit(tuple(ranked), twice, odd, usual, tuple(unreadable), detector)


def robust_deviations(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """(s − median) / (1.4826 · median absolute deviation) of n scores; by 1.2533 times the mean absolute deviation
    where more than half are equal, and 0 where all are."""
    centred = scores - np.median(scores)
    spread = 1.4826 * np.median(np.abs(centred)) or 1.2533 * np.abs(centred).mean()
    return centred / spread if spread > 0 else np.zeros(len(scores))


def near_duplicates(sources: Sequence[Sample], values: ValueRange = _PLAIN) -> tuple[tuple[str, str, float], ...]:
    """Pairs of images of one scene, twice in the set: small grey pictures that differ no more than noise does, and far
    less than an image and the one most like it usually do."""
    found = [small for small in prefetch(partial(_small, values=values), sources) if small]
    if len(found) < 2:
        return ()
    names, pixels = [name for name, _ in found], np.stack([small for _, small in found])
    nearest = np.concatenate([apart.min(1) for _, apart in _differences(pixels)])
    # many images may be there twice: not the median
    limit = min(_GREY, _SHARE * float(np.quantile(nearest, 0.75)))
    pairs = []
    for start, apart in _differences(pixels):
        # the root of the mean square is at least the mean, and of noise a quarter more
        for i, j in np.argwhere(apart <= 2 * limit + 1e-3):
            if start + i < j:
                difference = float(np.abs(pixels[start + i] - pixels[j]).mean())
                if difference < limit or difference == 0:
                    pairs.append((names[start + i], names[j], difference))
    return tuple(sorted(pairs, key=lambda pair: pair[2]))


def _differences(pixels: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """For blocks of N×P pictures the first one's number, and the root mean square difference of each to all: b×N, +inf
    to itself."""
    squares = np.square(pixels).sum(1)
    for start in range(0, len(pixels), _BLOCK):
        block = pixels[start : start + _BLOCK]
        squared = squares[start : start + _BLOCK, None] + squares[None] - 2 * block @ pixels.T
        apart = np.sqrt(np.maximum(squared, 0) / pixels.shape[1])
        apart[np.arange(len(block)), start + np.arange(len(block))] = np.inf
        yield start, apart


def _small(source: Sample, values: ValueRange) -> tuple[str, NDArray[np.float32]] | None:
    try:
        rgb = shown(source, values).picture
    except ImageError:
        return None
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return source.name, cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()


def _odd_sizes(
    sources: Sequence[Sample], values: ValueRange
) -> tuple[tuple[int, int], tuple[tuple[str, tuple[int, int]], ...]]:
    """The most frequent size, and the images of another, where at least half have it."""
    sized = []
    for source in sources:
        with contextlib.suppress(ImageError):  # gone since it was learned from
            sized.append((source, image_size(source, values)))
    sizes = [size for _, size in sized]
    if not sizes:
        return (0, 0), ()
    usual, count = Counter(sizes).most_common(1)[0]
    if 2 * count < len(sizes):
        return usual, ()
    return usual, tuple((source.name, size) for source, size in sized if size != usual)
