"""An image that goes away or changes while a detector learns costs that image, never the fit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchbank import PatchCore
from patchbank.errors import DatasetError
from patchbank.features.extractor import Extractor
from patchbank.methods import METHODS
from patchbank.methods.ensemble import Ensemble
from tests.conftest import OF_PICTURES, good_image

SMALL = {"weights": "random", "image_size": 64, "threads": 1}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for i in range(24):
        Image.fromarray(good_image(i, (64, 64))).save(tmp_path / f"{i:02}.png")
    return tmp_path


def going(monkeypatch: pytest.MonkeyPatch, walk: int, change: Any) -> None:
    """Have `change` called once, when the images are walked through for that time."""
    stream, count = Extractor.stream, [0]

    def changing(self: Extractor, *arguments: Any, **options: Any) -> Any:
        count[0] += 1
        if count[0] == walk:
            change()
        return stream(self, *arguments, **options)

    monkeypatch.setattr(Extractor, "stream", changing)


WAYS = [(calibration, walk) for calibration in ("auto", "held-out", "k-fold") for walk in (1, 2)]


@pytest.mark.parametrize(  # all ways for one method of each kind, and one way each for the others, in turn
    ("method", "calibration", "walk"),
    [
        *((name, *way) for name in ("patchcore", "padim", "stream") for way in WAYS),
        *((name, *WAYS[i % 6]) for i, name in enumerate(OF_PICTURES) if name not in ("patchcore", "padim")),
    ],
)
def test_one_image_is_lost_not_the_fit(
    method: str, calibration: str, walk: int, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    options: dict[str, Any] = {"coreset": "stream"} if method == "stream" else {}
    going(monkeypatch, walk, lambda: [(images / f"{i:02}.png").unlink(missing_ok=True) for i in (0, 7, 23)])
    detector = METHODS["patchcore" if method == "stream" else method](**SMALL, **options, calibration=calibration)
    detector.fit(images, on_error=lambda name, error: told.append(Path(name).name))
    assert set(told) <= {"00.png", "07.png", "23.png"}
    assert np.isfinite(detector.calibration_.threshold)
    assert len(detector.calibration_) > 0
    assert detector.predict(images / "01.png").score >= 0 or method == "lmf"


@pytest.mark.parametrize("method", ["padim", "subspace"])
def test_a_second_walk_leaves_out_what_has_gone(method: str, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    whole = METHODS[method](**SMALL, calibration="leave-one-out").fit(images)
    going(monkeypatch, 2, lambda: [(images / f"{i:02}.png").unlink() for i in (0, 7, 23)])
    detector = METHODS[method](**SMALL, calibration="leave-one-out")
    detector.fit(images, on_error=lambda name, error: told.append(str(error)))
    assert len(told) == 3
    assert all("learned from, but gone when the threshold was set" in error for error in told)
    assert detector.training_["images"] == 24
    kept = [i for i in range(24) if i not in (0, 7, 23)]
    assert [Path(name).name for name in detector.calibration_.images] == [f"{i:02}.png" for i in kept]
    np.testing.assert_allclose(detector.calibration_.scores, whole.calibration_.scores[kept], rtol=1e-6)


def test_all_gone_is_one_sentence(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    going(monkeypatch, 2, lambda: [path.unlink() for path in images.iterdir()])
    with pytest.raises(DatasetError, match="none of the images that were learned from could be read a second time"):
        METHODS["padim"](**SMALL, calibration="leave-one-out").fit(images, on_error=lambda name, error: None)


def test_an_image_that_grows_is_passed_over(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    large = good_image(1, (128, 640))
    going(monkeypatch, 1, lambda: Image.fromarray(large).save(images / "23.png"))
    detector = PatchCore(weights="random", threads=1, calibration="leave-one-out")
    detector.fit(images, on_error=lambda name, error: told.append(str(error)))
    assert told == [f"{images / '23.png'}: changed while it was learned from"]
    assert len(detector.calibration_) == 23


def test_members_of_an_ensemble_share_what_is_left(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {**SMALL, "calibration": "leave-one-out"}
    ensemble = Ensemble(members=[PatchCore(**options), PatchCore(**options, seed=0, sigma=2.0)])
    going(monkeypatch, 2, lambda: (images / "05.png").unlink(missing_ok=True))
    ensemble.fit(images, on_error=lambda name, error: None)
    assert len(ensemble.calibration_) == 23
    assert "05.png" not in {Path(name).name for name in ensemble.calibration_.images}
    copy = images / "copy"
    copy.mkdir()
    shutil.copy(images / "01.png", copy)
    assert np.isfinite(ensemble.predict(copy / "01.png").score)
