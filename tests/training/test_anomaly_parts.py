"""What anomalies are made of: Perlin noise against a loop over pixels, textures, noise of features."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from patchbank.errors import DatasetError
from patchbank.training.anomalies import (
    PICTURE_KINDS,
    TEXTURE_KINDS,
    Anomalies,
    GeneratedTextures,
    PictureTextures,
    noise_like,
    perlin_mask,
    perlin_noise,
    read_textures,
)
from tests.training.test_anomalies import everywhere, generator, pictures, ramps

# ---- Perlin noise ----------------------------------------------------------------------------------------------------


def literal_noise(canvas: int, side: int, cells: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Perlin 2002, point by point of a square of `canvas` pixels, with the random numbers of `perlin_noise`."""
    start = [float(rng.random(dtype=np.float32)) for _ in range(2)]
    last = [(canvas - 1) * n / side + s for n, s in zip(cells, start, strict=True)]
    turn = rng.uniform(0, 2 * np.pi, (int(last[0]) + 2, int(last[1]) + 2))
    found = np.zeros((canvas, canvas))
    for row in range(canvas):
        for column in range(canvas):
            y, x = row * cells[0] / side + start[0], column * cells[1] / side + start[1]
            for i in (int(y), int(y) + 1):
                for j in (int(x), int(x) + 1):
                    dy, dx = y - i, x - j
                    slope = math.sin(turn[i, j]) * dy + math.cos(turn[i, j]) * dx
                    found[row, column] += weight(abs(dy)) * weight(abs(dx)) * slope
    return found * math.sqrt(2)


def weight(distance: float) -> float:
    return 1 - (6 * distance**5 - 15 * distance**4 + 10 * distance**3)


@pytest.mark.parametrize(("angle", "quarters"), [(0.0, 0), (90.0, 1), (-90.0, 3)])
def test_perlin_noise(angle: float, quarters: int) -> None:
    found = perlin_noise((22, 22), (4, 1), angle, np.random.default_rng(3))  # within a turned square of 32 pixels
    expected = np.rot90(literal_noise(32, 22, (4, 1), np.random.default_rng(3)), quarters)[5:27, 5:27]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_perlin_noise_turned_by_any_angle_fills_the_picture() -> None:
    noise = perlin_noise((40, 60), (8, 8), 45.0, np.random.default_rng(0))
    assert noise.shape == (40, 60)
    corners = [noise[:8, :8], noise[:8, -8:], noise[-8:, :8], noise[-8:, -8:]]
    assert min(float(corner.std()) for corner in corners) > 0.05


def test_perlin_masks_are_above_one_half(monkeypatch: pytest.MonkeyPatch) -> None:
    noises = []

    def noting(*arguments: object) -> np.ndarray:
        noises.append((arguments, perlin_noise(*arguments)))  # type: ignore[arg-type]
        return noises[-1][1]

    monkeypatch.setattr("patchbank.training.anomalies.perlin.perlin_noise", noting)
    masks = [perlin_mask(everywhere(), np.random.default_rng(seed)) for seed in range(60)]
    assert any(np.array_equal(masks[-1], noise > 0.5) for _, noise in noises[-3:])
    assert {n for (_, cells, _, _), _ in noises for n in cells} == {1, 2, 4, 8, 16, 32}
    angles = [angle for (_, _, angle, _), _ in noises]
    assert min(angles) < -60
    assert max(angles) > 60
    assert max(map(abs, angles)) <= 90


def test_a_mask_is_never_empty_and_stays_within_the_foreground() -> None:
    foreground = np.zeros((64, 64), bool)
    foreground[20:23, 30:33] = True
    for seed in range(30):
        mask = perlin_mask(foreground, np.random.default_rng(seed))
        assert mask.any()
        assert not mask[~foreground].any()
    foreground[:] = False
    foreground[63, 0] = True
    assert np.array_equal(perlin_mask(foreground, np.random.default_rng(0)), foreground)


# ---- textures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TEXTURE_KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_generated_textures(kind: str, channels: int) -> None:
    picture = np.random.default_rng(0).random((50, 70, channels), dtype=np.float32)
    drawn = [GeneratedTextures((kind,)).texture(picture, np.random.default_rng(seed)) for seed in range(8)]
    for texture in drawn:
        assert (texture.shape, texture.dtype) == (picture.shape, np.float32)
        assert texture.min() >= 0
        assert texture.max() <= 1
    assert len({texture.tobytes() for texture in drawn}) == 8
    assert max(float(texture.std()) for texture in drawn) > 0.02


@pytest.mark.parametrize("kind", PICTURE_KINDS)
def test_a_grey_picture_stays_grey(kind: str) -> None:
    pages = tuple(np.random.default_rng(i).integers(0, 255, (80, 90, 3), dtype=np.uint8) for i in range(2))
    for textures in (GeneratedTextures(), PictureTextures(pages)):
        after, mask = Anomalies((kind,), textures, normal=0).applied(pictures(8), generator())
        assert mask.any()
        assert float((after.amax(1) - after.amin(1)).max()) < 1e-6


def test_textures_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name, colour in (("red.png", (200, 0, 0)), ("below/blue.jpg", (0, 0, 200))):
        Image.new("RGB", (600, 400), colour).save(tmp_path / name)
    (tmp_path / "text.png").write_text("no image")
    failed: list[str] = []
    textures = read_textures(tmp_path, lambda name, error: failed.append(str(error)))
    assert [picture.shape for picture in textures.pictures] == [(256, 384, 3)] * 2
    assert len(failed) == 1
    assert "text.png" in failed[0]
    drawn = [textures.texture(ramps(40), np.random.default_rng(seed)) for seed in range(12)]
    assert {texture.shape for texture in drawn} == {(40, 40, 3)}
    assert {"rgb"[int(texture.mean((0, 1)).argmax())] for texture in drawn} == {"r", "b"}


def test_folders_without_textures(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no images in this folder"):
        read_textures(tmp_path)
    with pytest.raises(DatasetError, match="no such file or folder"):
        read_textures(tmp_path / "nowhere")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DatasetError, match=r"none of its 1 images can be read, so it gives no textures$"):
        read_textures(tmp_path, lambda name, error: None)


# ---- features --------------------------------------------------------------------------------------------------------


def test_noise_is_relative_to_the_spread_of_each_feature() -> None:
    features, spread = torch.zeros(20_000, 3), torch.tensor([1.0, 10.0, 0.0])
    noise = noise_like(features, spread, 0.5, generator())
    assert noise.shape == features.shape
    assert noise.std(0).tolist() == pytest.approx([0.5, 5.0, 0.0], rel=0.03)
    assert (noise.mean(0).abs() <= 0.02 * spread).all()
    assert torch.equal(noise, noise_like(features, spread, 0.5, generator()))
