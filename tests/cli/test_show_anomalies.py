"""`patchbank show-anomalies`: what it writes, what it draws from, and what it refuses."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchbank.demo.solid import draw_solid
from patchbank.shape import write_pcd
from tests.cli.running import patchbank
from tests.conftest import good_image
from tests.pages import DOCS, commands, run

PAGE = DOCS / "guides" / "synthetic-anomalies.md"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    folder = tmp_path / "good"
    folder.mkdir()
    for i in range(4):
        Image.fromarray(good_image(i, (200, 300))).save(folder / f"{i}.png")
    return folder


def panels(path: Path, count: int = 3) -> list[np.ndarray]:
    """The panels of one strip: they have one size and lie side by side at the bottom, six pixels apart."""
    with Image.open(path) as image:
        page = np.asarray(image)
    width = (page.shape[1] - 6) // count - 6
    return [page[28:-6, 6 + i * (width + 6) :][:, :width] for i in range(count)]


def pictures_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def test_images_before_and_after(good: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = patchbank("show-anomalies", good, "-O", out, "--count", "3", "--image-size", "128")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"3 images with synthetic anomalies, side by side: {out / 'sheet.png'}\n"
    assert sorted(pictures_in(out)) == ["0.png", "1.png", "2.png", "sheet.png"]
    for number in range(3):
        before, after, mask = panels(out / f"{number}.png")
        assert before.shape == (128, 192, 3)
        assert set(np.unique(mask)) == {0, 255}
        assert np.array_equal((before != after).any(2) & (mask[..., 0] == 0), np.zeros((128, 192), bool))
        assert (before != after).any(2)[mask[..., 0] > 0].mean() > 0.8


def test_the_seed_decides(good: Path, tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        patchbank("show-anomalies", good, "-O", tmp_path / name, "--seed", seed, "--count", "2")
    assert pictures_in(tmp_path / "a") == pictures_in(tmp_path / "b")
    assert pictures_in(tmp_path / "a")["0.png"] != pictures_in(tmp_path / "c")["0.png"]
    patchbank("show-anomalies", good, "-O", tmp_path / "a", "--count", "1")
    assert sorted(pictures_in(tmp_path / "a")) == ["0.png", "sheet.png"]  # those of the earlier run are gone


def test_where_anomalies_may_lie(good: Path, tmp_path: Path) -> None:
    mask = np.zeros((200, 300), np.uint8)
    mask[:100, 150:] = 255
    Image.fromarray(mask).save(tmp_path / "roi.png")
    done = patchbank("show-anomalies", good, "-O", tmp_path / "out", "--roi", tmp_path / "roi.png", "--count", "4")
    assert done.returncode == 0, done.stderr
    for number in range(4):
        changed = panels(tmp_path / "out" / f"{number}.png")[2][..., 0] > 0
        assert changed[:100, 150:].any()
        assert not changed[102:].any()
        assert not changed[:, :148].any()


def test_textures_of_a_folder(good: Path, tmp_path: Path) -> None:
    (tmp_path / "red").mkdir()
    Image.new("RGB", (80, 80), (250, 0, 0)).save(tmp_path / "red" / "1.png")
    colours = np.repeat(np.full((200, 300, 1), 90, np.uint8), 3, axis=2) + np.uint8([0, 40, 60])
    Image.fromarray(colours).save(good / "0.png")
    arguments = ["--kinds", "perlin", "--textures", tmp_path / "red", "--count", "1"]
    done = patchbank("show-anomalies", good, "-O", tmp_path / "out", *arguments)
    assert done.returncode == 0, done.stderr
    before, after, mask = panels(tmp_path / "out" / "0.png")
    change = (after.astype(int) - before)[mask[..., 0] > 0].mean(0)
    assert change[0] > 0 > max(change[1:])


def test_unreadable_images_are_named(good: Path, tmp_path: Path) -> None:
    (good / "1.png").write_bytes((good / "1.png").read_bytes()[:200])
    done = patchbank("show-anomalies", good, "-O", tmp_path / "out", "--count", "3")
    assert done.returncode == 1
    assert done.stderr.startswith("skipped ")
    assert "1.png" in done.stderr
    assert sorted(pictures_in(tmp_path / "out")) == ["0.png", "2.png", "3.png", "sheet.png"]
    for path in good.iterdir():
        path.write_bytes(b"\x89PNG\r\n\x1a\n")
    assert patchbank("show-anomalies", good, "-O", tmp_path / "out").returncode == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--kinds", "perlin,rust"], "--kinds takes some of perlin, cutpaste, scar, dents, bumps, missing, not 'rust'"),
        (["--kinds", "dents"], "--kinds dents: the parts have no geometry; choose some of perlin, cutpaste, scar"),
        (["--textures", "{empty}"], "no images in this folder"),
        (["--textures", "{empty}/nowhere"], "no such file or folder"),
        (["--roi", "{empty}/roi.png"], "no such region of interest"),
    ],
)
def test_what_is_refused(options: list[str], said: str, good: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    given = [option.format(empty=tmp_path / "empty") for option in options]
    done = patchbank("show-anomalies", good, "-O", tmp_path / "out", *given)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_parts_with_geometry(solid: Path, tmp_path: Path) -> None:
    done = patchbank("show-anomalies", solid, "-O", tmp_path, "--count", "6", "--image-size", "128")
    assert done.returncode == 0, done.stderr
    strips = sorted((tmp_path / "train/good/rgb").glob("*.png"))
    assert len(strips) == 6
    for number, strip in enumerate(strips):
        picture, new_picture, relief, new_relief, mask = panels(strip, 5)
        of_picture = not np.array_equal(picture, new_picture)
        of_shape = not np.array_equal(relief, new_relief)
        assert (of_picture, of_shape) == ((True, False) if number < 3 else (False, True))
        assert mask.any()


def test_a_region_without_the_part(solid: Path, tmp_path: Path) -> None:
    mask = np.zeros((128, 128), np.uint8)
    mask[:8, :8] = 255  # background
    Image.fromarray(mask).save(tmp_path / "roi.png")
    out = tmp_path / "out"
    done = patchbank("show-anomalies", solid, "-O", out, "--count", "1", "--roi", tmp_path / "roi.png")
    assert done.returncode == 2
    skipped = [line for line in done.stderr.splitlines() if line.startswith("skipped ")]
    assert len(skipped) == 2
    assert "000.png: its foreground has no valid point, so a synthetic anomaly has no place" in skipped[0]
    assert not out.exists()


def test_a_picture_of_another_size_than_its_points(solid: Path, tmp_path: Path) -> None:
    for channel in ("rgb", "xyz"):
        (tmp_path / "parts" / channel).mkdir(parents=True)
        for path in sorted((solid / "train/good" / channel).iterdir())[:2]:
            shutil.copy(path, tmp_path / "parts" / channel)
    Image.new("RGB", (100, 128)).save(tmp_path / "parts/rgb/001.png")
    done = patchbank("show-anomalies", tmp_path / "parts", "-O", tmp_path / "out", "--image-size", "128")
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("skipped "))
    assert "001.png: rgb has 100×128 pixels and xyz 128×128: the channels" in line


def test_geometry_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "clouds").mkdir()
    for i in range(2):
        shape = draw_solid("plate", None, np.random.default_rng(i), 96).shape
        write_pcd(tmp_path / "clouds" / f"{i}.pcd", shape)
    arguments = ["show-anomalies", tmp_path / "clouds", "-O", tmp_path / "out", "--image-size", "96"]
    done = patchbank(*arguments)
    assert done.returncode == 0, done.stderr
    relief, new_relief, mask = panels(tmp_path / "out" / "0.pcd.png")
    assert not np.array_equal(relief, new_relief)
    assert mask.any()
    done = patchbank(*arguments, "--kinds", "scar")
    assert done.returncode == 2
    assert "--kinds scar: the parts have no pictures; choose some of dents, bumps, missing" in done.stderr


@pytest.mark.filterwarnings("ignore::patchbank.errors.PatchbankWarning")
def test_what_the_page_shows_runs(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("parts").mkdir()
    good.rename("parts/good")
    Path("my-textures").mkdir()
    Image.fromarray(good_image(9)).save("my-textures/rust.png")
    text = PAGE.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert PAGE.parent.joinpath(link).exists(), link
    for language, block in re.findall(r"^```(python|sh)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if language == "python":
            exec(compile(block, str(PAGE), "exec"), {})
        else:
            for arguments in commands(block):
                run(arguments)
