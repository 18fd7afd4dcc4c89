"""`patchbank fit` with options that choose others: --quality and --tune; and what it says of the smallest defect."""

from __future__ import annotations

from pathlib import Path

import pytest

from patchbank.cli.detectors import at_quality
from patchbank.errors import OptionError
from patchbank.io.model_file import read
from tests.cli.running import patchbank


def test_the_preset_of_a_quality() -> None:
    assert at_quality("patchcore", None) == at_quality("patchcore", "balanced") == "patchcore"
    assert at_quality("patchcore", "fast") == "patchcore.fast"
    with pytest.raises(OptionError, match="--quality must be one of fast, balanced, best, not 'good'"):
        at_quality("patchcore", "good")
    for method in ("simplenet", "patchcore.paper"):
        with pytest.raises(OptionError, match=f"--quality best is for patchcore: leave it out for {method}"):
            at_quality(method, "best")


def test_a_fast_model_says_what_it_sees(parts: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.patchbank"
    done = patchbank("fit", parts, "-o", model, "--quality", "fast")
    assert done.returncode == 0, done.stderr
    assert "images of 96×128 pixels are inspected at 128×160: defects below about 9 px may be missed" in done.stdout
    assert read(model).document["options"]["image_size"] == 256
    assert "--image-size" not in done.stdout  # which `--quality` has chosen


def test_an_image_size_is_suggested_where_it_may_be_given(parts: Path, tmp_path: Path) -> None:
    options = ("--set", "enlarge=false", "--image-size", "64")
    done = patchbank("fit", parts, "-o", tmp_path / "m.patchbank", *options)
    assert done.returncode == 0, done.stderr
    assert "--image-size 96 sees" in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--quality", "best", "--image-size", "96"], "--quality best chooses image_size: leave one of them out"),
        (["--quality", "best", "--backbone", "resnet18"], "--quality best chooses backbone: leave one of them out"),
        (["--quality", "fast", "--image-size", "96"], "--quality fast chooses image_size: leave one of them out"),
        (["--method", "patchcore.best", "--set", "image_size=96"], "image_size: each member has its own: leave it out"),
        (["--tune", "--image-size", "96"], "--tune chooses image_size: leave one of them out"),
        (["--tune", "--set", "sigma=4"], "--tune chooses sigma: leave one of them out"),
        (["--tune"], "--tune takes at least 16 good images that can be read, not 8"),
        (["--tune", "--tile", "128"], "--tune is for whole pictures: leave out channels, tiles and geometry"),
    ],
)
def test_what_does_not_go_together(options: list[str], words: str, parts: Path, tmp_path: Path) -> None:
    done = patchbank("fit", parts, "-o", tmp_path / "m.patchbank", *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_says_what_is_seen_in_images(parts: Path) -> None:
    done = patchbank("doctor", parts)
    assert done.returncode == 0, done.stderr
    assert "8 looked at, most of 96×128 pixels" in done.stdout
    assert "quality_balanced" in done.stdout
    assert "images of 96×128 pixels are inspected at 288×384: defects below about 4 px may be missed" in done.stdout
