"""The backbone "pixels": a scorer sees the picture itself, in fits, files, regions, tiles and exports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from typing_extensions import Self

import patchbank
from patchbank.data import RegionOfInterest, gather
from patchbank.data.groups import find_near_copies
from patchbank.detector import Detector
from patchbank.edge import runtime
from patchbank.errors import OptionError, Progress
from patchbank.export import export
from patchbank.features.backbones import PIXELS, list_backbones, open_backbone, reuse_backbone
from patchbank.features.store import FeatureStore, PatchFeatures, describe
from patchbank.registry import METHODS, register
from patchbank.scorer import Levels, Scorer
from tests.toys import MeanScorer

SIZE = (128, 160)


class ColourScorer(MeanScorer):
    """How far a pixel is from the mean colour of its place."""

    keeps_grid: ClassVar[bool] = True
    can_leave_out: ClassVar[bool] = False

    def fit(self, features: FeatureStore, progress: Progress | None = None) -> Self:
        self.mean = features.stored.reshape(len(features.refs), -1, self.levels.dimension).mean(0)
        return self


@dataclass(kw_only=True, eq=False)
class Colours(Detector):
    method: ClassVar[str] = "colours"
    summary: ClassVar[str] = "distance to the mean colour"
    scorer_class: ClassVar[type[Scorer]] = ColourScorer

    backbone: str = PIXELS
    image_size: int | None = 256
    aggregation: str | None = "mean"
    patch_size: int | None = 1
    sigma: float | None = 2.0

    def make_scorer(self, levels: Levels) -> Scorer:
        return ColourScorer(levels)


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    register(Colours)
    yield
    del METHODS[Colours.method]


def picture(seed: int, spot: bool = False, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A part with a colour of its own at each place, in noise; `spot`: green at rows 70-80, columns 30-40."""
    y, x = np.mgrid[: size[0], : size[1]]
    part = np.stack([y, x, 128 + 0 * x], axis=2) + np.random.default_rng(seed).normal(0, 4, (*size, 3))
    if spot:
        part[70:80, 30:40] = (20, 220, 20)
    return np.clip(part, 0, 255).astype(np.uint8)


GOOD = [picture(seed) for seed in range(8)]


def item_of(model: Detector, image: np.ndarray) -> PatchFeatures:
    return next(model.extractor.stream(gather(image)))


# ---- the features ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(128, 160), (150, 201)])
def test_vectors_are_the_resized_picture_row_by_row(size: tuple[int, int]) -> None:
    image = picture(0, size=size)
    item = item_of(Colours(), image)
    rows, columns = item.grid
    assert item.grid == {(128, 160): (128, 160), (150, 201): (160, 192)}[size]
    resized = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR))
    assert item.vectors.dtype == torch.float32
    assert np.array_equal(item.vectors.numpy(), resized.reshape(-1, 3).astype(np.float32) / 255)


def test_values_of_more_than_eight_bits_keep_their_steps() -> None:
    """Two of 65536 levels that are one level apart differ."""
    image = np.full((*SIZE, 3), 30000, np.uint16)
    image[:, 80:] += 1
    model = Colours(value_range=(0, 65535)).fit([image, image + np.uint16(9)])
    vectors = item_of(model, image).vectors.reshape(*SIZE, 3)
    assert float(vectors[0, 80, 0] - vectors[0, 79, 0]) == pytest.approx(1 / 65535, rel=0.01)


def test_tiles_are_put_together_as_the_picture() -> None:
    image = picture(0, size=(192, 320))
    item = item_of(Colours(tile=128, overlap=64), image)
    assert np.array_equal(item.vectors.numpy(), image.reshape(-1, 3).astype(np.float32) / 255)


