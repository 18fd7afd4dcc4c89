"""Large images in tiles, put together without seams."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from patchbank import PatchCore, load
from patchbank.data import Tiling, gather
from patchbank.errors import OptionError
from patchbank.methods import METHODS
from patchbank.pictures.drawing import tiling_picture
from tests.conftest import OF_PICTURES


@pytest.mark.parametrize(("height", "width"), [(96, 700), (256, 256), (512, 672), (1024, 288)])
@pytest.mark.parametrize("overlap", [0, 64, 128])
def test_every_pixel_is_taken_once_and_far_from_cuts(height: int, width: int, overlap: int) -> None:
    taken = np.zeros((height, width), int)
    for rows, columns in Tiling(256, overlap).tiles(height, width):
        taken[rows.first : rows.last, columns.first : columns.last] += 1
        for side, length in ((rows, height), (columns, width)):
            assert 0 <= side.start <= side.first < side.last <= side.stop <= length
            assert side.start == 0 or side.first - side.start >= overlap // 2
            assert side.stop == length or side.stop - side.last >= overlap // 2
            assert side.stop - side.start == min(256, length)
    assert (taken == 1).all()


def test_what_is_local_is_stitched_exactly() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (320, 480, 3), dtype=np.uint8)

    def features(tile: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(tile, 8)[0].permute(1, 2, 0)

    whole = features(torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32)))
    assert torch.equal(Tiling(128, 64).stitched(pixels, (40, 60), features), whole)


def texture(seed: int, size: tuple[int, int] = (768, 1024)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    waves = 40 * np.sin(x / 7 + rng.uniform(0, 6)) + 30 * np.sin(y / 11 + rng.uniform(0, 6))
    return np.clip(128 + waves[..., None] + 6 * rng.standard_normal((*size, 3)), 0, 255).astype(np.uint8)


def test_tiled_features_equal_untiled_ones_away_from_cuts() -> None:
    """Where a tile's cut is farther than the network's effective reach; at half of 64 pixels a little is left."""
    image = texture(0)
    whole = PatchCore(image_size=768, runtime="torch").extractor
    untiled = next(whole.stream(gather(image)))
    assert untiled.grid == (96, 128)
    scale = untiled.vectors.norm(dim=1).mean()
    differences = {}
    for overlap in (64, 256):
        tiled = next(PatchCore(tile=512, overlap=overlap, runtime="torch").extractor.stream(gather(image)))
        assert tiled.grid == untiled.grid
        apart = (tiled.vectors - untiled.vectors).norm(dim=1) / scale
        differences[overlap] = float(apart.max()), float(apart.median())
    assert differences[256][0] < 0.02
    assert differences[256][1] < 1e-4
    assert differences[64][1] < 1e-4
    assert differences[256][0] < differences[64][0]


@pytest.mark.slow
def test_a_small_defect_in_a_large_image_is_found(tmp_path: Path) -> None:
    good = [texture(i) for i in range(4)]
    model = PatchCore(tile=256, bank_size=400).fit(good)
    bad = texture(50)
    bad[500:512, 700:712] = (250, 30, 30)  # 12 of 1024 pixels: gone where the image is reduced to 384
    prediction = model.predict(bad)
    assert prediction.is_anomalous
    assert prediction.map.shape == (768, 1024)
    left, top, right, bottom = prediction.regions[0].box
    assert left < 706 < right
    assert top < 506 < bottom
    assert (right - left) < 120
    assert not model.predict(texture(51)).is_anomalous
    neighbour = prediction.nearest(706, 506)
    assert neighbour.box[2] - neighbour.box[0] == 8
    model.save(tmp_path / "m.patchbank")
    again = load(tmp_path / "m.patchbank")
    assert again.tile == 256
    assert again.predict(bad).score == pytest.approx(prediction.score)
    small = model.predict(texture(60, (120, 200)))  # smaller than a tile
    assert small.map.shape == (120, 200)


@pytest.mark.parametrize("method", [m for m in OF_PICTURES if m != "mahalanobis"])
def test_every_method_takes_tiles(method: str) -> None:
    good = [texture(i, (192, 256)) for i in range(3)]
    model = METHODS[method](tile=128, overlap=64).fit(good)
    prediction = model.predict(texture(9, (192, 256)))
    assert prediction.map.shape == (192, 256)
    assert np.isfinite(prediction.map).all()


def test_tiles_that_cannot_be_used() -> None:
    image = texture(0, (128, 128))
    for options, words in (
        ({"tile": 100}, "tile must be a multiple of 32"),
        ({"tile": 256, "overlap": 40}, "overlap must be a multiple of 64"),
        ({"tile": 128, "overlap": 128}, "at most half a tile"),
        ({"tile": 256, "geometry": "paper"}, "leave out geometry"),
    ):
        with pytest.raises(OptionError, match=words):
            PatchCore(**options).fit([image, image])  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="does not go with tile"):
        METHODS["mahalanobis"](tile=256).fit([image, image])


def test_the_picture_of_the_tiles() -> None:
    image = np.full((400, 600, 3), 200, np.uint8)
    picture = tiling_picture(image, Tiling(256, 64), (384, 608), width=608)
    assert picture.shape == (405, 608, 3)
    assert (picture[100, 100] == 200).all()  # seen by one tile
    assert (picture[100, 210] == 140).all()  # by two
    assert (picture[:, 224] == 255).any()  # a cut at 192 + 32
