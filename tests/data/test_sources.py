"""What may be handed over as images, one by one or all at once."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from patchbank import PatchCore
from patchbank.data import gather, read_image, stream
from patchbank.errors import DatasetError, ImageError, OptionError, PatchbankWarning

FRAME = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encoded(frame: np.ndarray = FRAME) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="PNG")
    return buffer.getvalue()


class Told(list[tuple[str, str]]):
    def __call__(self, name: str, error: Exception) -> None:
        self.append((name, str(error)))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_batch_is_several_images(channels: int) -> None:
    batch = np.zeros((5, 8, 9, channels), np.uint8)
    assert [(s.name, np.shape(s.data)) for s in gather(batch)] == [(f"image {i}", (8, 9, channels)) for i in range(5)]
    assert len(gather([batch, batch[0]])) == 6
    assert len(list(stream(iter([batch, batch]), Told()))) == 10


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((2, 3, 8, 9), r"2×3×8×9 must be N×H×W×C .*moveaxis\(array, 1, 3\)"),
        ((2, 8, 9, 5), "must be N×H×W×C with C = 1, 3 or 4"),
        ((3, 8, 9), r"3×8×9 is no H×W×C image.*transpose\(1, 2, 0\)"),
        ((7, 8, 9), r"7×8×9 is no H×W×C image.*stack of N grey images as array\[\.\.\., None\]"),
    ],
)
def test_arrays_of_other_shapes_get_a_sentence(shape: tuple[int, ...], words: str) -> None:
    array = np.zeros(shape, np.uint8)
    with pytest.raises(OptionError, match=words):
        gather(array, of="good")
    with pytest.raises(OptionError, match=words):
        stream(array, Told())


def test_bytes_and_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    with (tmp_path / "a.png").open("rb") as file:
        given: list[Any] = [encoded(), bytearray(encoded()), memoryview(encoded()), io.BytesIO(encoded()), file]
        for item in given:
            (alone,) = gather(item)
            assert np.array_equal(read_image(alone), FRAME)
            if hasattr(item, "seek"):
                item.seek(0)
        assert [s.name for s in gather(given)] == [*(f"image {i}" for i in range(4)), str(tmp_path / "a.png")]
    with pytest.raises(ImageError, match="image 0: "):
        read_image(gather(b"no image")[0])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "the image is None, which is what cv2.imread gives"),
        ([FRAME, None], "item 1: is None, which is what cv2.imread gives"),
        (3, "not int"),
        ([FRAME, 3.5], "item 1: .* not float"),
        ([[FRAME]], "item 0: .* a list within the list: give one flat list"),
        (torch.zeros(3, 8, 9), r"not a torch tensor: .*permute\(1, 2, 0\)"),
        ([torch.zeros(3, 8, 9)], "item 0: .*not a torch tensor"),
        ("", "an empty string is no path"),
        (io.StringIO("text"), "open it in binary mode"),
        (io.BytesIO(), "is at its end"),
        (object(), "not object"),
    ],
)
def test_other_things_get_a_sentence(given: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        gather(given)


def test_nothing_at_all() -> None:
    for nothing in ([], (), iter([]), np.zeros((0, 8, 9, 3), np.uint8)):
        with pytest.raises(DatasetError, match="no images were given"):
            gather(nothing)


def test_columns_of_a_table(tmp_path: Path) -> None:
    class Column:  # as pandas.Series
        ndim, index = 1, range(1)

        def __array__(self) -> np.ndarray:
            raise AssertionError

        def tolist(self) -> list[str]:
            return [str(tmp_path / "a.png")]

    (tmp_path / "a.png").write_bytes(encoded())
    assert [s.name for s in gather(Column())] == [str(tmp_path / "a.png")]  # type: ignore[arg-type]
    assert len(gather(np.array([str(tmp_path / "a.png")] * 2))) == 2

    class Table:
        columns, iloc = (), None

    with pytest.raises(OptionError, match="a table: give its column of paths"):
        gather(Table())  # type: ignore[arg-type]


def test_patterns_are_expanded_where_no_shell_did(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "c.txt", "sub/d.png", "e[1].png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [Path(s.name).name for s in gather(f"{tmp_path}/?.png")] == ["a.png", "b.png"]
    assert [Path(s.name).name for s in gather(f"{tmp_path}/**/*.png")] == ["a.png", "b.png", "e[1].png", "d.png"]
    assert [Path(s.name).name for s in gather(f"{tmp_path}/e[1].png")] == ["e[1].png"]
    with pytest.raises(DatasetError, match="no such file or folder"):
        gather(f"{tmp_path}/*.tif")


def test_one_missing_path_of_several_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    told = Told()
    assert len(gather([tmp_path / "gone.png", tmp_path / "a.png"], told)) == 1
    assert told == [(str(tmp_path / "gone.png"), f"{tmp_path / 'gone.png'}: no such file or folder")]
    with pytest.raises(DatasetError, match=r"gone\.png: no such file or folder"):
        gather([tmp_path / "gone.png"], Told())
    with pytest.raises(DatasetError, match=r"gone\.png: no such file or folder"):
        gather([tmp_path / "gone.png", tmp_path / "a.png"])
    assert list(stream([tmp_path / "gone.png"], told)) == []
    assert len(told) == 2


def test_what_fails_in_a_folder_is_told(tmp_path: Path) -> None:
    for name in ("a.png", "b.heic", "notes.txt"):
        (tmp_path / name).touch()
    told = Told()
    with pytest.warns(PatchbankWarning, match=r"passed over 1 image in a format .*, 1 file that is no image"):
        gather(tmp_path, told)
    assert told == [
        (str(tmp_path / "b.heic"), f"{tmp_path / 'b.heic'}: .heic images are not read: convert it to PNG or TIFF")
    ]


def test_folders_that_are_not_all_good_are_refused_where_they_are_learned(tmp_path: Path) -> None:
    for name in ("ok/0.png", "NG/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert len(gather(tmp_path)) == 2
    for of in ("good", "defects"):
        with pytest.raises(DatasetError, match="so not all of its images are"):
            gather([tmp_path], of=of)  # type: ignore[arg-type]
    for folder, of in (("ok", "good"), ("NG", "good"), ("NG", "defects")):
        assert len(gather(tmp_path / folder, of=of)) == 1  # type: ignore[arg-type]
    assert len(gather(sorted(tmp_path.rglob("*.png")), of="good")) == 2


@pytest.fixture(scope="module")
def model() -> PatchCore:
    frames = [np.roll(FRAME, i, axis=1) for i in range(4)]
    return PatchCore(weights="random", image_size=64, bank_size=30, threads=1).fit(frames)


class Camera:
    """Endless frames; counts how many were taken."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[Any]:
        while True:
            self.taken += 1
            yield FRAME.copy()


