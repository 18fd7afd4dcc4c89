"""Nothing is passed over in silence: what commands say of what lies beside the images, and their exit codes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.running import patchbank
from tests.conftest import bad_image, good_image

QUICK = ("--image-size", "64", "--bank-size", "50", "--threads", "1")


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder named `closed` cannot be opened, not even by root."""
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if isinstance(path, Path) and path.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "learned"
    folder.mkdir()
    for i in range(6):
        Image.fromarray(good_image(50 + i, (64, 64))).save(folder / f"{i}.png")
    assert patchbank("fit", folder, "-o", tmp_path / "m.patchbank", *QUICK).returncode == 0
    return tmp_path / "m.patchbank"


@pytest.fixture
def g(tmp_path: Path) -> Path:
    """Six images, one of them in a folder that is closed, beside a loop, a text and folders of the system."""
    folder = tmp_path / "g"
    (folder / "closed").mkdir(parents=True)
    (folder / "@eaDir").mkdir()
    endings = ("png", "JPE", "jfif", "pnm", "tga")
    for i, ending in enumerate(endings):
        Image.fromarray(good_image(i, (64, 64))).save(folder / f"{i}.{ending}")
    for other in ("closed", "@eaDir"):
        Image.fromarray(good_image(9, (64, 64))).save(folder / other / "9.png")
    (folder / "again").symlink_to(".")
    (folder / "labels.csv").write_text("0.png,ok\n")
    (folder / "Thumbs.db").touch()
    return folder


NOTES = (
    "1 folder that cannot be opened",
    "1 file that is no image",
    "1 file or folder of the system",
    "1 link to a folder",
)


@pytest.mark.usefixtures("closed")
def test_every_command_that_takes_a_folder_names_what_it_did_not_take(g: Path, model: Path, tmp_path: Path) -> None:
    for command in (
        ("fit", g, "-o", tmp_path / "new.patchbank", *QUICK),
        ("predict", model, g, "-O", tmp_path / "out", "--no-overlays"),
        ("explain", model, g, "-O", tmp_path / "why"),
        ("audit", g, "-O", tmp_path / "audit", "--image-size", "64", "--threads", "1"),
        ("add", model, g, "-o", tmp_path / "added.patchbank"),
        ("calibrate", model, g, "-o", tmp_path / "calibrated.patchbank"),
    ):
        done = patchbank(*command)
        assert done.returncode == 1, (command[0], done.stderr)
        assert f"skipped {g / 'closed'}: the folder cannot be opened (Permission denied)" in done.stderr
        for words in NOTES:
            assert done.stderr.count(words) == 1, (command[0], words, done.stderr)
    assert "closed" in (tmp_path / "out/errors.csv").read_text()
    assert len((tmp_path / "out/predictions.csv").read_text().splitlines()) == 6
    reasons = {group["reason"] for group in json.loads((tmp_path / "audit/audit.json").read_text())["passed_over"]}
    assert "folders that cannot be opened" in reasons


@pytest.mark.usefixtures("closed")
def test_a_fit_counts_in_json_what_it_passed_over(g: Path, tmp_path: Path) -> None:
    summary = json.loads(patchbank("fit", g, "-o", tmp_path / "m.patchbank", "--json", *QUICK).stdout)
    assert summary["images"] == 5
    assert {"reason": "files that are no images", "count": 1, "example": str(g / "labels.csv")} in summary[
        "passed_over"
    ]


def test_texts_alone_are_no_failure(g: Path, model: Path, tmp_path: Path) -> None:
    done = patchbank("predict", model, g, "-O", tmp_path / "out", "--no-overlays")
    assert done.returncode == 0
    assert "6 images inspected" in done.stdout
    assert "1 file that is no image" in done.stderr


def test_photographs_that_are_not_read_fail(g: Path, model: Path, tmp_path: Path) -> None:
    shutil.copy(g / "0.png", g / "heic0.heic")
    shutil.copy(g / "0.png", g / "noending")
    done = patchbank("predict", model, g, "-O", tmp_path / "out", "--no-overlays")
    assert done.returncode == 1
    assert "passed over 2 images in formats that are not read (such as " in done.stderr
    named = [Path(line.split(",")[0]).name for line in (tmp_path / "out/errors.csv").read_text().splitlines()]
    assert {"heic0.heic", "noending"} <= set(named)


def test_one_missing_path_of_several_fails_alone(g: Path, model: Path, tmp_path: Path) -> None:
    done = patchbank("predict", model, g / "0.png", tmp_path / "gone.png", "-O", tmp_path / "out", "--no-overlays")
    assert done.returncode == 1
    assert "gone.png: no such file or folder" in done.stderr
    assert "1 image inspected" in done.stdout


@pytest.mark.parametrize("pair", [("normal", "abnormal"), ("pass", "fail"), ("good_parts", "bad_parts"), ("iO", "niO")])
def test_folders_with_defects_are_not_learned(pair: tuple[str, str], model: Path, tmp_path: Path) -> None:
    root = tmp_path / "x"
    for name, image in zip(pair, (good_image(1, (64, 64)), bad_image(2)), strict=True):
        (root / name).mkdir(parents=True)
        Image.fromarray(image).save(root / name / "0.png")
    for command in (
        ("fit", root, "-o", tmp_path / "no.patchbank", *QUICK),
        ("audit", root, "-O", tmp_path / "audit"),
        ("add", model, root, "-o", tmp_path / "no.patchbank"),
        ("calibrate", model, root, "-o", tmp_path / "no.patchbank"),
    ):
        done = patchbank(*command)
        assert done.returncode == 2, command[0]
        assert "holds defective parts" in done.stderr
        assert f"such as {root / pair[0]}" in done.stderr
    assert not (tmp_path / "no.patchbank").exists()


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_benchmark_says_what_its_datasets_pass_over(tmp_path: Path, jobs: int) -> None:
    root = tmp_path / "parts"
    for folder, image in (("train/normal", good_image), ("test/normal", good_image), ("test/NG", bad_image)):
        (root / folder).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(image(i, (64, 96))).save(root / folder / f"{i}.png")
    (root / "train/normal/closed").mkdir()
    (root / "test/NG/phone.heic").touch()
    done = patchbank("benchmark", root, "-O", tmp_path / "out", "--jobs", str(jobs), *QUICK)
    assert done.returncode == 1
    assert "note: " in done.stderr
    assert "4 defective images without a mask" in done.stderr
    assert "PatchbankWarning" not in done.stderr
    assert f"skipped {root / 'train/normal/closed'}" in done.stderr
    assert f"skipped {root / 'test/NG/phone.heic'}" in done.stderr
    (metrics,) = (tmp_path / "out").glob("*/metrics.json")
    assert {"n_good": 4, "n_anomalous": 4}.items() <= json.loads(metrics.read_text()).items()
