"""Views of images that are laid over a reference, and which image that is."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from patchbank.data import AlignedView, Geometry, Reference, Sample, choose_reference, gather
from patchbank.data.turning import carried
from patchbank.demo.synthetic import draw
from patchbank.errors import ImageError

FRAME = Geometry("whole", 128).view(256, 320)
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def gear(seed: int) -> np.ndarray:
    return draw("gear", None, np.random.default_rng(seed))[0]


def turned(angle: float, scale: float = 1.0, shift: tuple[float, float] = (0, 0)) -> np.ndarray:
    matrix = cv2.getRotationMatrix2D((159.5, 127.5), angle, scale)
    matrix[:, 2] += shift
    return matrix


def test_the_identity_changes_nothing() -> None:
    view = AlignedView.of(FRAME, (256, 320), IDENTITY)
    image = gear(0)
    assert np.array_equal(view.laid(image), image)
    assert view.covered().all()
    values = np.random.default_rng(0).random(FRAME.inspected).astype(np.float32)
    # interpolated at 32nds of a pixel
    assert np.allclose(view.to_input(values), FRAME.to_input(values), atol=0.04)
    grid = (8, 10)
    assert [view.patch_at(x, y, grid) for x, y in ((0, 0), (319, 255), (100, 30))] == [
        FRAME.patch_at(x, y, grid) for x, y in ((0, 0), (319, 255), (100, 30))
    ]
    assert view.patch_box(3, 4, grid) == FRAME.patch_box(3, 4, grid)


@pytest.mark.parametrize("kind", ["whole", "paper"])
def test_a_map_goes_back_to_where_the_image_was(kind: str) -> None:
    """A smooth field is laid over the reference, resized as the network sees it, and comes back as it was."""
    geometry = Geometry(kind, 128)
    y, x = np.mgrid[:200, :240].astype(np.float32)
    field = 100 + 40 * np.sin(x / 40) + 30 * np.cos(y / 30)
    view = AlignedView.of(geometry.view(256, 320), (200, 240), turned(20, 1.1, (30, 20)).ravel())
    seen = view.apply(view.laid(np.repeat(field[:, :, None], 3, axis=2)))[0]
    back = view.to_input(seen, view.covered())
    assert back.shape == (200, 240)
    there = ~np.isnan(back)
    assert 0.3 < there.mean() < 1
    assert np.abs(back - field)[there].max() < 6
    assert np.abs(back - field)[there].mean() < 1
    # NaN exactly where the reference does not see the image
    corners = np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    at_x, at_y = np.array(view.matrix).reshape(2, 3) @ corners
    left, top, right, bottom = view.inspected_box
    inside = (at_x > left) & (at_x < right - 1) & (at_y > top) & (at_y < bottom - 1)
    assert there.ravel()[inside].all()
    outside = (at_x < left - 1) | (at_x > right) | (at_y < top - 1) | (at_y > bottom)
    assert not there.ravel()[outside].any()


def test_patches_and_their_boxes() -> None:
    view = AlignedView.of(FRAME, (256, 320), turned(30, 1.0, (12, -5)).ravel())
    grid = (8, 10)
    for x, y in ((160, 128), (120, 90), (200, 160)):
        row, column = view.patch_at(x, y, grid)
        left, top, right, bottom = view.patch_box(row, column, grid)
        assert left <= x < right
        assert top <= y < bottom
        assert right - left < 60
    assert carried((3, 4, 10, 12), np.eye(2, 3), (50, 50)) == (3, 4, 10, 12)


def test_what_is_not_there_mirrors_and_is_not_covered() -> None:
    image = gear(0)
    view = AlignedView.of(FRAME, (256, 320), (1.0, 0.0, 10.0, 0.0, 1.0, 0.0))  # ten pixels to the right
    assert not view.covered()[:, :10].any()
    assert view.covered()[:, 10:].all()
    laid = view.laid(image)
    assert np.array_equal(laid[:, 10:], image[:, :-10])
    assert np.array_equal(laid[:, :10], image[:, 10:0:-1])
    back = view.to_input(np.ones(FRAME.inspected, np.float32), view.covered())
    assert np.isnan(back[:, -10:]).all()
    assert np.isfinite(back[:, :-10]).all()


def test_an_image_is_laid_over_the_reference() -> None:
    reference = Reference.of(Sample.of("first.png", gear(0)))
    matrix = turned(12, 1.03, (14, -9))
    image = cv2.warpAffine(gear(0), matrix, (320, 256), borderMode=cv2.BORDER_REFLECT_101)
    view = reference.view(FRAME, image, "second.png")
    assert np.abs(view.laid(image).astype(float) - gear(0))[view.covered()].mean() < 6
    assert (view.original_size, view.input_size) == ((256, 320), (256, 320))
    deep = reference.view(FRAME, image.astype(np.float32), "deep.tif")  # more than eight bits
    assert np.allclose(deep.matrix, view.matrix, atol=1e-3)
    tensors, values = reference.state()
    again = Reference.restore(tensors, values)
    assert again.same_as(reference)
    assert again.view(FRAME, image, "second.png") == view
    assert not again.same_as(None)
    assert not again.same_as(Reference.of(Sample.of("other.png", gear(3))))


def test_refusals() -> None:
    reference = Reference.of(Sample.of("first.png", gear(0)))
    weave = draw("weave", None, np.random.default_rng(0))[0]
    with pytest.raises(ImageError, match=r"w\.png: cannot be aligned with the reference first\.png \(correlation 0"):
        reference.view(FRAME, weave, "w.png")
    quarter = gear(0)[90:, 110:200]  # a part of the part
    with pytest.raises(ImageError, match="cannot be aligned"):
        reference.view(FRAME, quarter, "q.png")


def test_colours_that_are_equally_bright_are_told_apart() -> None:
    """The grey picture is taken along the colours that vary most: here green and red of one brightness."""
    shape = cv2.GaussianBlur(np.random.default_rng(0).random((120, 160)).astype(np.float32), (0, 0), 4)
    shape = (shape - shape.min()) / np.ptp(shape)
    image = np.stack([255 * shape, (1 - shape) * 255 * 0.299 / 0.587, np.zeros_like(shape)], axis=2).astype(np.uint8)
    reference, frame = Reference.of(Sample.of("a", image)), Geometry("whole", 128).view(120, 160)
    matrix = cv2.getRotationMatrix2D((80, 60), 9, 1.0)
    view = reference.view(frame, cv2.warpAffine(image, matrix, (160, 120), borderMode=cv2.BORDER_REFLECT), "b")
    assert np.allclose(np.array(view.matrix).reshape(2, 3), cv2.invertAffineTransform(matrix), atol=0.5)


def test_the_reference_is_the_image_most_like_the_others() -> None:
    image = gear(0)
    shifts = [-30, -18, 0, 15, 28]
    pictures = [cv2.warpAffine(image, np.array([[1.0, 0, s], [0, 1, 0]]), (320, 256), borderMode=1) for s in shifts]
    assert choose_reference(gather(pictures)).name == "image 2"  # type: ignore[union-attr]
    odd = [np.zeros((2, 2, 5), np.uint8), *pictures]  # one that cannot be read
    assert choose_reference(gather(odd)).name == "image 3"  # type: ignore[union-attr]
    assert choose_reference(gather(odd[:1])) is None
