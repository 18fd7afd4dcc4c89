"""Images are known by what they show."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchbank.data import Sample, gather, read_image
from patchbank.data.content import pixel_digest, without_copies
from patchbank.errors import PatchbankWarning
from tests.conftest import good_image


def test_a_file_and_an_array_of_one_picture_agree(tmp_path: Path) -> None:
    image = good_image(1)
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(image).save(tmp_path / "b.bmp")
    digests = {pixel_digest(read_image(source)) for source in gather([tmp_path / "a.png", tmp_path / "b.bmp", image])}
    assert len(digests) == 1
    assert pixel_digest(image[::-1]) not in digests
    assert pixel_digest(image.reshape(128, 96, 3)) not in digests


def test_exact_copies_are_used_once_and_named(tmp_path: Path) -> None:
    for i in range(4):
        Image.fromarray(good_image(i)).save(tmp_path / f"{i}.png")
    for i in range(2):
        shutil.copy(tmp_path / f"{i}.png", tmp_path / f"copy_of_{i}.png")
    with pytest.warns(
        PatchbankWarning, match=r"2 of 6 images are exact copies .* such as .*copy_of_0\.png of .*0\.png"
    ):
        kept, copies = without_copies([Sample.of(str(p), p) for p in sorted(tmp_path.iterdir())])
    assert [Path(source.name).name for source in kept] == ["0.png", "1.png", "2.png", "3.png"]
    assert [(Path(a).name, Path(b).name) for a, b in copies] == [("copy_of_0.png", "0.png"), ("copy_of_1.png", "1.png")]


def test_files_of_one_size_are_not_copies(tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(good_image(i)).save(tmp_path / f"{i}.bmp")  # without compression: all have one size
    assert len({p.stat().st_size for p in tmp_path.iterdir()}) == 1
    assert without_copies([Sample.of(p.name, p) for p in tmp_path.iterdir()])[1] == []


def test_arrays_and_pictures_that_are_given_twice_are_used_once() -> None:
    arrays = [good_image(0), good_image(1), good_image(0)]
    pictures = [Image.fromarray(array) for array in arrays]
    for images in (arrays, pictures):
        with pytest.warns(PatchbankWarning, match="1 of 3 images are exact copies"):
            assert [source.name for source in without_copies(gather(images))[0]] == ["image 0", "image 1"]


def test_what_cannot_be_read_is_nobodys_copy(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"empty{i}.png").write_bytes(b"")
    assert without_copies(gather(tmp_path))[1] == []  # each is named as unreadable
    gone = [Sample.of(f"{i}.png", tmp_path / f"{i}.png") for i in range(2)]
    assert without_copies([*gone, Sample.of("array", np.array([None, None]))])[1] == []
