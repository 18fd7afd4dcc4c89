"""What stored numbers mean: plain values that come back, refusals in one sentence, cameras from JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchbank.errors import OptionError
from patchbank.shape import Camera, DepthFormat, Pinhole, Pitch, read_camera

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
above = st.floats(min_value=1e-3, max_value=1e4)
cameras: st.SearchStrategy[Camera | None] = st.one_of(
    st.none(), st.builds(Pinhole, above, above, finite, finite), st.builds(Pitch, above, above)
)


@settings(deadline=None)
@given(
    unit=st.one_of(st.sampled_from(["auto", "um", "mm", "cm", "m", "in"]), above),
    scale=above,
    offset=finite,
    invalid=st.lists(finite, max_size=4).map(tuple),
    axis=st.sampled_from(["depth", "height"]),
    camera=cameras,
)
def test_a_format_comes_back_from_plain_values(**values: Any) -> None:
    format = DepthFormat(**values)
    assert DepthFormat.of(json.loads(json.dumps(format.state()))) == format


def test_a_projection_comes_back() -> None:
    format = DepthFormat(projection=(30, 40), camera=Pitch(1, 2))
    assert DepthFormat.of(json.loads(json.dumps(format.state()))) == format


@pytest.mark.parametrize(
    ("unit", "millimetres"),
    [
        ("um", 1e-3),
        ("µm", 1e-3),
        ("MM", 1),
        ("cm", 10),
        ("m", 1000),
        ("in", 25.4),
        (0.25, 0.25),
        ("0.25", 0.25),
        ("auto", None),
    ],
)
def test_units(unit: Any, millimetres: float | None) -> None:
    assert DepthFormat(unit=unit).millimetres == millimetres


def test_numbers_that_are_never_points_need_not_be_listed() -> None:
    assert DepthFormat(invalid=(0, float("nan"), float("inf"))).invalid == (0.0,)


def test_whether_the_camera_is_known() -> None:
    assert not DepthFormat().camera_is_known
    assert DepthFormat(camera=Pitch(1, 1)).camera_is_known


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"unit": "miles"}, "unit must be one of auto, um, mm"),
        ({"unit": 0}, "unit must be"),
        ({"unit": float("nan")}, "unit must be"),
        ({"scale": 0}, "scale must be a finite number other than 0"),
        ({"offset": float("inf")}, "offset must be a finite number"),
        ({"invalid": 0}, "invalid must be a list"),
        ({"invalid": ("x",)}, "invalid must be a list"),
        ({"axis": "up"}, "axis must be depth"),
        ({"camera": Pinhole(0, 1, 0, 0)}, "fx and fy above 0"),
        ({"camera": Pitch(1, float("nan"))}, "a pitch above 0"),
        ({"projection": (1, 100)}, "projection must be the height and width"),
        ({"projection": (1 << 20, 1 << 20)}, "projection must be"),
        ({"projection": 400}, "projection must be"),
        ({"projection": (40, 40), "camera": Pinhole(9, 9, 0, 0)}, "parallel rays"),
    ],
)
def test_values_that_cannot_be(values: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words) as caught:
        DepthFormat(**values)
    assert "\n" not in str(caught.value)


WANTED = Pinhole(900.0, 905.0, 23.5, 19.25)


@pytest.mark.parametrize(
    "content",
    [
        {"fx": 900, "fy": 905, "cx": 23.5, "cy": 19.25, "width": 48},
        {"serial": "a", "intrinsics": {"fx": 900, "fy": 905, "cx": 23.5, "cy": 19.25}},
        {"camera_matrix": [[900, 0, 23.5], [0, 905, 19.25], [0, 0, 1]]},
        {"camera": {"K": [900, 0, 23.5, 0, 905, 19.25, 0, 0, 1]}},
        {"focus": 0.018, "sx": 0.018 / 900, "sy": 0.018 / 905, "cx": 23.5, "cy": 19.25, "kappa": 0},
        {"intrinsics": {"focus": 18, "sx": 18 / 900, "sy": 18 / 905, "cx": 23.5, "cy": 19.25}},
    ],
)
def test_a_pinhole_from_a_file(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "camera_parameters.json"
    path.write_text(json.dumps(content))
    camera = read_camera(path)
    assert isinstance(camera, Pinhole)
    for name in ("fx", "fy", "cx", "cy"):
        assert getattr(camera, name) == pytest.approx(getattr(WANTED, name), rel=1e-12)


@pytest.mark.parametrize(
    ("content", "pitch"), [({"pitch": 0.05}, Pitch(0.05, 0.05)), ({"pitch_x": 0.1, "pitch_y": 2}, Pitch(0.1, 2.0))]
)
def test_a_pitch_from_a_file(content: Any, pitch: Pitch, tmp_path: Path) -> None:
    path = tmp_path / "camera.json"
    path.write_text(json.dumps(content))
    assert read_camera(path) == pitch


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not JSON"),
        ("\xff\xfe", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "has no camera"),
        ("{}", "has no camera"),
        ('{"intrinsics": {"intrinsics": {"intrinsics": {"intrinsics": {}}}}}', "has no camera"),
        ('{"K": [[1, 2], [3, 4]]}', "has no camera"),
        ('{"fx": "a", "fy": 1, "cx": 0, "cy": 0}', "its fx must be a finite number"),
        ('{"fx": NaN, "fy": 1, "cx": 0, "cy": 0}', "its fx must be a finite number"),
        ('{"fx": 0, "fy": 1, "cx": 0, "cy": 0}', "fx and fy above 0"),
        ('{"pitch": -1}', "a pitch above 0"),
        ('{"focus": 1, "sx": 0, "sy": 1, "cx": 0, "cy": 0}', "sx and sy"),
        (f'{{"pitch": 1{"0" * 400}}}', "its pitch must be a finite number"),
        (" " * (1 << 21), "too large"),
    ],
)
def test_files_that_are_no_camera(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "camera.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(OptionError, match=words) as caught:
        read_camera(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_camera_that_is_missing_or_a_pipe(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"gone\.json: cannot be read"):
        read_camera(tmp_path / "gone.json")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(OptionError, match=r"pipe\.json: cannot be read.*named pipe"):
        read_camera(tmp_path / "pipe.json")