def test_a_descriptor_has_more_tiles_where_channels_are_few() -> None:
    item = item_of(Colours(), picture(0))
    tiles = item.vectors.reshape(16, SIZE[0] // 16, 16, SIZE[1] // 16, 3).mean((1, 3))
    assert describe(item) == pytest.approx(tiles.numpy().ravel(), abs=1e-3)
    wide = replace(item, vectors=item.vectors.repeat(1, 20))
    assert describe(wide).shape == (4 * 4 * 60,)


def test_pictures_of_one_part_are_found() -> None:
    """Parts that differ in a stripe each; two pictures of each part differ in noise."""
    shots = []
    for part in range(12):
        for number in range(2):
            image = picture(100 * part + number)
            image[10 * part : 10 * part + 8] //= 2
            shots.append(describe(item_of(Colours(), image)))
    found = find_near_copies(shots)
    assert found is not None
    assert found.labels == tuple(i - i % 2 for i in range(24))


def test_it_is_opened_once_and_run_by_torch() -> None:
    first = reuse_backbone(PIXELS)
    assert reuse_backbone(PIXELS) is first
    for name in ("auto", "torch", "openvino"):
        opened = open_backbone(PIXELS, runtime=name)
        assert opened.runtime == "torch"
        assert opened.identity == first.identity
    assert (first.levels, first.strides, first.channels, first.multiple) == ((0,), (1,), (3,), 32)
    assert first.weights == "none"


# ---- a method that learns from images --------------------------------------------------------------------------------


def test_a_spot_is_found_at_its_place() -> None:
    model = Colours().fit(GOOD)
    good, bad = model.predict(picture(50)), model.predict(picture(51, spot=True))
    assert bad.score > 2 * good.score
    y, x = np.unravel_index(np.nanargmax(bad.map), SIZE)
    assert abs(y - 74.5) <= 2
    assert abs(x - 34.5) <= 2
    assert model.training_["patches_lie"] == [1, 0.0, 0.0]


def test_its_model_file(tmp_path: Path) -> None:
    model = Colours().fit(GOOD)
    model.save(tmp_path / "m.patchbank")
    loaded = patchbank.load(tmp_path / "m.patchbank")
    assert np.array_equal(loaded.predict(picture(51, True)).map, model.predict(picture(51, True)).map)
    with pytest.raises(OptionError, match=r"^pixels has no weights"):
        patchbank.load(tmp_path / "m.patchbank", weights="w.pth")


def test_a_region_of_interest() -> None:
    """A spot outside it changes nothing, and its vectors are kept for a scorer that needs the whole grid."""
    left_half = ((0.0, 0.0), (63.0, 0.0), (63.0, 127.0), (0.0, 127.0))
    model = Colours(roi=RegionOfInterest(ignore=(left_half,))).fit(GOOD)
    prediction = model.predict(picture(51, spot=True))
    assert np.isnan(prediction.map[:, :64]).all()
    assert not np.isnan(prediction.map[:, 64:]).any()
    assert prediction.score == pytest.approx(model.predict(picture(51)).score, rel=1e-3)
    assert len(item_of(model, picture(51)).vectors) == SIZE[0] * SIZE[1]


@pytest.mark.parametrize("to", ["onnx", "openvino", "torchscript"])
def test_its_export(to: str, tmp_path: Path) -> None:
    if to == "onnx":
        pytest.importorskip("onnxruntime")
    model, bad = Colours().fit(GOOD), picture(51, spot=True)
    export(model, tmp_path / "out", to=to, images=[bad, picture(50)])
    exported = runtime.load(tmp_path / "out").predict(bad)
    assert exported.score == pytest.approx(model.predict(bad).score, rel=1e-4)
    assert np.nanmax(np.abs(exported.map - model.predict(bad).map)) < 1e-4


# ---- what it is not for ----------------------------------------------------------------------------------------------


def test_it_is_no_network_for_memory_banks() -> None:
    assert PIXELS not in [spec.name for spec in list_backbones()]
    sentence = "^the backbone pixels is for methods that learn from images, such as draem: give another backbone$"
    for method in METHODS.values():
        if method.backbone != PIXELS:
            with pytest.raises(OptionError, match=sentence):
                method(backbone=PIXELS).fit(GOOD)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"levels": (2, 3)}, "pixels has the level 0, the picture itself: leave out levels=2,3"),
        ({"weights": "random"}, "pixels has no weights, it is the picture itself: leave out weights=random"),
    ],
)
def test_options_of_networks_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        Colours(**options).fit(GOOD)
