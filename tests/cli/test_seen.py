"""What commands show of parts with geometry: beside a picture, and alone."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
from PIL import Image

from patchbank import PatchCore, load
from patchbank.cli import demo
from patchbank.data import gather
from patchbank.demo.solid import draw_solid, write_solid_dataset
from patchbank.pictures.cloud import write_cloud
from patchbank.pictures.explanation import finder, finder_of
from patchbank.shape import read_shape, write_depth_png, write_xyz
from patchbank.shape.format import DepthFormat
from tests.cli.running import patchbank

QUICK = ["--image-size", "96", "--bank-size", "100"]
SHAPES = ["--set", "channels=curvature,normals"]


@pytest.fixture(scope="module")
def solid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plates with a picture and points: 6 to learn from, 2 good and 1 with each defect to inspect."""
    root = tmp_path_factory.mktemp("solid") / "plate"
    return write_solid_dataset(root, "plate", train=6, test_good=2, per_defect=1, size=128)


@pytest.fixture(scope="module")
def model(solid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "plate.patchbank"
    detector = PatchCore(image_size=96, bank_size=100)
    detector.fit(solid / "train/good/rgb").save(path)
    return path


def test_clouds_beside_overlays(model: Path, solid: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    part = solid / "test/cut/rgb/000.png"
    done = patchbank("predict", model, part, "-O", out, "--ply", "--threshold", "0")
    assert done.returncode == 0, done.stderr
    cloud = out / "clouds/000.ply"
    header = cloud.read_bytes().split(b"end_header")[0].decode()
    for name in ("float x", "uchar red", "float anomaly"):
        assert f"property {name}" in header
    shape = read_shape(solid / "test/cut/xyz/000.tiff", DepthFormat(), "part")
    assert f"element vertex {shape.valid.sum()}" in header
    records = np.frombuffer(
        cloud.read_bytes().split(b"end_header\n")[1],
        [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "u1", 3), ("anomaly", "<f4")],
    )
    prediction = load(model).predict(part)
    assert np.array_equal(records["anomaly"], prediction.map[shape.valid])
    picture = cv2.imread(str(part))[..., ::-1][shape.valid]
    calm = records["anomaly"] <= prediction.map_threshold
    assert np.array_equal(records["rgb"][calm], picture[calm])
    assert calm.all() or (records["rgb"][~calm] != picture[~calm]).any()
    with Image.open(out / "overlays/000.png") as overlay:
        assert overlay.height > overlay.width  # picture and surface above, the map below
    patchbank("predict", model, part, "-O", out)  # the folder belongs to one run
    assert not cloud.exists()


def test_hot_points_have_the_colours_of_the_map(solid: Path, tmp_path: Path, model: Path) -> None:
    detector = load(model)
    (source,) = gather(solid / "test/cut/rgb/000.png")
    prediction = replace(detector.predict(source), map_threshold=0.5)
    prediction.map[:] = 0.0
    prediction.map[40:80, 40:80] = 1.0
    write_cloud(tmp_path / "hot.ply", source.seen_in("rgb"), prediction, detector.values_)
    records = np.frombuffer(
        (tmp_path / "hot.ply").read_bytes().split(b"end_header\n")[1],
        [("xyz", "<f4", 3), ("rgb", "u1", 3), ("anomaly", "<f4")],
    )
    hot = records["rgb"][records["anomaly"] == 1.0].astype(int)
    assert (hot[:, 0] > hot[:, 2] + 40).all()  # red over blue


def test_channels_are_told(model: Path, solid: Path, tmp_path: Path) -> None:
    done = patchbank("predict", model, solid / "test/cut/rgb", "-O", tmp_path, "--json")
    (row,) = csv.DictReader((tmp_path / "predictions.csv").open())
    assert list(json.loads(row["channels"])) == ["rgb", "curvature", "normals", "holes"]
    assert json.loads(done.stdout)["channels"] == json.loads(row["channels"])


def test_clouds_are_refused_in_a_sentence(model: Path, model_file: Path, parts: Path, tmp_path: Path) -> None:
    image = parts / "test/good/000.png"
    for arguments, words in (
        ((model_file, image, "-O", tmp_path / "o"), "looks at rgb alone, so there are no points for --ply"),
        ((model, image, "--json"), "--ply needs a folder"),
    ):
        done = patchbank("predict", *arguments, "--ply")
        assert done.returncode == 2
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "o").exists()
    done = patchbank("predict", model, image, "-O", tmp_path / "p", "--ply")
    assert done.returncode == 2
    assert str(image) in done.stderr


