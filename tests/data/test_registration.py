"""Registration against transforms that are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from patchbank.data.alignment import LEAST_CORRELATION
from patchbank.data.registration import Pattern, after, inverse
from patchbank.demo.synthetic import draw


def grey(kind: str, seed: int, defect: str | None = None) -> np.ndarray:
    return draw(kind, defect, np.random.default_rng(seed))[0].mean(2).astype(np.float32)


def moving(shape: tuple[int, ...], angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    """A 2×3 matrix about the centre."""
    matrix = cv2.getRotationMatrix2D(((shape[1] - 1) / 2, (shape[0] - 1) / 2), angle, scale)
    matrix[:, 2] += shift
    return matrix


def moved(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return cv2.warpAffine(picture, matrix, picture.shape[1::-1], borderMode=cv2.BORDER_REFLECT_101)


def farthest(matrix: np.ndarray, shape: tuple[int, ...]) -> float:
    """How far a matrix takes a corner of a picture, in pixels."""
    corners = np.array([[0, 0], [shape[1] - 1, 0], [0, shape[0] - 1], [shape[1] - 1, shape[0] - 1]], float)
    return float(np.abs(corners @ matrix[:, :2].T + matrix[:, 2] - corners).max())


@pytest.mark.parametrize("kind", ["gear", "weave"])
@pytest.mark.parametrize(
    ("angle", "scale", "shift"),
    [(0, 1, (0, 0)), (4, 1, (11, -6)), (-10, 1.05, (-16, 12)), (77, 0.95, (5, 9)), (-165, 1.1, (8, -20))],
)
def test_a_known_transform_is_recovered(kind: str, angle: float, scale: float, shift: tuple[float, float]) -> None:
    picture = grey(kind, 1)
    known = moving(picture.shape, angle, scale, shift)
    found = Pattern(picture).register(moved(picture, known))
    assert farthest(after(found.matrix, known), picture.shape) < 0.5
    assert found.correlation > 0.95
    a, b = found.matrix[0, 0], found.matrix[1, 0]
    assert np.allclose(found.matrix[:, :2], [[a, -b], [b, a]])  # a similarity
    assert farthest(after(inverse(known), known), picture.shape) < 1e-9


def test_other_light_and_noise_do_not_move_it() -> None:
    picture = grey("gear", 2)
    known = moving(picture.shape, 7, 1.02, (9, 5))
    noise = 5 * np.random.default_rng(0).standard_normal(picture.shape)
    found = Pattern(picture).register((40 + 0.5 * moved(picture, known) + noise).astype(np.float32))
    assert farthest(after(found.matrix, known), picture.shape) < 0.5


def test_another_size_is_another_scale() -> None:
    picture = grey("gear", 3)
    small = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    matrix = Pattern(picture).register(small).matrix
    assert np.allclose(matrix, [[2, 0, 0.5], [0, 2, 0.5]], atol=0.3)  # pixel centres: (0.5 + 0) · 2 − 0.5


@pytest.mark.parametrize("defect", ["chipped_tooth", "missing_hole", "scratch", None])
def test_parts_of_one_kind_lie_where_they_were_drawn(defect: str | None) -> None:
    """Two drawings of one seed show one pose: whatever the defect, both come to lie at the same place."""
    pattern = Pattern(grey("gear", 4))
    good, bad = pattern.register(grey("gear", 5)), pattern.register(grey("gear", 5, defect))
    assert farthest(after(bad.matrix, inverse(good.matrix)), (256, 320)) < 2
    assert bad.correlation > 0.7
    assert bad.overlap > 0.8


@pytest.mark.parametrize("other", ["weave", "noise", "flat"])
def test_another_picture_does_not_correlate(other: str) -> None:
    pictures = {
        "weave": grey("weave", 1),
        "noise": np.random.default_rng(1).uniform(0, 255, (200, 300)).astype(np.float32),
        "flat": np.full((200, 300), 80, np.float32),
    }
    assert Pattern(grey("gear", 4)).register(pictures[other]).correlation < LEAST_CORRELATION
    assert Pattern(pictures["flat"]).register(pictures[other]).correlation < LEAST_CORRELATION
