"""The smallest defect that an inspected size shows."""

from __future__ import annotations

from patchbank.data import Geometry
from patchbank.features.resolution import SEEN, resolution_of


def test_a_photograph_that_is_reduced() -> None:
    found = resolution_of(Geometry("whole", 512), (600, 800), enlarges=True)
    assert found.inspected == (512, 672)
    assert found.smallest == SEEN * 600 / 512
    assert [f.option for f in found.finer] == []  # 600 is hardly more than 512
    assert found.sentence() == (
        "images of 600×800 pixels are inspected at 512×672: defects below about 14 px may be missed"
    )


def test_a_large_photograph() -> None:
    found = resolution_of(Geometry("whole", 512), (3000, 4000), enlarges=True)
    size, tiles = found.finer
    assert size.option == "--image-size 1024"
    assert size.smallest == SEEN * 3000 / 1024
    assert size.times == 4
    assert tiles.option == "--tile 512"
    assert tiles.smallest == SEEN
    assert 45 < tiles.times < 50
    assert "--tile 512 sees 12 px at" in found.sentence()


def test_small_pictures() -> None:
    enlarged = resolution_of(Geometry("whole", 768, zoom=3.0), (256, 256), enlarges=True)
    assert enlarged.inspected == (768, 768)
    assert enlarged.smallest == SEEN / 3
    assert enlarged.finer == ()  # they are never enlarged more than three times
    own = resolution_of(Geometry("whole", 256), (256, 256), enlarges=True)
    assert "are inspected at their own size" in own.sentence()
    assert [f.option for f in own.finer] == ["--image-size 512"]
    assert resolution_of(Geometry("whole", 256), (256, 256), enlarges=False).finer == ()


def test_tiles_and_crops_are_as_they_are() -> None:
    assert resolution_of(Geometry("whole", 512, native=True), (3000, 4000), enlarges=True).finer == ()
    assert resolution_of(Geometry("paper", 224), (3000, 4000), enlarges=True).finer == ()
