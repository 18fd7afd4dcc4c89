"""Which file is the geometry of which picture, for every layout, and what is left alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from patchbank.data import gather, stream
from patchbank.data.datasets import open_dataset
from patchbank.data.pairing import Pairing
from patchbank.errors import ImageError, OptionError, PatchbankWarning, give_up
from patchbank.sample import GEOMETRY_CHANNEL, PLAIN, RGB_CHANNEL

SIZE = (24, 32)


def picture(path: Path, *, deep: bool = False, channels: int = 3) -> Path:
    values = np.full((*SIZE, channels), 30_000 if deep else 90, np.uint16 if deep else np.uint8)
    return _encoded(path, values[..., 0] if channels == 1 else values)


def depths(path: Path) -> Path:
    """Heights of 16 bits, points in floats, or an array, by the ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, np.full(SIZE, 500, np.float32))
        return path
    if path.suffix == ".tiff":
        return _encoded(path, np.full((*SIZE, 3), 0.5, np.float32))
    return _encoded(path, np.full(SIZE, 500, np.uint16))


def _encoded(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, values)[1].tobytes())
    return path


def found(folder: Path) -> list[dict[str, str]]:
    """Channels and names of files of what a folder holds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samples = gather(folder)
    return [{channel: Path(str(data)).name for channel, data in s.channels.items()} for s in samples]


@pytest.mark.parametrize("geometry", ["xyz", "z", "depth", "Depth", "heights", "point_cloud", "range"])
@pytest.mark.parametrize("colour", ["rgb", "RGB", "color", "Colour"])
def test_folders_beside_each_other(tmp_path: Path, colour: str, geometry: str) -> None:
    for i in range(2):
        picture(tmp_path / colour / f"{i:03}.png")
        depths(tmp_path / geometry / f"{i:03}.tiff")
    expected = [{RGB_CHANNEL: f"{i:03}.png", GEOMETRY_CHANNEL: f"{i:03}.tiff"} for i in range(2)]
    assert found(tmp_path) == expected
    assert found(tmp_path / colour) == expected
    alone = [{GEOMETRY_CHANNEL: f"{i:03}.tiff"} for i in range(2)]
    assert found(tmp_path / geometry) == alone


@pytest.mark.parametrize(
    "name", ["007.tiff", "007.npy", "007_depth.png", "007-z.tiff", "007.height.png", "007_xyz.npy"]
)
@pytest.mark.parametrize("of_picture", ["007.jpg", "007.png", "007_rgb.png", "007-color.jpg"])
def test_one_folder(tmp_path: Path, of_picture: str, name: str) -> None:
    picture(tmp_path / of_picture)
    depths(tmp_path / name)
    assert found(tmp_path) == [{RGB_CHANNEL: of_picture, GEOMETRY_CHANNEL: name}]
    assert Pairing().sample(tmp_path / of_picture).has_geometry


def test_a_partner_that_is_missing(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / "rgb" / f"{i}.png")
        depths(tmp_path / "xyz" / f"{i}.tiff")
    (tmp_path / "xyz/1.tiff").unlink()
    (tmp_path / "rgb/2.png").unlink()
    assert found(tmp_path) == [
        {RGB_CHANNEL: "0.png", GEOMETRY_CHANNEL: "0.tiff"},
        {RGB_CHANNEL: "1.png"},
        {GEOMETRY_CHANNEL: "2.tiff"},
    ]


def test_pictures_alone_are_as_before(tmp_path: Path) -> None:
    """A preview beside a colour picture of 16 bits, masks beside photographs, and arrays of something else are no
    geometry."""
    picture(tmp_path / "deep/1.jpg")
    picture(tmp_path / "deep/1.png", deep=True)
    assert found(tmp_path / "deep") == [{PLAIN: "1.jpg"}, {PLAIN: "1.png"}]
    picture(tmp_path / "masks/1.jpg")
    picture(tmp_path / "masks/1.png", channels=1)
    assert found(tmp_path / "masks") == [{PLAIN: "1.jpg"}, {PLAIN: "1.png"}]
    picture(tmp_path / "preview/1.png")
    picture(tmp_path / "preview/1_depth.png")
    assert found(tmp_path / "preview") == [{PLAIN: "1.png"}, {PLAIN: "1_depth.png"}]
    for i, array in enumerate([np.zeros(512, np.float32), np.zeros((196, 768), np.float32), np.zeros(SIZE, bool)]):
        picture(tmp_path / f"arrays/{i}.png")
        np.save(tmp_path / f"arrays/{i}.npy", array)
    with pytest.warns(UserWarning, match=r"3 files of numbers or points that belong to no picture"):
        samples = gather(tmp_path / "arrays")
    assert [set(s.channels) for s in samples] == [{PLAIN}] * 3


def test_files_that_come_one_by_one(tmp_path: Path) -> None:
    """The geometry of an image may be written after the image before it was taken."""

    def arriving() -> Iterator[str]:
        for i in range(3):
            depths(tmp_path / f"xyz/{i}.tiff")
            yield str(picture(tmp_path / f"rgb/{i}.png"))

    assert [sample.has_geometry for sample in stream(arriving(), give_up)] == [True] * 3


def test_a_folder_of_geometry_alone(tmp_path: Path) -> None:
    for i in range(2):
        np.save(tmp_path / f"{i}.npy", np.full(SIZE, 500, np.float32))
    assert found(tmp_path) == [{GEOMETRY_CHANNEL: "0.npy"}, {GEOMETRY_CHANNEL: "1.npy"}]


@pytest.mark.parametrize("geometry", ["xyz", "z"])
def test_the_layout_of_mvtec_3d(tmp_path: Path, geometry: str) -> None:
    for i in range(4):
        picture(tmp_path / f"train/good/rgb/{i:03}.png")
        depths(tmp_path / f"train/good/{geometry}/{i:03}.tiff")
    for kind in ("good", "hole"):
        picture(tmp_path / f"test/{kind}/rgb/000.png")
        depths(tmp_path / f"test/{kind}/{geometry}/000.tiff")
        picture(tmp_path / f"test/{kind}/gt/000.png", channels=1)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "mvtec3d"
    assert all(s.has_geometry for s in gather(list(dataset.train)))
    assert all(s.has_geometry for s in gather([sample.path for sample in dataset.test]))
    few = dataset.with_shots(2, 0)
    assert len(few.train) == 2
    assert all(s.has_geometry for s in gather(list(few.train)))


@pytest.mark.parametrize("alias", ["xyz", "z", "depth", "height", "points", "cloud", "pcd", "ply", "range"])
def test_mappings(tmp_path: Path, alias: str) -> None:
    rgb, xyz = picture(tmp_path / "a.png"), depths(tmp_path / "b.tiff")
    (sample,) = gather({"rgb": str(rgb), alias: str(xyz)})
    assert sample.channels == {RGB_CHANNEL: rgb, GEOMETRY_CHANNEL: xyz}
    assert sample.name == str(rgb)
    (sample,) = gather({alias: xyz.read_bytes()})
    assert sample.name == "image 0"
    assert sample.channels == {GEOMETRY_CHANNEL: xyz.read_bytes()}
    (sample,) = gather([{"rgb": np.zeros((*SIZE, 3), np.uint8), alias: np.ones(SIZE, np.float32)}])
    assert sample.has_geometry


def test_a_mapping_takes_what_it_is_given(tmp_path: Path) -> None:
    """Not the file that lies beside it."""
    rgb, beside = picture(tmp_path / "1.png"), depths(tmp_path / "1.tiff")
    other = depths(tmp_path / "other.tiff")
    assert gather(str(rgb))[0].channels[GEOMETRY_CHANNEL] == beside
    assert gather({"rgb": str(rgb)})[0].channels == {RGB_CHANNEL: rgb}
    assert gather({"rgb": str(rgb), "xyz": str(other)})[0].channels[GEOMETRY_CHANNEL] == other


def test_mappings_that_are_none(tmp_path: Path) -> None:
    one = np.ones(SIZE, np.float32)
    with pytest.raises(OptionError, match="'depth' is the geometry of this sample a second time"):
        gather({"z": one, "depth": one})
    with pytest.raises(ImageError, match=r"channel 'xyz': .*no such file"):
        gather({"rgb": one, "xyz": str(tmp_path / "gone.tiff")})
    with pytest.raises(OptionError, match=r"item 1: .*at least one channel"):
        gather([one, {}])


def test_masks_beside_pictures_are_no_samples(tmp_path: Path) -> None:
    for folder in ("rgb", "gt"):
        (tmp_path / "cut" / folder).mkdir(parents=True)
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "cut" / folder / "000.png")
    with pytest.warns(PatchbankWarning, match="passed over 1 mask beside the pictures of parts"):
        found = gather(tmp_path)
    assert [sample.name for sample in found] == [str(tmp_path / "cut/rgb/000.png")]
