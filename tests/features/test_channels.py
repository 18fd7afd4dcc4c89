"""Channels of a sample that are made of its geometry: what is chosen, what is decided at the fit, what is refused."""

from __future__ import annotations

import dataclasses
import re
import shutil
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from patchbank import PatchCore
from patchbank.data import Sample, gather, read_image
from patchbank.data.channels import check_complete
from patchbank.demo.solid import draw_solid
from patchbank.errors import DatasetError, ImageError
from patchbank.features.channels import WITH_GEOMETRY
from patchbank.features.deciding import decide_channels
from patchbank.shape import DepthFormat, Pitch
from patchbank.shape.decide import Depths, decide_depths, read_sample_shape
from patchbank.shape.images import SHAPE_IMAGES
from tests.conftest import small_solid

RGB = np.full((64, 64, 3), 90, np.uint8)


def bowl(size: int = 64, seed: int = 0, top: float = 3.0) -> np.ndarray:
    """Heights of a round part without a background, H×W float32 millimetres."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    noise = 0.01 * np.random.default_rng(seed).standard_normal((size, size))
    return (50 + top * np.cos(6 * np.hypot(x, y)) + noise).astype(np.float32)


def xyz_of(file: Path) -> np.ndarray:
    """H×W×3 metres of a written part."""
    return np.ascontiguousarray(cv2.imread(str(file), cv2.IMREAD_UNCHANGED)[..., ::-1])


@pytest.fixture
def train(solid: Path) -> list[dict[str, np.ndarray]]:
    """Arrays of the drawn parts."""
    folder = solid / "train/good"
    return [{"rgb": cv2.imread(str(folder / f"rgb/{i:03}.png"))[..., ::-1].copy(),
             "xyz": xyz_of(folder / f"xyz/{i:03}.tiff")} for i in range(5)]  # fmt: skip


# ---- which channels --------------------------------------------------------------------------------------------------


def test_channels_follow_from_most_samples() -> None:
    both, alone = gather([{"rgb": RGB, "xyz": bowl()}])[0], gather([RGB])[0]
    assert decide_channels(None, [alone] * 3) == ("rgb",)
    with pytest.warns(UserWarning, match="1 of 3 samples have geometry: rgb alone is inspected"):
        assert decide_channels(None, [both, alone, alone]) == ("rgb",)
    with pytest.warns(UserWarning, match="the samples have geometry"):
        assert decide_channels(None, [both, both, alone]) == WITH_GEOMETRY
    with pytest.warns(UserWarning, match="the samples have geometry"):
        assert decide_channels(None, gather([{"xyz": bowl()}])) == WITH_GEOMETRY[1:]
    assert decide_channels(("height",), [both]) == ("height",)
    own = ("rgb", "relief")
    with pytest.warns(match="the channels rgb,relief are inspected"):
        assert decide_channels(None, [both], with_geometry=own) == own


def test_a_sample_is_complete_or_refused_by_name() -> None:
    both = gather([{"rgb": RGB, "xyz": bowl()}])[0]
    check_complete(both, ("rgb", "curvature", "fpfh"))
    check_complete(Sample.of("a", RGB), ("curvature", "normals"))  # a plain image is what is looked at
    check_complete(Sample.of("a", RGB), ("rgb",))
    with pytest.raises(ImageError, match=r"^a: is one image, and the model inspects rgb and xyz"):
        check_complete(Sample.of("a", RGB), ("rgb", "curvature"))
    with pytest.raises(
        ImageError, match=r"^image 0: has no channel 'normals', which is made of 'xyz' \(it has 'rgb'\)"
    ):
        check_complete(gather([{"rgb": RGB}])[0], ("rgb", "normals"))


# ---- what is decided at the fit --------------------------------------------------------------------------------------


def test_the_background_is_that_of_most_samples(solid: Path) -> None:
    """One part that fills the picture does not change how the others are seen; and a model without a background looks
    for none."""
    on_plane = gather(solid / "train/good")[:4]
    filling = gather([{"xyz": bowl(128, i)} for i in range(4)])
    millimetres = DepthFormat(unit="mm", camera=Pitch(0.5, 0.5))
    decided = decide_depths(on_plane, ("curvature",), None)
    assert decided is not None
    assert decided.background
    decided = decide_depths(filling, ("curvature",), millimetres)
    assert decided is not None
    assert not decided.background
    assert Depths.of(decided.state()) == decided
    shape = read_sample_shape(on_plane[0], Depths(DepthFormat(unit="m"), 1.0))
    alone = dataclasses.replace(decided, across_mm=None).surface(shape)
    assert not alone.plane.is_background
    assert Depths(DepthFormat(unit="m"), 1.0).surface(shape).plane.is_background
    # the highest part is measured in the frame that all are seen in
    metres = decide_depths(on_plane, ("curvature",), DepthFormat(unit="m"))
    assert metres is not None
    assert metres.top_mm < 60


def test_depths_of_the_first_files() -> None:
    state = Depths(DepthFormat(unit="m"), 2.0).state()
    del state["background"], state["across_mm"]
    assert Depths.of(state) == Depths(DepthFormat(unit="m"), 2.0, True, None)


def test_the_unit_is_that_of_most_samples(train: list[dict[str, np.ndarray]]) -> None:
    """A first sample in millimetres among samples in metres is the one that is refused."""
    train[0]["xyz"] = train[0]["xyz"] * 1000
    failed: list[str] = []
    model = small_solid().fit(train, on_error=lambda name, error: failed.append(f"{error}"))
    assert model.values_.depths.format.unit == "m"
    assert model.training_["images"] == 4
    assert len(failed) == 1
    assert failed[0].startswith("image 0: has points that span")


def test_a_shape_image_as_a_picture(solid: Path, solid_model: PatchCore) -> None:
    sample = gather(str(solid / "test/dent/rgb/000.png"))[0]
    depths = solid_model.values_.depths
    surface = depths.surface(read_sample_shape(sample, depths))
    for name, image in SHAPE_IMAGES.items():
        seen = read_image(sample.seen_in(name), solid_model.values_)
        assert np.array_equal(seen, image(surface, depths.top_mm))
    assert read_image(sample.seen_in("fpfh"), solid_model.values_).shape == (128, 128, 3)


# ---- samples that cannot be inspected --------------------------------------------------------------------------------


def wrong_unit(sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**sample, "xyz": sample["xyz"] * 1000}


def swapped(sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**sample, "xyz": np.ascontiguousarray(sample["xyz"][..., ::-1])}


def nothing_valid(sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**sample, "xyz": np.full_like(sample["xyz"], np.nan)}


def another_size(sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**sample, "rgb": sample["rgb"][:100, :90]}


def without_geometry(sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"rgb": sample["rgb"]}


def without_picture(sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"xyz": sample["xyz"]}


def in_no_order(sample: dict[str, np.ndarray]) -> dict[str, object]:
    points = "\n".join(f"{x} {y} 500" for x in range(20) for y in range(20))
    head = (
        "ply\nformat ascii 1.0\nelement vertex 400\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    )
    return {**sample, "xyz": (head + points + "\n").encode()}


def strip(sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"rgb": np.zeros((1, 1000, 3), np.uint8), "xyz": np.ones((1, 1000), np.float32)}


def half_a_file(sample: dict[str, np.ndarray]) -> dict[str, object]:
    whole = cv2.imencode(".tiff", sample["xyz"])[1].tobytes()
    return {**sample, "xyz": whole[: len(whole) // 2]}


def a_picture_as_geometry(sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**sample, "xyz": sample["rgb"]}


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        (wrong_unit, "span .* mm, where those of the parts learned from span"),
        (swapped, "camera|axes"),
        (nothing_valid, "has a point in 0 % of its pixels"),
        (another_size, r"rgb has 90×100 pixels and xyz 128×128"),
        (without_geometry, "has no channel 'curvature', which is made of 'xyz'"),
        (without_picture, r"has no channel 'rgb' \(it has 'xyz'\)"),
        (in_no_order, "points in no order of rows and columns"),
        (strip, "is a strip of 1000×1 pixels"),
        (half_a_file, "damaged|cut off|cannot be read|ends"),
        (a_picture_as_geometry, "as a picture or a normal map has"),
    ],
)
def test_one_bad_sample_is_named_and_the_rest_goes_on(
    train: list[dict[str, np.ndarray]], solid_model: PatchCore, spoilt: object, words: str
) -> None:
    bad = spoilt(train[2])  # type: ignore[operator]
    failed: list[tuple[str, str]] = []
    mixed = [*train[:2], bad, *train[3:]]
    model = small_solid().fit(mixed, on_error=lambda name, error: failed.append((name, str(error))))
    assert model.training_["images"] == 4
    assert model.training_["unreadable"] == 1
    found = list(solid_model.predict_many(mixed, on_error=lambda name, error: failed.append((name, str(error)))))
    assert [prediction.path for prediction in found] == [f"image {i}" for i in (0, 1, 3, 4)]
    assert len(failed) == 2
    for name, sentence in failed:
        assert name == "image 2"
        assert sentence.startswith("image 2: "), sentence
        assert sentence.count("image 2") == 1
        assert "\n" not in sentence
        assert re.search(words, sentence), sentence
    with pytest.raises(ImageError):
        solid_model.predict(bad)


def test_points_that_are_no_numbers_are_holes(train: list[dict[str, np.ndarray]], solid_model: PatchCore) -> None:
    xyz = train[0]["xyz"].copy()
    xyz[40:60, 40:60] = np.nan
    xyz[60:70, 40:60] = np.inf
    prediction = solid_model.predict({"rgb": train[0]["rgb"], "xyz": xyz})
    assert np.isfinite(prediction.map).all()


def test_a_damaged_file_in_a_folder(solid: Path, tmp_path: Path) -> None:
    shutil.copytree(solid / "train/good", tmp_path / "good")
    file = tmp_path / "good/xyz/004.tiff"
    file.write_bytes(file.read_bytes()[:5000])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = small_solid().fit(tmp_path / "good")
        found = list(model.predict_many(tmp_path / "good"))
    assert model.training_["images"] == len(found) == 9
    assert sum("004.png" in str(each.message) for each in caught) == 2


def test_none_that_can_be_read(tmp_path: Path) -> None:
    failed: list[str] = []
    with pytest.raises(DatasetError, match="none of the 2 images could be read"):
        small_solid().fit([{"rgb": RGB}, RGB], on_error=lambda name, error: failed.append(name))
    assert failed == ["image 0", "image 1"]


# ---- heights alone ---------------------------------------------------------------------------------------------------


def test_a_folder_of_heights(tmp_path: Path) -> None:
    """16-bit pictures of heights are geometry where the channels say so."""
    for i in range(4):
        cv2.imwrite(str(tmp_path / f"{i}.png"), (bowl(96, i) * 100).astype(np.uint16))
    format = DepthFormat(unit=0.01, axis="height", camera=Pitch(0.1, 0.1))
    model = PatchCore(image_size=96, threads=1, channels=WITH_GEOMETRY[1:], depth=format).fit(tmp_path)
    assert model.values_.depths.format == format
    assert 2 < model.values_.depths.top_mm < 8
    assert np.isfinite(model.predict(str(tmp_path / "0.png")).score)
    assert np.isfinite(model.predict((bowl(96, 9) * 100).astype(np.uint16)).score)


def test_a_change_of_rgb_alone_or_depth_alone(solid_model: PatchCore) -> None:
    """The rgb channel does not see a dent, and the curvature channel no stain: their features are equal."""
    for defect, unchanged in (("dent", 0), ("stain", 1)):
        items = []
        for kind in (None, defect):
            part = draw_solid("ring", kind, np.random.default_rng(5), 128)
            items.append(next(solid_model.extractor.stream(gather({"rgb": part.rgb, "xyz": part.shape.xyz() / 1000}))))
        widths = solid_model.extractor.widths
        good, bad = (item.vectors.split(widths, -1)[unchanged] for item in items)
        assert bool((good == bad).all())


def test_other_units_give_the_same_channels() -> None:
    part = draw_solid("ring", None, np.random.default_rng(5), 128)
    seen = []
    for unit, factor in (("mm", 1.0), ("m", 1e-3), ("um", 1e3)):
        sample = gather({"xyz": part.shape.xyz() * np.float32(factor)})[0]
        depths = decide_depths([sample], ("curvature",), DepthFormat(unit=unit))
        surface = depths.surface(read_sample_shape(sample, depths))  # type: ignore[union-attr]
        seen.append(SHAPE_IMAGES["curvature"](surface, depths.top_mm).astype(int))  # type: ignore[union-attr]
    assert max(np.abs(seen[0] - other).max() for other in seen[1:]) <= 2
