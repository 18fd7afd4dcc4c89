"""Image size, map smoothing and position scale for a user's own parts, from good images alone.

Some good images are held out, and synthetic defects are drawn on copies of them: the defects that trained methods learn
from, most of them made smaller and fainter, since every choice finds the plain ones. Each choice learns from the other
good images and is judged by how well it tells the held-out ones from their damaged copies. Labelled defects are never
looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchbank.data import Geometry, Sample, ValueRange, read_image
from patchbank.detector import Detector
from patchbank.errors import ImageError, OnError, OptionError, Progress, warn
from patchbank.metrics.image import auroc
from patchbank.metrics.paired import delong
from patchbank.sample import RGB_CHANNEL
from patchbank.training.anomalies import Anomalies
from patchbank.training.anomalies.draws import log_uniform, random_pixel

LEARNED, HELD_OUT, LEAST = 60, 40, 16  # images at most, and in all at least
DAMAGED = 3  # copies of each held-out image
SIZES, SIGMAS = (384, 512, 768), (4.0, 8.0, 12.0)
_LEAST_GAIN, _CLEAR = 0.01, 0.05  # of image AUROC; p-value of the paired test
_FAINTEST, _SMALLEST = 0.1, 0.05  # share of its contrast, and of the shorter side, that is left of a drawn defect
_LARGEST = 1536  # pixels of the shorter side that defects are drawn at


@dataclass(frozen=True)
class Choice:
    """One combination of options and the image AUROC that it reaches; `scores` of the held-out images, then of their
    damaged copies."""

    image_size: int
    sigma: float
    position_scale: bool
    auroc: float
    scores: NDArray[np.float64]

    @property
    def options(self) -> dict[str, Any]:
        return {"image_size": self.image_size, "sigma": self.sigma, "position_scale": self.position_scale}

    def __str__(self) -> str:
        scale = "with" if self.position_scale else "without"
        return f"image_size {self.image_size}, sigma {self.sigma:g}, {scale} position scale"


@dataclass(frozen=True)
class Tuned:
    """What was chosen: `options` that differ from the defaults (none where no choice is clearly better), the `reason`
    in a sentence, and all `choices`, the default first."""

    options: dict[str, Any]
    reason: str
    choices: tuple[Choice, ...]


def tune(
    make: Callable[..., Detector],
    images: Sequence[Sample],
    seed: int = 0,
    on_error: OnError = warn,
    progress: Progress | None = None,
) -> Tuned:
    """Choose options for a method with a map.

    Args:
        make: gives an unfitted detector with some options changed.
        images: good ones.
        seed: of what is drawn.
        on_error: called with (name, error) for each image that cannot be read.
        progress: called with (stage, done, total).

    Raises:
        OptionError: there are fewer than 16 images that can be read, or the method cannot be tuned.
    """
    usual = make()
    if usual.channels not in (None, (RGB_CHANNEL,)) or usual.tile is not None or usual.geometry != "whole":
        raise OptionError("--tune is for whole pictures: leave out channels, tiles and geometry")
    if not usual.localizes or usual.option("image_score") != "smoothed":
        raise OptionError(f"--tune is for methods whose score is the peak of a map: leave it out for {usual.method}")
    rng = np.random.default_rng(seed)
    order = [images[i] for i in rng.permutation(len(images))[: LEARNED + HELD_OUT]]
    held_count = min(HELD_OUT, 2 * len(order) // 5)
    held, learned = order[:held_count], order[held_count:]
    pictures = list(_pictures(held, rng, on_error))
    if len(pictures) < 6 or len(order) < LEAST:
        raise OptionError(f"--tune takes at least {LEAST} good images that can be read, not {len(order)}")
    default = usual.option("image_size"), usual.option("sigma"), bool(usual.option("position_scale"))
    found: list[Choice] = []
    sizes = list(dict.fromkeys([default[0], *SIZES]))
    for number, size in enumerate(sizes):
        found += _of_size(make, size, learned, pictures, default)
        if progress:
            progress("tuning", number + 1, len(sizes))
    return _decided(found, len(pictures))


def _pictures(
    held: Sequence[Sample], rng: np.random.Generator, on_error: OnError
) -> Iterator[tuple[NDArray[np.uint8], list[NDArray[np.uint8]]]]:
    """Each held-out picture and its damaged copies."""
    anomalies = Anomalies()
    for sample in held:
        try:
            rgb = read_image(sample, ValueRange())
        except ImageError as error:
            on_error(sample.name, error)
            continue
        before = Geometry("whole", _LARGEST, multiple=1).view(*rgb.shape[:2]).pixels(rgb)
        whole = np.asarray(before, np.float32) / np.float32(255)
        yield _bytes(whole), [_bytes(_damaged(whole, anomalies, rng)) for _ in range(DAMAGED)]


def _damaged(whole: NDArray[np.float32], anomalies: Anomalies, rng: np.random.Generator) -> NDArray[np.float32]:
    """A copy of an H×W×3 picture with a defect, of which only a square around one of its pixels is left, at a part of
    its contrast. Both are drawn such that their logarithms are uniform."""
    damaged, mask = anomalies.damaged(whole, rng)
    row, column = random_pixel(mask, rng)
    half = max(round(log_uniform(_SMALLEST, 1, rng) * min(mask.shape) / 2), 2)
    inside = np.zeros_like(mask)
    inside[max(row - half, 0) : row + half + 1, max(column - half, 0) : column + half + 1] = True
    contrast = np.float32(log_uniform(_FAINTEST, 1, rng))
    return np.where((mask & inside)[..., None], whole + contrast * (damaged - whole), whole)


def _bytes(picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(picture * 255).astype(np.uint8)


def _of_size(
    make: Callable[..., Detector],
    size: int,
    learned: Sequence[Sample],
    pictures: Sequence[tuple[NDArray[np.uint8], list[NDArray[np.uint8]]]],
    default: tuple[int, float, bool],
) -> list[Choice]:
    """All choices of one image size: one fit, and one comparison of each picture."""
    model = make(image_size=size, thumbnails_mb=0, position_scale=True).fit(
        list(learned), on_error=lambda name, error: None
    )
    fitted = model.require_fitted()
    flat = [picture for picture, _ in pictures] + [copy for _, copies in pictures for copy in copies]
    labels = np.arange(len(flat)) >= len(pictures)
    compared = []
    for item in model.extractor.stream(model.gather(flat)):
        points = fitted.scorer.prepare(item.vectors)
        compared.append(fitted.post.compared(fitted.scorer, points, item.grid, item.view, item.area))
    found = []
    ways = (True, False) if fitted.post.scale else (False,)  # few images have no scale
    combinations = [(sigma, scaled) for sigma in SIGMAS for scaled in ways]
    if size == default[0]:
        combinations.insert(0, (default[1], default[2] and len(ways) > 1))
    for sigma, scaled in dict.fromkeys(combinations):
        post = replace(fitted.post, sigma=sigma, scale=fitted.post.scale if scaled else None)
        scores = np.array([post.finish(each).score for each in compared])
        found.append(Choice(size, sigma, scaled, float(auroc(labels, scores)), scores))
    return found


def _decided(found: Sequence[Choice], held: int) -> Tuned:
    """The best choice where it is clearly better than the default, which is the first."""
    default, best = found[0], max(found, key=lambda choice: choice.auroc)
    labels = np.arange(len(default.scores)) >= held
    judged = f"judged by {held} held-out good images and {len(default.scores) - held} copies with drawn defects"
    if best.auroc - default.auroc >= _LEAST_GAIN:
        p_value = delong(labels, best.scores, default.scores).p_value
        if p_value is not None and p_value < _CLEAR:
            reason = f"{best}: image AUROC {best.auroc:.3f} instead of {default.auroc:.3f} (p {p_value:.2g}), {judged}"
            changed = {k: v for k, v in best.options.items() if v != default.options[k]}
            return Tuned(changed, reason, tuple(found))
    reason = (
        f"the defaults stay ({default}): image AUROC {default.auroc:.3f}, and no choice is clearly better "
        f"(the best has {best.auroc:.3f}), {judged}"
    )
    return Tuned({}, reason, tuple(found))
