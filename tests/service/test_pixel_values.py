"""Uploads of more than eight bits are scaled as the training images of the model were."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import patchbank
from patchbank import PatchCore
from patchbank.errors import PatchbankWarning
from tests.conftest import bad_image, good_image
from tests.data.pictures import png16, tiff
from tests.service.conftest import PNG, URL, Start, inspect


def twelve(picture: np.ndarray) -> np.ndarray:
    return (picture * (4095 / 255)).round().astype(np.uint16)


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "parts.patchbank"
    path.parent.mkdir()
    images = [twelve(good_image(i, (64, 64))) for i in range(8)]
    options = {"weights": "random", "image_size": 64, "bank_size": 60, "threads": 1, "false_alarm_rate": 0.2}
    with pytest.warns(PatchbankWarning, match="0..4095"):
        PatchCore(**options).fit(images).save(path)  # type: ignore[arg-type]
    return path


def test_an_upload_has_the_range_of_the_model(start: Start, deep: Path) -> None:
    picture = twelve(bad_image(51, (96, 96)))
    client = start(models=(deep,))
    data = png16(picture)
    found = inspect(client, data)
    assert found["score"] == pytest.approx(patchbank.load(deep, threads=1).predict(picture).score, rel=1e-5)
    for kind in ("image", "overlay"):
        shown = client.get(f"/v1/history/{found['id']}/{kind}")
        assert shown.status_code == 200, shown.text
        with Image.open(io.BytesIO(shown.content)) as image:
            assert np.asarray(image.convert("L")).mean() > 60  # not nearly black
    assert client.get(f"/page/small/{found['id']}").status_code == 200
    assert client.get(f"/v1/history/{found['id']}/explain").status_code == 200


@pytest.mark.filterwarnings("error::patchbank.errors.PatchbankWarning")
def test_nothing_is_said_while_the_service_starts(start: Start, deep: Path) -> None:
    assert start(models=(deep,)).get("/v1/models").status_code == 200


def test_an_upload_outside_the_range_is_said_by_its_name(start: Start, deep: Path) -> None:
    client = start(models=(deep,))
    with pytest.warns(PatchbankWarning, match=r"^part-7\.png: its values .* lie partly outside 0..4095"):
        inspect(client, png16(np.full((64, 64, 1), 5000, np.uint16)), name="part-7.png")


def test_kinds_of_uploads(start: Start) -> None:
    client = start()
    assert inspect(client, tiff(np.random.default_rng(0).random((64, 64, 3)).astype(np.float32)))["id"] == 1
    pages = io.BytesIO()
    Image.fromarray(good_image(1)).save(
        pages, format="TIFF", save_all=True, append_images=[Image.fromarray(good_image(2))]
    )
    for data, words in (
        (pages.getvalue(), "has 2 pages or frames"),
        (tiff(np.zeros((64, 64, 5), np.uint16)), "is a kind of TIFF that is not supported"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is a PostScript file"),
    ):
        answer = client.post(URL, content=data, headers=PNG)
        assert answer.status_code == 422
        assert words in answer.json()["detail"]


def test_its_own_limit_stays(start: Start) -> None:
    client = start(max_pixels=1000)
    for values in (np.zeros((64, 64), np.uint8), np.zeros((64, 64, 3), np.float32), np.zeros((64, 64, 3), np.uint16)):
        answer = client.post(URL, content=tiff(values), headers=PNG)
        assert (answer.status_code, "64×64 pixels, more than" in answer.json()["detail"]) == (413, True)
