"""Which channels a fit looks at where nothing but the files says it, and options that have no effect there."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import patchbank
from patchbank.data import gather
from patchbank.demo.solid import draw_solid
from patchbank.errors import OptionError, PatchbankWarning
from patchbank.features.channels import WITH_GEOMETRY
from patchbank.features.deciding import decide_channels
from patchbank.shape import DepthFormat, write_depth_png, write_xyz
from tests.cli.running import patchbank as command
from tests.conftest import good_image

ALONE = WITH_GEOMETRY[1:]


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for i in range(4):
        write_xyz(folder / f"{i}.tiff", draw_solid("plate", None, np.random.default_rng(i), 96).shape)
    return folder


def test_xyz_images_alone_are_geometry(scans: Path, tmp_path: Path) -> None:
    with pytest.warns(PatchbankWarning, match="hold points, not colours: the channels curvature,normals,holes"):
        assert decide_channels(None, gather(scans)) == ALONE
    assert decide_channels(("rgb",), gather(scans)) == ("rgb",)
    done = command("fit", scans, "-o", tmp_path / "m.patchbank", "--image-size", 96, "--bank-size", 20)
    assert done.returncode == 0, done.stderr
    assert "geometry of" in done.stderr
    done = command("predict", tmp_path / "m.patchbank", scans / "0.tiff", "-O", tmp_path / "out")
    assert "1 image inspected" in done.stdout, done.stderr


def test_the_name_of_a_folder_tells_geometry(tmp_path: Path) -> None:
    for name in ("depth", "parts"):
        (tmp_path / name).mkdir()
        write_depth_png(tmp_path / name / "0.png", draw_solid("plate", None, np.random.default_rng(0), 96).shape, 0.1)
    with pytest.warns(PatchbankWarning, match="hold points"):
        assert decide_channels(None, gather(tmp_path / "depth")) == ALONE
    assert decide_channels(None, gather(tmp_path / "parts")) == ("rgb",), "it could be a grey picture"


@pytest.mark.parametrize("kind", ["floats", "noise", "eight bits", "few"])
def test_pictures_of_floats_stay_pictures(kind: str, tmp_path: Path) -> None:
    values = good_image(0).astype(np.float32) / 255
    if kind == "noise":
        values = np.random.default_rng(0).random((64, 64, 3), dtype=np.float32)
    elif kind == "eight bits":
        values = good_image(0)
    elif kind == "few":
        values = np.ones((4, 4, 3), np.float32)
    (tmp_path / "0.tiff").write_bytes(cv2.imencode(".tiff", values)[1].tobytes())
    assert decide_channels(None, gather(tmp_path)) == ("rgb",)


def test_options_of_geometry_are_refused_for_pictures(parts: Path, tmp_path: Path) -> None:
    images = [good_image(i) for i in range(3)]
    with pytest.raises(OptionError, match=r"depth \(--depth-unit, .+ only rgb is inspected: leave it out"):
        patchbank.PatchCore(image_size=64, depth=DepthFormat(unit="mm")).fit(images)
    with pytest.raises(OptionError, match="fusion=max makes one score of several channels, and rgb alone is inspected"):
        patchbank.PatchCore(image_size=64, fusion="max").fit(images)
    for option in (("--depth-axis", "height"), ("--invalid", "-1"), ("--fusion", "learned")):
        done = command("fit", parts, "-o", tmp_path / "m.patchbank", *option)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