def test_an_endless_iterator_is_taken_frame_by_frame(model: PatchCore) -> None:
    camera = Camera()
    predictions = model.predict_many(camera)
    assert camera.taken == 0
    for number in range(1, 6):
        assert next(predictions).path == f"image {number - 1}"
        assert camera.taken == number


def test_an_error_of_the_iterator_comes_out_as_it_is(model: PatchCore) -> None:
    def camera() -> Iterator[np.ndarray]:
        yield FRAME
        raise ConnectionError("the cable")

    predictions = model.predict_many(camera())
    next(predictions)
    with pytest.raises(ConnectionError, match="the cable"):
        next(predictions)


def test_a_lost_frame_or_path_does_not_end_a_camera(model: PatchCore, tmp_path: Path) -> None:
    told = Told()
    items: list[Any] = [FRAME, None, tmp_path / "gone.png", FRAME[:, :, :2], FRAME]
    assert [p.path for p in model.predict_many(iter(items), on_error=told)] == ["image 0", "image 3"]
    assert [name for name, _ in told] == ["image 1", str(tmp_path / "gone.png"), "image 2"]
    assert "is None" in told[0][1]


def test_predict_takes_one(model: PatchCore) -> None:
    assert model.predict(FRAME[None]).score == model.predict(FRAME).score == model.predict(encoded()).score
    with pytest.raises(OptionError, match="predict takes one image, not 2: use predict_many"):
        model.predict(np.stack([FRAME, FRAME]))
    with pytest.raises(ImageError, match="H×W×C"):
        model.predict(np.zeros((7, 8, 9), np.uint8))
    with pytest.raises(OptionError, match="explain takes one image, not 2"):
        model.explain([FRAME, FRAME])
    with pytest.raises(OptionError, match="is None"):
        model.predict(None)


def test_every_place_that_learns_refuses_a_folder_with_defects(model: PatchCore, tmp_path: Path) -> None:
    for name in ("normal/0.png", "abnormal/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(encoded())
    ensemble = PatchCore(backbone=["resnet18", "efficientnet_lite0"], weights="random", image_size=64, threads=1)
    for learn in (PatchCore(weights="random").fit, ensemble.fit, model.add, model.calibrate):
        with pytest.raises(DatasetError, match=r"holds defective parts .*abnormal.*such as .*normal"):
            learn(tmp_path)
    with pytest.raises(DatasetError, match="holds good parts"):
        model.calibrate([np.roll(FRAME, 9, axis=1)], tmp_path)