def test_explain_shows_both(model: Path, solid: Path, tmp_path: Path) -> None:
    done = patchbank("explain", model, solid / "test/cut/rgb/000.png", "-O", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "standard deviations above good parts" in done.stdout
    document = json.loads((tmp_path / "000.json").read_text())
    assert document["places"][0]["channel"] in ("rgb", "curvature", "normals", "holes")
    detector = load(model)
    name = document["places"][0]["neighbours"][0]["image"]
    original, kept = finder_of(detector)(name), finder(detector.thumbnails_, None)(name)
    for found, size in ((original, (128, 128, 3)), (kept, (128, 128, 3))):
        assert found is not None
        assert found.relief is not None
        assert found.relief.shape == size


def test_the_report_says_what_found_the_defects(model: Path, solid: Path, tmp_path: Path) -> None:
    done = patchbank("evaluate", model, solid, "-O", tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report.html").read_text()
    assert "The model looks at two things" in page
    assert "rgb (the picture)" in page
    (row, *_) = csv.DictReader((tmp_path / "scores.csv").open())
    assert set(json.loads(row["channels"])) == {"rgb", "curvature", "normals", "holes"}


# ---- geometry alone --------------------------------------------------------------------------------------------------


def _write(kind: str, path: Path, shape: object) -> None:
    if kind == "png":
        write_depth_png(path.with_suffix(".png"), shape, 0.05)  # type: ignore[arg-type]
    elif kind == "tiff":
        write_xyz(path.with_suffix(".tiff"), shape)  # type: ignore[arg-type]
    else:
        np.save(path.with_suffix(".npy"), np.where(shape.valid, shape.z, np.nan))  # type: ignore[attr-defined]


@pytest.fixture(scope="module", params=["png", "tiff", "npy"])
def alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plates without pictures: train/good, test/good, test/cut."""
    root: Path = tmp_path_factory.mktemp(request.param)
    for number, (folder, defect, count) in enumerate(
        (("train/good", None, 5), ("test/good", None, 1), ("test/cut", "cut", 1))
    ):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            part = draw_solid("plate", defect, np.random.default_rng([number, i]), 96)
            _write(request.param, root / folder / f"{i:03}", part.shape)
    return root


def test_geometry_alone_is_shown_shaded(alone: Path, tmp_path: Path) -> None:
    model, out = tmp_path / "m.patchbank", tmp_path / "out"
    detector = PatchCore(channels=("curvature", "normals"), image_size=96, bank_size=100)
    detector.fit(alone / "train/good").save(model)
    done = patchbank("predict", model, alone / "test", "-O", out, "--ply")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    overlays = sorted((out / "overlays").rglob("*.png"))
    assert len(overlays) == len(list((out / "clouds").rglob("*.ply"))) == 2
    with Image.open(overlays[0]) as picture:
        panel = np.asarray(picture)[130:500, 20:470].astype(int)
    assert panel.std() > 15  # a surface, no flat grey
    assert (panel.max(axis=2) - panel.min(axis=2)).mean() > 5  # bluish and sandy
    done = patchbank("explain", model, next((alone / "test/cut").iterdir()), "-O", tmp_path / "explained")
    assert done.returncode == 0, done.stderr
    done = patchbank("audit", alone / "train/good", "-O", tmp_path / "audit", *QUICK[:2], *SHAPES)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "audit/report.html").read_text().count("<figure>") >= 5
    audit = json.loads((tmp_path / "audit/audit.json").read_text())
    assert audit["usual_size"] == {"height": 96, "width": 96}


def test_geometry_alone_is_evaluated(alone: Path, tmp_path: Path) -> None:
    if not list(alone.rglob("*.png")) and not list(alone.rglob("*.tiff")):
        pytest.skip("data sets are lists of images")
    done = patchbank("fit", alone, "-o", tmp_path / "m.patchbank", *QUICK, "--channels", "curvature,normals")
    assert done.returncode == 0, done.stderr
    done = patchbank("evaluate", tmp_path / "m.patchbank", alone, "-O", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report/report.html").read_text()
    assert "The model looks at the shape of the part." in page
    assert "as its 3D sensor sees it" in page or "No defective part was missed" in page


# ---- demo ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_demo_with_geometry(tmp_path: Path) -> None:
    few = {"train": 4, "test_good": 1, "per_defect": 1, "size": 96}
    with mock.patch.object(demo, "_SOLID", few):
        done = patchbank("demo", "--3d", "-O", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report.html") == 3
    assert done.stdout.count("stain (drawn in the picture alone)") == 3
    assert "open a report in a browser" in done.stdout
    for kind in ("ring", "plate", "body"):
        assert "The model looks at two things" in (tmp_path / f"{kind}-3d" / "report.html").read_text()


@pytest.mark.slow
def test_a_quick_demo_has_the_same_report(tmp_path: Path) -> None:
    """The wheel's check runs it with as many parts as a user gets."""
    with mock.patch.object(demo, "_QUICK", {"n_train": 12, "n_test_good": 4, "n_per_defect": 1}):
        done = patchbank("demo", "--quick", "-O", tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "gear-quick"
    assert [path.name for path in tmp_path.iterdir()] == ["gear-quick"]
    assert len(list((folder / "gear-seed0" / "train" / "good").iterdir())) == 12
    assert json.loads((folder / "metrics.json").read_text())["image_auroc"] > 0.9
    assert "gear" in (folder / "report.html").read_text()
    assert done.stdout.count("report.html") == 1


def test_a_quick_demo_draws_no_geometry(tmp_path: Path) -> None:
    done = patchbank("demo", "--quick", "--3d", "-O", tmp_path / "out")
    assert done.returncode == 2
    assert "leave out --quick or --3d" in done.stderr
    assert not (tmp_path / "out").exists()
