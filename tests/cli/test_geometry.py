"""Parts with geometry, by the command line."""

from __future__ import annotations

import csv
import functools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from patchbank.features import point_mae
from patchbank.features.channels import opened_points
from patchbank.features.point_mae import PointMAE
from tests.cli.running import patchbank

SMALL = ("--image-size", "128", "--threads", "1")
USUAL = ["rgb", "curvature", "normals", "holes"]


@pytest.fixture(scope="module")
def model(solid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("model") / "ring.patchbank"
    done = patchbank("fit", solid, "-o", file, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "the channels rgb,curvature,normals,holes are inspected" in done.stderr
    assert "extent" in done.stderr
    assert "learned from 10 images" in done.stdout
    return file


@pytest.fixture
def heights(tmp_path: Path) -> Path:
    """Heights alone, in hundredths of a millimetre."""
    y, x = np.mgrid[:96, :96] / 96 - 0.5
    (tmp_path / "heights").mkdir()
    for i in range(4):
        noise = 0.01 * np.random.default_rng(i).standard_normal((96, 96))
        values = 50 + 3 * np.cos(6 * np.hypot(x, y)) + noise
        cv2.imwrite(str(tmp_path / f"heights/{i}.png"), (100 * values).astype(np.uint16))
    (tmp_path / "pitch.json").write_text(json.dumps({"pitch": 0.1}))
    return tmp_path / "heights"


def test_predict(model: Path, solid: Path, tmp_path: Path) -> None:
    done = patchbank("predict", model, solid / "test/cut/rgb", "-O", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[0])
    assert list(row["channels"]) == USUAL
    assert len(list(csv.DictReader((tmp_path / "out/predictions.csv").open()))) == 1


def test_predict_beside_a_part_without_geometry(model: Path, solid: Path, tmp_path: Path) -> None:
    for name in ("rgb", "xyz"):
        (tmp_path / name).mkdir()
        for file in (solid / f"test/good/{name}").iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    (tmp_path / "xyz/001.tiff").unlink()
    done = patchbank("predict", model, tmp_path, "--json")
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1
    assert "001.png: has no channel 'curvature', which is made of 'xyz'" in done.stderr


def test_evaluate(model: Path, solid: Path, tmp_path: Path) -> None:
    done = patchbank("evaluate", model, solid, "-O", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").is_dir()


def test_info_says_what_is_inspected(model: Path, heights: Path, tmp_path: Path) -> None:
    done = patchbank("info", model)
    assert "rgb; curvature; normals" in done.stdout
    assert "in m; depths grow away from the camera; no point: 0, -32768; on a background; up to" in done.stdout
    assert json.loads(patchbank("info", model, "--json").stdout)["inspects"] == USUAL
    assert len(patchbank("info", model, "--images").stdout.splitlines()) == 10


def test_methods_say_what_they_need() -> None:
    rows = {row["name"]: row for row in json.loads(patchbank("methods", "--json").stdout)}
    for name in ("btf", "cpmf", "m3dm"):
        assert "geometry" in rows[name]["needs"]
    assert "two channels" in rows["cfm"]["needs"]
    assert all(line.strip()[-1] not in ";," for line in patchbank("methods").stdout.splitlines())


@pytest.mark.parametrize("fusion", ["max", "learned", "concat"])
def test_options_of_a_fit(solid: Path, tmp_path: Path, fusion: str) -> None:
    done = patchbank(
        "fit", solid / "train/good", "-o", tmp_path / "m.patchbank", *SMALL, "--channels", "rgb, height", "--fusion",
        fusion, "--depth-unit", "1000", "--invalid", "0,-1", "--shots", 4,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(patchbank("info", tmp_path / "m.patchbank", "--json").stdout)
    assert found["inspects"] == ["rgb", "height"]
    assert found["options"]["fusion"] == fusion
    assert found["geometry"].startswith("in 1000 mm; depths grow away from the camera; no point: 0, -1")
    assert patchbank("predict", tmp_path / "m.patchbank", solid / "test/cut/rgb", "--json").returncode == 0


def test_heights_alone(heights: Path, tmp_path: Path) -> None:
    done = patchbank(
        "fit", heights, "-o", tmp_path / "m.patchbank", "--channels", "curvature,normals", "--depth-axis", "height",
        "--depth-unit", "0.01", "--camera", tmp_path / "pitch.json", "--image-size", "96", "--threads", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "extent 9.5 × 9.5 × 6" in done.stderr
    done = patchbank("predict", tmp_path / "m.patchbank", heights, "--json")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4
    assert "Pitch(x=0.1, y=0.1)" in patchbank("info", tmp_path / "m.patchbank").stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--channels", "rgb,heat"], "channels must be among rgb"),
        (["--channels", ","], "channels must be among"),
        (["--fusion", "mean"], "fusion must be one of"),
        (["--depth-unit", "mile"], "unit"),
        (["--depth-unit", "-1"], "unit"),
        (["--depth-axis", "up"], "--depth-axis must be one of depth"),
        (["--invalid", "none"], "--invalid takes numbers such as 0 or 0,65535, not 'none'"),
        (["--camera", "gone.json"], "gone.json: cannot be read as a camera"),
        (["--method", "m3dm"], "m3dm needs weights of Point-MAE: give their file as point_weights"),
        (["--method", "m3dm", "--set", "point_weights=gone.pth"], "gone.pth"),
        (["--method", "cpmf", "--set", "views=3"], "views must be 1, 9 or 27, not 3"),
        (["--method", "cpmf", "--fusion", "max"], "fusion has no effect on cpmf"),
        (["--method", "cfm", "--channels", "rgb"], "cfm takes two channels"),
        (["--method", "patchcore", "--streaming"], "coreset='stream' is for one channel"),
        (["--align"], "align lays pictures over each other, not curvature"),
    ],
    ids=str,
)
def test_wrong_values_are_one_sentence(solid: Path, tmp_path: Path, options: list[str], words: str) -> None:
    done = patchbank("fit", solid / "train/good", "-o", tmp_path / "m.patchbank", *SMALL, *options)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert words in last.replace("│", ""), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "m.patchbank").exists()


def test_weights_of_points(solid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = functools.partial(point_mae.load_point_mae, centres=32, neighbours=16)
    monkeypatch.setattr(point_mae, "load_point_mae", few)
    torch.manual_seed(0)
    torch.save({"base_model": PointMAE().state_dict()}, tmp_path / "points.pth")
    done = patchbank(
        "fit", solid / "train/good", "-o", tmp_path / "m.patchbank", *SMALL, "--method", "m3dm", "--set",
        f"point_weights={tmp_path / 'points.pth'}", "--shots", 2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert patchbank("predict", tmp_path / "m.patchbank", solid / "test/cut/rgb", "--json").returncode == 0
    (tmp_path / "points.pth").unlink()
    opened_points.cache_clear()
    done = patchbank("predict", tmp_path / "m.patchbank", solid / "test/cut/rgb", "--json")
    assert done.returncode == 2
    assert "points.pth" in done.stderr
    assert "Traceback" not in done.stderr


def test_benchmark(solid: Path, tmp_path: Path) -> None:
    done = patchbank(
        "benchmark", solid, "-O", tmp_path / "out", *SMALL, "--methods", "btf", "--depth-unit", "m",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    again = patchbank(
        "benchmark", solid, "-O", tmp_path / "out", *SMALL, "--methods", "btf", "--depth-unit", "m",
    )  # fmt: skip
    assert again.returncode == 0, again.stderr


def test_a_refused_export(model: Path, tmp_path: Path) -> None:
    done = patchbank("export", model, "-O", tmp_path / "e")
    assert done.returncode == 2
    assert "a graph sees one picture, and this model looks at rgb,curvature,normals,holes" in done.stderr
