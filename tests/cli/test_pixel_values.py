"""Pixel values of more than eight bits, and files that are no pictures, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchbank.data import ValueRange
from tests.cli.running import in_its_own_process, patchbank
from tests.conftest import bad_image, good_image
from tests.data.pictures import png16, tiff

QUICK = ["--image-size", "96", "--bank-size", "100"]


def twelve(picture: np.ndarray) -> np.ndarray:
    return (picture * (4095 / 255)).round().astype(np.uint16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("twelve")
    (root / "good").mkdir()
    for i in range(5):
        (root / "good" / f"{i}.png").write_bytes(png16(twelve(good_image(i))))
    (root / "bad.png").write_bytes(png16(twelve(bad_image(9))))
    return root


def test_the_range_is_said_kept_and_shown(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.patchbank"
    done = in_its_own_process("fit", folder / "good", "-o", model, *QUICK)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("note: pixel values: ") == 1
    assert "0..4095 is taken as the full scale; value_range (--full-scale) sets another" in done.stderr
    described = json.loads(patchbank("info", model, "--json").stdout)
    assert described["pixel_values"] == "integers 0..4095"
    done = patchbank("predict", model, folder / "bad.png", "-O", tmp_path / "o")
    assert (done.returncode, "1 rejected" in done.stdout) == (0, True)
    with Image.open(tmp_path / "o" / "overlays" / "bad.png") as overlay:
        assert np.asarray(overlay.convert("L"))[:96, :128].mean() > 60  # not nearly black
    (folder / "bright.png").write_bytes(png16(np.full((96, 128, 1), 9000, np.uint16)))
    Image.fromarray(good_image(1)).save(folder / "eight.png")
    done = in_its_own_process("predict", model, folder / "bright.png", folder / "eight.png", "-O", tmp_path / "o2")
    assert "note: " + str(folder / "bright.png") + ": its values 9000..9000 lie partly outside 0..4095" in done.stderr
    assert "note: " + str(folder / "eight.png") + ": is an 8-bit image" in done.stderr
    assert done.stderr.count("note: ") == 2  # the pictures are drawn from the same files


@pytest.mark.parametrize(
    ("given", "kept"),
    [(["--full-scale", "8190"], [0.0, 8190.0]), (["--set", "value_range=-5,4100"], [-5.0, 4100.0])],
)
def test_a_range_that_was_given(folder: Path, tmp_path: Path, given: list[str], kept: list[float]) -> None:
    model = tmp_path / "m.patchbank"
    assert patchbank("fit", folder / "good", "-o", model, *QUICK, *given).returncode == 0
    described = json.loads(patchbank("info", model, "--json").stdout)
    assert described["options"]["value_range"] == kept
    assert described["pixel_values"].startswith(f"integers {kept[0]:g}..{kept[1]:g}")


@pytest.mark.parametrize(
    "given",
    [
        ["--full-scale", "nan"],
        ["--full-scale", "inf"],
        ["--full-scale", "0"],
        ["--full-scale=-4095"],
        ["--set", "value_range=4095"],
        ["--set", "value_range=9,1"],
        ["--set", "value_range=0,nan"],
        ["--set", "value_range=a,b"],
    ],
)
def test_ranges_that_are_none(folder: Path, tmp_path: Path, given: list[str]) -> None:
    done = patchbank("fit", folder / "good", "-o", tmp_path / "m.patchbank", *given)
    assert done.returncode == 2
    assert "full-scale" in done.stderr or "value_range" in done.stderr
    assert not (tmp_path / "m.patchbank").exists()


def test_a_benchmark_takes_it(folder: Path, tmp_path: Path) -> None:
    for kind in ("good", "spot"):
        (tmp_path / "parts" / "test" / kind).mkdir(parents=True)
    (tmp_path / "parts" / "train").mkdir()
    (tmp_path / "parts" / "train" / "good").symlink_to(folder / "good")
    (tmp_path / "parts" / "test" / "good" / "0.png").write_bytes(png16(twelve(good_image(70))))
    (tmp_path / "parts" / "test" / "spot" / "0.png").write_bytes(png16(twelve(bad_image(71))))
    done = patchbank("benchmark", tmp_path / "parts", "-O", tmp_path / "o", *QUICK, "--full-scale", "4095")
    assert done.returncode == 0, done.stderr
    (metrics,) = (tmp_path / "o").rglob("metrics.json")
    assert json.loads(metrics.read_text())["image_auroc"] == 1.0


def test_what_is_no_picture_is_named_and_the_rest_inspected(model_file: Path, tmp_path: Path) -> None:
    Image.fromarray(good_image(1)).save(tmp_path / "a.png")
    (tmp_path / "b.tif").write_bytes(tiff(np.zeros((96, 128, 5), np.uint16)))
    values = np.full((96, 128), 0.5, np.float32)
    values[0, 0] = np.nan
    (tmp_path / "c.tif").write_bytes(tiff(values))
    (tmp_path / "d.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    Image.fromarray(good_image(2)).save(
        tmp_path / "e.tif", save_all=True, append_images=[Image.fromarray(good_image(3))]
    )
    Image.new("RGB", (64, 64)).save(tmp_path / "f.png", format="EPS")
    done = patchbank("predict", model_file, tmp_path, "-O", tmp_path / "out", "--no-overlays")
    assert done.returncode == 1
    assert "1 image inspected" in done.stdout
    for words in (
        "b.tif: is a kind of TIFF that is not supported (5 channels of 16 bits",
        "c.tif: 1 of its 12288 values are NaN or infinite",
        "d.jpg: is a Git LFS pointer",
        "e.tif: has 2 pages or frames",
        "f.png: is a PostScript file",
    ):
        assert words in done.stderr


def test_no_memory_ends_the_run(model_file: Path, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ValueRange, "scaled", full)
    done = patchbank("predict", model_file, parts / "test" / "good", "-O", tmp_path / "o")
    assert done.returncode == 2
    assert "000.png: there is not enough memory for this image of 128×96 pixels" in done.stderr
    assert "skipped" not in done.stderr


def test_a_squeezed_image_is_said_once(model_file: Path, tmp_path: Path) -> None:
    long = np.tile(good_image(1), (1, 10, 1))
    for name in ("a.png", "b.png"):
        Image.fromarray(long).save(tmp_path / name)
    done = in_its_own_process("predict", model_file, tmp_path, "-O", tmp_path / "o", "--no-overlays")
    assert done.stderr.count("longer side is squeezed to 8 times") == 1
    assert "a.png: has 1280×96 pixels" in done.stderr
