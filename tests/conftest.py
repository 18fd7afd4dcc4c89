"""What several tests share: small good and bad images, a small fitted model, and the real images where they are."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchbank import PatchCore, fitting
from patchbank.demo.solid import write_solid_dataset
from patchbank.features.aggregation import Arrangement
from patchbank.features.backbones import Backbone, backbone
from patchbank.methods import METHODS
from patchbank.scoring.displacement import Response

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


# the methods that pictures are enough for; those that learn weights have their own tests (tests/training)
OF_PICTURES = {
    name: method
    for name, method in METHODS.items()
    if "geometry" not in method.needs and not method.scorer_class.learns_weights
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: the last tests to run are short, and no worker waits long for another."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def networks_stay_open() -> Iterator[None]:
    """Each network is opened and measured once in a process: together that takes twenty times as long as a small fit,
    and the product keeps the last four networks only."""
    measure, known = fitting.response_of, dict[Any, Response]()

    def response_of(network: Backbone, arrangement: Arrangement) -> Response:
        ran_by = (network.runtime, network.device, network.precision, network.has_head)
        key = (network.name, network.checksum, network.levels, ran_by, arrangement)
        if key not in known:
            known[key] = measure(network, arrangement)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "_reuse", lru_cache(maxsize=16)(backbone._reuse.__wrapped__))
        patch.setattr(fitting, "response_of", response_of)
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images beside the project; skips where it is absent."""
    if not DATA.is_dir():
        pytest.skip("the real images (../shared/data) are not on this machine")
    return DATA


def good_image(seed: int, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """A nominal part: stripes with noise and a random phase."""
    rng = np.random.default_rng(seed)
    _, x = np.mgrid[: size[0], : size[1]]
    stripes = 128 + 60 * np.sin(x / 5 + rng.uniform(0, 6)) + 8 * rng.standard_normal(size)
    return np.repeat(np.clip(stripes, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def bad_image(seed: int, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """A nominal part with a bright spot at rows 40-60, columns 70-90."""
    image = good_image(seed, size)
    image[40:60, 70:90] = (250, 40, 40)
    return image


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset in the mvtec layout: 8 good to train, 4 good and 4 bad to test, with masks."""
    root = tmp_path_factory.mktemp("parts")
    for folder, images in {
        "train/good": [good_image(i) for i in range(8)],
        "test/good": [good_image(100 + i) for i in range(4)],
        "test/spot": [bad_image(200 + i) for i in range(4)],
    }.items():
        (root / folder).mkdir(parents=True)
        for i, image in enumerate(images):
            Image.fromarray(image).save(root / folder / f"{i:03}.png")
    (root / "ground_truth/spot").mkdir(parents=True)
    mask = np.zeros((96, 128), np.uint8)
    mask[40:60, 70:90] = 255
    for i in range(4):
        Image.fromarray(mask).save(root / f"ground_truth/spot/{i:03}_mask.png")
    return root


def small_model(**options: object) -> PatchCore:
    """A quick detector: real weights, small images, few patches."""
    return PatchCore(**{"image_size": 96, "bank_size": 100, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def fitted(parts: Path) -> PatchCore:
    """A small model fitted to the good parts. Do not change it."""
    return small_model().fit(parts / "train" / "good")


@pytest.fixture(scope="session")
def model_file(fitted: PatchCore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model's file."""
    path = tmp_path_factory.mktemp("model") / "parts.patchbank"
    fitted.save(path)
    return path


@pytest.fixture(scope="session")
def solid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small drawn rings with a picture and points: 10 good to train, 2 good and 4 defective to test. Do not change
    it."""
    folder = tmp_path_factory.mktemp("solid") / "ring"
    return write_solid_dataset(folder, "ring", train=10, test_good=2, per_defect=1, size=128)


def small_solid(**options: object) -> PatchCore:
    """A quick detector of several channels."""
    return PatchCore(
        **{"image_size": 128, "channels": ("rgb", "curvature", "normals"), "threads": 1, **options}  # type: ignore
    )


@pytest.fixture(scope="session")
def solid_model(solid: Path) -> PatchCore:
    """Fitted to the drawn rings. Do not change it."""
    return small_solid().fit(solid / "train/good")
