"""Parts with a picture and a depth for each pixel, drawn from a seed, good ones and defective ones with exact masks.

Three kinds: `ring` a machined ring nut in any turn, `plate` a moulded plate with ribs, `body` a baked cookie, soft and
different each time. Which of picture and depths shows a defect is known: `SHOWN_BY`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from patchbank._system import threads
from patchbank._system.files import replacing_folder
from patchbank.data.datasets.dataset import GOOD
from patchbank.demo import solid_defects
from patchbank.demo.solid_body import Body, Raster
from patchbank.demo.solid_cookie import cookie
from patchbank.demo.solid_plate import plate
from patchbank.demo.solid_ring import ring
from patchbank.demo.solid_view import Hits, Scene, measure, picture, reached, scene, speckle, trace
from patchbank.errors import DatasetError, OptionError
from patchbank.shape import Shape

_MAKE: dict[str, Callable[[np.random.Generator, Raster], Body]] = {"ring": ring, "plate": plate, "body": cookie}
_SMALLEST = 64  # pixels along each side: in smaller pictures a defect is a pixel

SOLID_KINDS: tuple[str, ...] = tuple(_MAKE)

SHOWN_BY: dict[str, tuple[str, ...]] = {
    "dent": ("xyz",),
    "stain": ("rgb",),
    "cut": ("rgb", "xyz"),
    "missing": ("xyz",),
}
"""For each kind of defect, the channels that it changes; the others are as they are on the good part."""

SOLID_DEFECTS: tuple[str, ...] = tuple(SHOWN_BY)


@dataclass(frozen=True, eq=False)
class SolidPart:
    """One part as its camera and its depth sensor see it.

    Attributes:
        rgb: H×W×3 uint8.
        shape: a depth in mm for each pixel of `rgb`, and the camera.
        mask: H×W, where the defect is; nowhere on a good part.
    """

    rgb: NDArray[np.uint8]
    shape: Shape
    mask: NDArray[np.bool_]


def draw_solid(kind: str, defect: str | None, rng: np.random.Generator, size: int = 400) -> SolidPart:
    """One part of `kind`, good for `defect` None, in a picture of `size`×`size` pixels.

    From the same state of `rng` the good and the defective drawings show the same part in the same light with the same
    noise. What `SHOWN_BY` does not name for a defect is equal to the last bit.

    Raises:
        OptionError: an unknown kind or defect, or a size below 64.
    """
    _check(kind, size)
    if defect is not None and defect not in SOLID_DEFECTS:
        raise OptionError(f"The synthetic {kind} has no defect {defect!r}; choose one of {', '.join(SOLID_DEFECTS)}.")
    part_seed, defect_seed, picture_seed, depth_seed = (int(seed) for seed in rng.integers(2**62, size=4))
    part_rng, depth_rng = np.random.default_rng(part_seed), np.random.default_rng(depth_seed)
    view = scene(part_rng, size)
    good = _seen(_MAKE[kind](part_rng, view.raster), view)
    lost = speckle(good.hits, good.reached, view, depth_rng)
    bad, mask = good, np.zeros((size, size), dtype=bool)
    if defect is not None:
        bad, mask = _damaged(good, defect, lost, view, np.random.default_rng(defect_seed))
    changed = SHOWN_BY[defect] if defect else ()
    pictured, measured = (bad if channel in changed else good for channel in ("rgb", "xyz"))
    valid = measured.reached & ~lost & ~(mask & (defect == "missing"))
    rgb = picture(pictured.body, pictured.hits, view, np.random.default_rng(picture_seed))
    return SolidPart(rgb, measure(measured.hits, valid, view, depth_rng), mask)


@dataclass(frozen=True)
class _Seen:
    """A body, where the camera's rays meet it, and which of these points the depth sensor's projector reaches."""

    body: Body
    hits: Hits
    reached: NDArray[np.bool_]


def _seen(body: Body, view: Scene) -> _Seen:
    hits = trace(body, view)
    return _Seen(body, hits, reached(body, hits, view))


def _damaged(
    good: _Seen, defect: str, lost: NDArray[np.bool_], view: Scene, rng: np.random.Generator
) -> tuple[_Seen, NDArray[np.bool_]]:
    """The part with a defect where the good part has points, and the pixels that show it."""
    on_part = good.hits.sample(good.body.solid, view.raster) > 0.5
    at = solid_defects.place(on_part & good.reached & ~lost, good.hits, round(4 / view.raster.pitch), rng)
    body, spot = solid_defects.DRAW[defect](good.body, at, rng, view.raster)
    bad = good if body is good.body else _seen(body, view)
    shown = np.maximum(good.hits.sample(spot, view.raster), bad.hits.sample(spot, view.raster)) > 0.5
    return bad, shown & on_part


def write_solid_dataset(
    folder: str | Path,
    kind: str,
    *,
    train: int = 80,
    test_good: int = 30,
    per_defect: int = 10,
    seed: int = 0,
    size: int = 400,
) -> Path:
    """Draw a data set of `kind` in the layout of MVTec 3D-AD; `folder` is there when it is complete, and returned.

    It holds train/good, test/good and one folder of test for each of `SOLID_DEFECTS`; in each of them rgb/000.png,
    xyz/000.tiff (x, y, z in metres, float32; 0 0 0 where there is no point) and, for defects, gt/000.png.
    The same seed gives the same files, and other counts do not change the parts that both have.

    Args:
        train: good parts to learn from.
        test_good: good parts to inspect.
        per_defect: parts to inspect with each kind of defect.

    Raises:
        OptionError: an unknown kind, a size below 64, or a negative count.
        DatasetError: the folder already holds something.
    """
    target = Path(folder)
    _check(kind, size)
    for name, count in (("train", train), ("test_good", test_good), ("per_defect", per_defect)):
        if count < 0:
            raise OptionError(f"{name} is {count}; it is a number of parts, so give 0 or more.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DatasetError(f"{target} is not empty; remove it or name another folder for the synthetic parts.")
    groups = [
        ("train", None, train),
        ("test", None, test_good),
        *(("test", name, per_defect) for name in SOLID_DEFECTS),
    ]
    with replacing_folder(target) as unfinished:
        jobs = [
            (unfinished / part / (defect or GOOD), defect, zlib.crc32(f"{kind}/{part}/{defect or GOOD}".encode()), i)
            for part, defect, count in groups
            for i in range(count)
        ]
        for group, defect, _, _ in jobs:
            for channel in ("rgb", "xyz", *(("gt",) if defect else ())):
                (group / channel).mkdir(parents=True, exist_ok=True)

        def write(job: tuple[Path, str | None, int, int]) -> None:
            group, defect, code, i = job
            drawn = draw_solid(kind, defect, np.random.default_rng(np.random.SeedSequence([seed, code, i])), size)
            _write(group, f"{i:03d}", drawn, with_mask=defect is not None)

        threads.for_each(write, jobs)
    return target


def _write(group: Path, name: str, part: SolidPart, *, with_mask: bool) -> None:
    """The files of one part. Not with imwrite, which fails on some paths in silence."""
    files = {
        f"rgb/{name}.png": (part.rgb[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1]),
        f"xyz/{name}.tiff": (part.shape.xyz()[..., ::-1] / np.float32(1000), [cv2.IMWRITE_TIFF_COMPRESSION, 1]),
    }
    if with_mask:
        files[f"gt/{name}.png"] = part.mask.astype(np.uint8) * 255, []
    for file, (pixels, options) in files.items():
        _, data = cv2.imencode(Path(file).suffix, pixels, options)
        (group / file).write_bytes(data.tobytes())


def _check(kind: str, size: int) -> None:
    if kind not in SOLID_KINDS:
        raise OptionError(f"There is no synthetic part {kind!r}; choose one of {', '.join(SOLID_KINDS)}.")
    if size < _SMALLEST:
        raise OptionError(f"size is {size} pixels; a defect shows from {_SMALLEST} pixels on.")
