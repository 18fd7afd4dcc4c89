"""What a verdict rests on: the nearest good patches, and the pictures of them that a model carries."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from patchbank import PatchCore, load
from patchbank.data import gather
from patchbank.detector import Detector
from patchbank.errors import ImageError, OptionError
from patchbank.io.thumbnails import make_thumbnails, restore, state
from patchbank.methods import METHODS
from patchbank.pictures.explanation import Good, explanation_picture, finder
from tests.conftest import OF_PICTURES, bad_image, good_image, small_model

GOOD = [good_image(i) for i in range(5)]


@pytest.fixture(scope="module")
def model() -> PatchCore:
    return small_model().fit(GOOD)


def test_the_nearest_patch_of_each_of_some_images(model: PatchCore) -> None:
    explanation = model.explain(bad_image(1), count=4)
    place = explanation.places[0]
    assert 66 <= place.x < 94
    assert 36 <= place.y < 64
    left, top, right, bottom = place.box
    assert left <= place.x < right
    assert top <= place.y < bottom
    assert len({n.image for n in place.neighbours}) == 4
    distances = [n.distance for n in place.neighbours]
    assert distances == sorted(distances)
    # the literal way
    item = next(model.extractor.stream(gather(bad_image(1))))
    row, column = replace(item.view, lattice=model.fitted.post.lattice).patch_at(place.x, place.y, item.grid)
    vector = (item.vectors * model.scorer.balance)[row * item.grid[1] + column].double()
    to_all = (model.bank_.vectors.double() - vector).norm(dim=1)
    images = torch.from_numpy(model.bank_.provenance[:, 0])
    literal = sorted(float(to_all[images == i].min()) for i in range(5) if (images == i).any())
    assert distances == pytest.approx(literal[:4], rel=1e-5)
    nearest = explanation.prediction.nearest(place.x, place.y)
    assert (nearest.image, nearest.box) == (place.neighbours[0].image, place.neighbours[0].box)


def test_any_position_can_be_asked_for(model: PatchCore) -> None:
    place = model.explain(good_image(9), at=(3, 90)).places[0]
    assert (place.x, place.y) == (3, 90)
    with pytest.raises(OptionError, match="200,3 lies outside the image of 128×96"):
        model.explain(good_image(9), at=(200, 3))
    with pytest.raises(ImageError):
        model.explain(np.zeros((3, 3, 9), np.uint8))


def test_an_accepted_part_is_explained_at_its_peak(model: PatchCore) -> None:
    explanation = model.explain(good_image(30))
    assert len(explanation.places) == 1
    place = explanation.places[0]
    assert place.value == pytest.approx(float(np.nanmax(explanation.prediction.map)))


@pytest.mark.parametrize("method", list(OF_PICTURES))
def test_every_method_explains_what_it_can(method: str) -> None:
    model: Detector = METHODS[method](image_size=96).fit(GOOD)
    explanation = model.explain(bad_image(1), count=2)
    assert all(bool(place.neighbours) == model.keeps_patches for place in explanation.places)
    assert bool(model.thumbnails_) == model.keeps_patches
    picture = explanation_picture(bad_image(1), explanation, finder(model.thumbnails_))
    assert picture.dtype == np.uint8
    assert picture.shape[0] > 400
    assert explanation.to_dict()["places"] is not None


def test_pictures_travel_with_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "good"
    folder.mkdir()
    for i, image in enumerate(GOOD):
        Image.fromarray(image).save(folder / f"{i}.png")
    model = small_model().fit(folder)
    model.save(tmp_path / "m.patchbank")
    name = str(folder / "0.png")
    pixels, size, _ = finder(model.thumbnails_)(name) or pytest.fail("no picture")
    assert np.array_equal(pixels, GOOD[0])  # the original while it is there
    shutil.rmtree(folder)
    again = load(tmp_path / "m.patchbank")
    assert again.thumbnails_ == model.thumbnails_
    pixels, size, _ = finder(again.thumbnails_)(name) or pytest.fail("no picture")
    assert size == (96, 128)
    assert np.abs(pixels.astype(float) - GOOD[0]).mean() < 6  # JPEG
    assert finder({})(name) is None
    none = small_model(thumbnails_mb=0).fit(GOOD)
    assert none.thumbnails_ == {}
    none.save(tmp_path / "none.patchbank")
    assert (tmp_path / "none.patchbank").stat().st_size < (tmp_path / "m.patchbank").stat().st_size
    with pytest.raises(OptionError, match="thumbnails"):
        small_model(thumbnails_mb=-1).fit(GOOD)


def test_another_picture_under_an_old_name_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "part.png"
    Image.fromarray(GOOD[0]).save(path)
    made = make_thumbnails(gather(path), 1)
    Image.fromarray(GOOD[0][:50]).save(path)
    found = finder(made)(str(path))
    assert found is not None
    assert found[1] == (96, 128)


def test_thumbnails_keep_to_their_limit() -> None:
    noise = [np.random.default_rng(i).integers(0, 256, (300, 400, 3), dtype=np.uint8) for i in range(6)]
    for limit in (0.2, 0.05, 0.02):
        made = make_thumbnails(gather(noise), limit)
        assert sum(len(t.jpeg) for t in made.values()) <= limit * 1e6
        assert len(made) == 6
    assert make_thumbnails(gather(noise), 0.001) == {}
    tensors, listed = state(made)
    assert restore(tensors, listed) == made
    assert restore({}, state({})[1]) == {}


def test_a_small_picture_is_shown_at_the_scale_of_the_original(model: PatchCore) -> None:
    """A crop of a thumbnail shows the same part of the image as one of the original."""
    explanation = model.explain(bad_image(1), count=1)
    name = explanation.places[0].neighbours[0].image
    index = int(name.split()[-1])
    small = np.asarray(Image.fromarray(GOOD[index]).resize((64, 48), Image.Resampling.BOX))
    pictures = [
        explanation_picture(bad_image(1), explanation, lambda _, shown=shown: Good(shown, (96, 128)))[-250:]
        for shown in (GOOD[index], small)
    ]
    row = [p[60:180, 180:320].mean(axis=(0, 2)) for p in pictures]
    assert np.corrcoef(*row)[0, 1] > 0.9
