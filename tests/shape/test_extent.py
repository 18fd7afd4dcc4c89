"""What people read about a shape, and which files are listed as geometry."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchbank.shape import (
    Pinhole,
    Pitch,
    describe,
    is_geometry,
)
from tests.shape.parts import (
    PINHOLE,
    heights,
    part,
    png_bytes,
    tiff_bytes,
)


def test_descriptions() -> None:
    shape = part(Pinhole(2700.4, 2700, 23.5, 19.25), missing=0.0)
    assert describe(shape).endswith(" mm, 100 % valid, pinhole fx 2700")
    assert describe(shape).startswith("extent 11.4 × 9.4")
    assert describe(heights()).endswith("79 % valid, pitch 0.1 mm")
    assert describe(part(Pitch(0.1, 30), missing=0.0)).startswith("extent 4.7 × 1170 × ")
    assert describe(part(Pitch(0.1, 0.25), missing=0.0)).endswith("100 % valid, pitch 0.1 × 0.25 mm")


@pytest.mark.parametrize("camera", [PINHOLE, Pitch(0.1, 0.2)])
def test_the_extent_of_a_large_shape_is_that_of_its_points(camera: Any) -> None:
    shape = part(camera, missing=0.5, size=(1500, 1000))  # of several blocks
    points = shape.xyz()[shape.valid]
    spans = [f"{span:.3g}" if span < 1000 else f"{span:.0f}" for span in np.ptp(points, axis=0)]
    assert describe(shape).startswith(f"extent {' × '.join(spans)} mm")


def test_which_files_hold_geometry(tmp_path: Path) -> None:
    depth = png_bytes(np.rint(part().z).astype(np.uint16))
    files = {
        "a.tiff": (tiff_bytes(part().xyz()), True),
        "b.png": (depth, True),
        "c.PLY": (b"", True),
        "d.npy": (b"", True),
        "e.csv": (b"", True),
        "f.png": (png_bytes(np.ones((8, 8), np.uint8)), False),
        "g.png": (png_bytes(np.ones((8, 8, 3), np.uint16)), False),
        "h.tif": (tiff_bytes(np.ones((8, 8, 3), np.uint8)), False),
        "i.tif": (tiff_bytes(np.ones((8, 8), np.int16)), True),
        "j.tif": (b"II*\0", False),
        "k.png": (b"", False),
        "l.txt": (b"1 2 3", False),
        "m.jpg": (depth, False),
    }
    for name, (data, expected) in files.items():
        (tmp_path / name).write_bytes(data)
        assert is_geometry(tmp_path / name) is expected, name
    os.mkfifo(tmp_path / "n.png")
    assert not is_geometry(tmp_path / "n.png")
    assert not is_geometry(tmp_path / "gone.png")
