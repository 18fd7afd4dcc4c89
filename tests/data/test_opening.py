"""Which files are opened, and what is said about the others."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchbank.data import Sample, image_size, read_image, read_roi
from patchbank.data.datasets import LabelledImage, read_mask
from patchbank.errors import DatasetError, ImageError, OptionError, PatchbankWarning
from patchbank.errors import notify as tell
from tests.data.pictures import tiff

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def read(path: Path) -> np.ndarray:
    return read_image(Sample.of(str(path), path))


def refusal(path: Path) -> str:
    with pytest.raises(ImageError) as header:
        image_size(Sample.of(str(path), path))
    with pytest.raises(ImageError) as whole:
        read(path)
    assert str(header.value) == str(whole.value)
    return str(whole.value)


def test_no_file_starts_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, shim = tmp_path / "started", tmp_path / "bin" / "gs"
    shim.parent.mkdir()
    shim.write_text(f"#!/bin/sh\ntouch {started}\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # look again
    path = tmp_path / "part.png"
    Image.fromarray(RGB).save(path, format="EPS")
    assert "is a PostScript file" in refusal(path)
    with pytest.raises(OptionError, match="PostScript"):
        read_roi(path)
    with pytest.raises(DatasetError, match="PostScript"):
        read_mask(LabelledImage(path, "hole", path), 0, (20, 30))
    assert not started.exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_only_regular_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    os.mkfifo("pipe.png")
    (tmp_path / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.png")
        for name, words in (("pipe", "a named pipe"), ("folder", "a folder"), ("socket", "a socket")):
            assert f"{name}.png: is {words}, not an image file" in refusal(Path(f"{name}.png"))
    assert "is a device" in refusal(Path("/dev/null"))
    Path("link.png").symlink_to("pipe.png")
    assert "a named pipe" in refusal(Path("link.png"))


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode on Windows")
def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller.png"))
    Image.fromarray(RGB).save(path)
    assert np.array_equal(read(path), RGB)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"", "is empty (0 bytes)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run `git lfs pull`"),
        (b"<!DOCTYPE html>\n<html>", "is an HTML page"),
        (b"<?xml version='1.0'?><svg/>", "is an XML or SVG file"),
        (b"no picture\n", "is a text file"),
        (b"%PDF-1.7\n", "is a PDF file"),
        (b"PK\x03\x04....", "is a ZIP archive"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "is a HEIF picture"),
        (bytes(5000), "begins with zero bytes"),
        (b"\x89PNG\r\n\x1a\n", "begins as a PNG file, but its header is damaged"),
        (b"II*\0", "begins as a TIFF file, but its header is damaged"),
        (b"\x07\x99\xfe\x01", "is not an image file, whatever its name says"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, start: bytes, words: str) -> None:
    (tmp_path / "part.jpg").write_bytes(start)
    assert words in refusal(tmp_path / "part.jpg")


@pytest.mark.parametrize("name", ["pages.tif", "frames.gif", "frames.webp", "frames.png"])
def test_several_pages_are_refused(tmp_path: Path, name: str) -> None:
    frames = [Image.fromarray(np.roll(RGB, i, axis=0)) for i in range(3)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    assert f"{name}: has 3 pages or frames: save each as an image of its own" in refusal(tmp_path / name)
    with Image.open(tmp_path / name) as image, pytest.warns(PatchbankWarning, match="3 pages or frames, of which"):
        read_image(Sample.of(name, image), tell=tell)


def test_what_is_no_page(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "one.gif")
    assert read(tmp_path / "one.gif").shape == (20, 30, 3)
    preview = (RGB[::2, ::2], {254: (4, [1])})  # NewSubfileType: reduced
    (tmp_path / "preview.tif").write_bytes(tiff(RGB, preview))
    assert np.array_equal(read(tmp_path / "preview.tif"), RGB)
    (tmp_path / "deep.tif").write_bytes(tiff(RGB.astype(np.uint16) * 257, preview))
    assert np.allclose(read(tmp_path / "deep.tif"), RGB)
    Image.fromarray(RGB).save(
        tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=[Image.fromarray(RGB[::2, ::2])]
    )
    Image.fromarray(RGB).save(tmp_path / "plain.jpg")
    assert np.array_equal(read(tmp_path / "phone.jpg"), read(tmp_path / "plain.jpg"))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.gif", "a.webp", "a.tif", "deep.tif"])
def test_ones_own_files_have_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    picture = tmp_path / name
    if name == "deep.tif":
        picture.write_bytes(tiff(RGB.astype(np.uint16)))
    else:
        Image.fromarray(RGB).save(picture, **({"lossless": True} if name == "a.webp" else {}))
    expected = read(picture)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises((Image.DecompressionBombError, OSError)), Image.open(picture) as image:
        image.load()
    assert np.array_equal(read(picture), expected)
    assert image_size(Sample.of(name, picture)) == (20, 30)
    assert Image.MAX_IMAGE_PIXELS == 100  # which is the whole process's


def test_a_large_image_is_copied_in_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    monkeypatch.setattr("patchbank.data.read._BAND", 200)
    assert np.array_equal(read(tmp_path / "a.png"), RGB)


def test_a_closed_image(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as unread:
        pass
    read_before = Image.open(tmp_path / "a.png")
    read_before.load()
    read_before.close()
    made = Image.fromarray(RGB)
    made.close()
    for image in (unread, read_before, made):
        with pytest.raises(ImageError, match="frame 7: is a PIL image that was closed"):
            read_image(Sample.of("frame 7", image))
    with Image.open(tmp_path / "a.png") as kept:
        kept.load()
    assert np.array_equal(read_image(Sample.of("kept", kept)), RGB)
