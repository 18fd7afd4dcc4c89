"""What pixel values of more than eight bits mean: how they are read, which range they get, and what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchbank.data import Sample, ValueRange, decide_range, image_size, read_image
from patchbank.data.read import read_raw
from patchbank.errors import ImageError, OptionError, PatchbankWarning
from patchbank.errors import notify as tell
from tests.data.pictures import png16, tiff

DEEP = np.random.default_rng(0).integers(0, 65536, (20, 30, 3)).astype(np.uint16)
TWELVE = ValueRange(integers=(0.0, 4095.0), eight_bit=False)


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """What each orientation says was done to an image, undone."""
    return {
        1: values, 2: values[:, ::-1], 3: values[::-1, ::-1], 4: values[::-1], 5: values.swapaxes(0, 1),
        6: np.rot90(values, -1), 7: values.swapaxes(0, 1)[::-1, ::-1], 8: np.rot90(values),
    }[orientation]  # fmt: skip


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_bit_of_a_tiff(order: str, kind: str, channels: int) -> None:
    values = np.random.default_rng(1).integers(0, 100, (20, 30, channels)).astype(kind)
    if kind == "u4":
        values += 3_000_000_000
    source = Sample.of("a.tif", tiff(values, order=order))
    found = read_raw(source).values
    assert np.array_equal(found, values[:, :, :3] if channels > 1 else values[:, :, 0])
    assert image_size(source) == (20, 30)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (tiff(np.zeros((4, 4, 5), np.uint16)), "5 channels of 16 bits, unsigned"),
        (tiff(np.zeros((4, 4), np.float16)), "1 channel of 16 bits, floating-point"),
        (tiff(DEEP, planar=2), "3 channels of 16 bits, unsigned, RGB, one plane after the other"),
        (tiff(np.zeros((4, 4, 2), np.uint16)), "2 channels of 16 bits"),
    ],
)
def test_kinds_of_tiff_that_are_not_read_are_named(data: bytes, kind: str) -> None:
    for read in (read_image, image_size):
        with pytest.raises(ImageError, match=f"a.tif: is a kind of TIFF that is not supported \\({kind}"):
            read(Sample.of("a.tif", data))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_deep_images(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    tag = {274: (3, [orientation])}
    for data in (
        png16(DEEP, exif.tobytes()[6:]),
        png16(DEEP, exif.tobytes()[6:], behind=True),
        png16(DEEP[:, :, :1], exif.tobytes()[6:]),
        tiff((DEEP, tag)),
        tiff((DEEP[:, :, :1], tag)),
        tiff((DEEP.astype(np.float32), tag)),
    ):
        found = read_raw(Sample.of("a", data)).values
        expected = upright(DEEP, orientation)
        assert np.array_equal(found, expected if found.ndim == 3 else expected[:, :, 0])
        assert image_size(Sample.of("a", data)) == expected.shape[:2]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_file_and_array_have_the_same_bits(tmp_path: Path, channels: int) -> None:
    values = np.dstack([DEEP, DEEP[:, :, :1]])[:, :, :channels]
    (tmp_path / "a.png").write_bytes(png16(values))
    array = values[:, :, 0] if channels == 2 else values
    expected = read_image(Sample.of("array", array))
    assert expected.dtype == np.float32
    assert np.array_equal(read_image(Sample.of("a", tmp_path / "a.png")), expected)
    with Image.open(tmp_path / "a.png") as image:
        for _ in range(2):  # reading it does not change it
            assert np.array_equal(read_image(Sample.of("a", image)), expected)


@pytest.mark.parametrize("top", [1000, 4095, 65535])
def test_deep_pgm_and_ppm(top: int) -> None:
    colours = np.minimum(DEEP, np.uint16(top))
    for magic, values in (("P5", colours[:, :, 0]), ("P6", colours)):
        data = f"{magic}\n30 20\n{top}\n".encode() + values.astype(">u2").tobytes()
        assert np.array_equal(read_raw(Sample.of("a", data)).values, values)
        expected = values * (255 / top)  # its own full scale, for a model that knows none
        found = read_image(Sample.of("a", data))
        assert np.allclose(found, expected if values.ndim == 3 else expected[:, :, None], atol=1e-3)


def test_floating_point_pfm() -> None:
    values = np.random.default_rng(2).random((20, 30, 3)).astype("<f4")
    for magic, stored in (("PF", values), ("Pf", values[:, :, 0])):
        source = Sample.of("a.pfm", f"{magic}\n30 20\n-1.0\n".encode() + stored[::-1].tobytes())
        assert np.array_equal(read_raw(source).values, stored)
        assert image_size(source) == (20, 30)


def arrays(*tops: float, dtype: Any = np.uint16, low: float = 0) -> list[Sample]:
    """Images of those largest values, and one smallest."""
    found = []
    for i, top in enumerate(tops):
        values = np.linspace(low, top, 64 * 64).reshape(64, 64)
        found.append(Sample.of(f"image {i}", (values if np.dtype(dtype).kind == "f" else values.round()).astype(dtype)))
    return found


@pytest.mark.parametrize(
    ("tops", "scale"),
    [
        ((90, 1020), 1023),
        ((300, 4095), 4095),
        ((300, 4096), 16383),
        ((16383,), 16383),
        ((300, 65520), 65535),
        ((200,), 255),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64, np.uint32, np.float32])
def test_full_scale_of_whole_numbers(tops: tuple[int, ...], scale: int, dtype: Any) -> None:
    sources = [Sample.of(s.name, np.asarray(s.data).astype(dtype)) for s in arrays(*tops)]
    kind = "floats" if dtype is np.float32 else "integers"
    if scale == 65535 and kind == "integers":
        found = decide_range(sources)  # as ever: nothing is said
    else:
        with pytest.warns(PatchbankWarning, match=f"0..{scale} is taken as the full scale"):
            found = decide_range(sources)
    assert found == ValueRange(**{kind: (0.0, float(scale))}, eight_bit=False)
    rgb = read_image(sources[-1], found)
    assert rgb.max() == pytest.approx(255 * tops[-1] / scale)


def test_one_dark_image_does_not_decide() -> None:
    with pytest.warns(PatchbankWarning, match="4095"):
        assert decide_range(arrays(*[100] * 90, 4000)).integers == (0, 4095)


@pytest.mark.parametrize(
    ("low", "top", "expected"),
    [
        (0, 1, (0, 1)),
        (-3, 17, (-4, 18)),
        (300, 900, (270, 930)),
        (0, 250.5, (0, 255)),
        (0.5, 17, (0, 17.825)),
        (0, 1e6, (0, 1.05e6)),
    ],
)
def test_range_of_floats(low: float, top: float, expected: tuple[float, float]) -> None:
    sources = arrays(top / 2, top, dtype=np.float64, low=low)
    if expected == (0, 1):
        found = decide_range(sources)
    else:
        with pytest.warns(PatchbankWarning, match="is taken as the full scale"):
            found = decide_range(sources)
    assert found.floats == pytest.approx(expected)
    bottom, high = expected
    rgb = read_image(sources[1], found)
    assert rgb[:, :, 1] == pytest.approx((np.asarray(sources[1].data) - bottom) * 255 / (high - bottom), abs=1e-3)


def test_signed_and_wide_integers() -> None:
    with pytest.warns(PatchbankWarning):
        signed = decide_range(arrays(3000, dtype=np.int16, low=-1000))
    with pytest.warns(PatchbankWarning):
        wide = decide_range(arrays(1e6, dtype=np.uint32))
    assert signed.integers == pytest.approx((-1200, 3200))
    assert wide.integers == pytest.approx((0, 1.05e6))


def test_a_range_that_is_hardly_used_is_said() -> None:
    with pytest.warns(PatchbankWarning, match=r"nearly all pixels use only 29002..30998; value_range \(--full-scale\)"):
        decide_range(arrays(31000, low=29000))


def test_kinds_in_one_set_have_scales_of_their_own() -> None:
    eight = Sample.of("eight", np.full((8, 8), 200, np.uint8))
    assert decide_range([eight]) == ValueRange()
    with pytest.warns(PatchbankWarning):
        found = decide_range([eight, *arrays(4000), *arrays(1, dtype=np.float32)])
    assert found == ValueRange((0, 4095), (0, 1), True)
    assert np.array_equal(read_image(eight, found), np.full((8, 8, 3), 200))


def test_eight_bit_files_are_not_decoded_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "a.jpg", "a.bmp", "a.tif", "a.webp", "a.gif"):
        Image.fromarray(DEEP.astype(np.uint8)).save(tmp_path / name)
    monkeypatch.setattr("patchbank.data.training_range.read_raw", lambda source: pytest.fail(source.name))
    assert decide_range([Sample.of(p.name, p) for p in sorted(tmp_path.iterdir())]) == ValueRange()


@pytest.mark.parametrize(
    "given", [(0, float("nan")), (0, float("inf")), (5, 5), (9, 1), (1,), (0, 1, 2), 4095, "0,1", ("a", "b")]
)
def test_ranges_that_are_none(given: Any) -> None:
    with pytest.raises(OptionError, match="value_range must be two finite numbers"):
        decide_range(arrays(100), given)


def test_a_range_that_was_given() -> None:
    assert decide_range(arrays(100), (10, 90)) == ValueRange((10, 90), (10, 90), False)
    rgb = read_image(Sample.of("a", np.array([[0, 10, 50, 90, 100]], np.uint16)), ValueRange((10, 90)))
    assert rgb[0, :, 0].tolist() == [0, 0, 127.5, 255, 255]
    with pytest.warns(PatchbankWarning, match="the training images have 8 bits"):
        assert decide_range([Sample.of("a", np.zeros((8, 8), np.uint8))], [0, 4095]).eight_bit


def test_values_outside_are_clipped_and_said_once_an_image() -> None:
    image = Sample.of("part 5", np.array([[0, 4095, 5000]], np.uint16))
    with pytest.warns(
        PatchbankWarning, match=r"part 5: its values 0..5000 lie partly outside 0..4095.*clipped"
    ) as said:
        assert read_image(image, TWELVE, tell).max() == 255
    assert len(said) == 1


@pytest.mark.parametrize(
    ("array", "values", "white", "words"),
    [
        (
            np.full((4, 4), 255, np.uint8),
            TWELVE,
            255,
            "is an 8-bit image, and the model was fitted on integers 0..4095",
        ),
        (np.full((4, 4), 1.0, np.float32), TWELVE, 255, "0..1 is taken"),
        (np.full((4, 4), 4095.0), TWELVE, 255, "the same range is taken"),
        (np.full((4, 4), 4000, np.uint16), ValueRange(), 4000 / 257, "end at 4000 and look nearly black"),
        (np.full((4, 4), 255, np.int64), ValueRange(), 255, "0..255 is taken"),
        (np.full((4, 4), 65535, np.int32), ValueRange(), 255, "0..65535 is taken"),
        (np.full((4, 4), 255.0), ValueRange(), 255, "0..255 is taken"),
        (np.full((4, 4), 17, np.uint16), ValueRange(floats=(-3, 17), eight_bit=False), 255, "the same range is taken"),
    ],
)
def test_an_image_of_another_kind(array: np.ndarray, values: ValueRange, white: float, words: str) -> None:
    with pytest.warns(PatchbankWarning, match=f"a: .*{words}"):
        assert read_image(Sample.of("a", array), values, tell).max() == pytest.approx(white)


@pytest.mark.filterwarnings("error::patchbank.errors.PatchbankWarning")
def test_nothing_is_said_where_full_scales_agree() -> None:
    sixteen = ValueRange(integers=(0, 65535), eight_bit=False)
    for array, values in (
        (np.full((4, 4), 255, np.uint8), sixteen),
        (np.full((4, 4), 255, np.uint8), ValueRange(floats=(0, 1), eight_bit=False)),
        (np.full((4, 4), 65535, np.uint16), ValueRange()),
        (np.full((4, 4), 1.0), sixteen),
        (np.full((4, 4), 4095, np.uint16), TWELVE),
        (np.full((4, 4), True), ValueRange()),
    ):
        assert read_image(Sample.of("a", array), values, tell).max() == 255


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((4, 4), -1, np.int32), "its values -1..-1 have the type int32"),
        (np.full((4, 4), 1e6), "must lie in 0..1"),
        (np.array([[0.5, np.nan, np.inf]]), "2 of its 3 values are NaN or infinite"),
        (np.zeros((3, 8, 8), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((8, 8), np.complex64), "its type is complex64"),
        (np.full((8, 8), "a"), "its type is <U1"),
    ],
)
def test_arrays_whose_range_nobody_can_know(array: np.ndarray, words: str) -> None:
    with pytest.raises(ImageError, match=f"array: .*{words}"):
        read_image(Sample.of("array", array))


def test_big_endian_and_half_precision() -> None:
    values = np.array([[0, 4095]], ">u2")
    assert read_image(Sample.of("a", values), TWELVE)[0, :, 0].tolist() == [0, 255]
    half = np.array([[0, 60000]], np.float16)
    assert read_image(Sample.of("a", half), ValueRange(floats=(0, 65535)))[0, 1, 0] == pytest.approx(
        60000 / 257, rel=1e-3
    )


def test_state_and_words() -> None:
    for values in (ValueRange(), TWELVE, ValueRange((0, 1023), (-3, 17), True)):
        assert ValueRange.of(values.state()) == values
    assert ValueRange.of(None) == ValueRange()
    assert str(ValueRange((0, 1023), (-3, 17), True)) == "8 bit, integers 0..1023, floating-point -3..17"
    assert TWELVE | ValueRange() == ValueRange((0, 4095), None, True)
    with pytest.raises(OptionError, match="different ranges"):
        TWELVE | ValueRange((0, 1023))


def test_no_memory_is_no_unreadable_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from patchbank.errors import MemoryBudgetError

    path = tmp_path / "a.png"
    Image.fromarray(DEEP.astype(np.uint8)).save(path)

    def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("patchbank.data.read._copied", full)
    with pytest.raises(MemoryBudgetError, match=r"a\.png: there is not enough memory for this image of 30×20 pixels"):
        read_image(Sample.of(str(path), path))


def test_what_opencv_and_pillow_say_of_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from patchbank.errors import MemoryBudgetError

    source = Sample.of("a.tif", tiff(DEEP))
    monkeypatch.setattr("patchbank.data.deep.cv2.imdecode", lambda *_: None)
    with pytest.raises(ImageError, match="it is damaged or cut off"):
        read_image(source)

    def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("patchbank.data.deep.np.empty", full)
    with pytest.raises(MemoryBudgetError, match="not enough memory"):
        read_image(source)
    monkeypatch.undo()

    def pillow(*_: Any) -> None:
        raise OSError("out of memory error when reading image file")

    monkeypatch.setattr("patchbank.data.read._of_pil", pillow)
    with pytest.raises(MemoryBudgetError, match="not enough memory for this image of 30×20 pixels"):
        read_image(Sample.of("a.tif", tiff(DEEP[:, :, 0])))
