"""Parts drawn from a seed, good ones and defective ones with exact masks: for the demo, tests and first steps
offline.

Each kind is one file with `DEFECTS` and `render`: `weave` a textile (256×256), `gear` a machined part in
varying pose and light (320 wide, 256 high).
"""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from patchbank.data.datasets.dataset import GOOD
from patchbank.demo import gear, weave
from patchbank.errors import DatasetError, OptionError

_DEFECTS = {"weave": weave.DEFECTS, "gear": gear.DEFECTS}
_RENDER = {"weave": weave.render, "gear": gear.render}

KINDS: tuple[str, ...] = tuple(_RENDER)


def defects(kind: str) -> tuple[str, ...]:
    """The kinds of defect that `draw` knows for `kind`. Raises `OptionError` for an unknown kind."""
    if kind not in _DEFECTS:
        raise OptionError(f"There is no synthetic part {kind!r}; choose one of {', '.join(KINDS)}.")
    return _DEFECTS[kind]


def draw(kind: str, defect: str | None, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """One part: its picture, uint8 H×W×3 RGB, and the mask of its defective pixels, bool H×W, for `defect`
    None all False.

    From the same state of `rng` the good and the defective drawings show the same part in the same light with
    the same noise: they are equal outside the mask, which holds every pixel that the defect changed. Raises
    `OptionError` for an unknown kind or defect.
    """
    known = defects(kind)
    if defect is not None and defect not in known:
        raise OptionError(f"The synthetic {kind} has no defect {defect!r}; choose one of {', '.join(known)}.")
    part_seed, defect_seed = (int(seed) for seed in rng.integers(2**62, size=2))

    def render(defect: str | None) -> NDArray[np.uint8]:
        return _RENDER[kind](defect, np.random.default_rng(part_seed), np.random.default_rng(defect_seed))

    image = render(defect)
    if defect is None:
        return image, np.zeros(image.shape[:2], dtype=bool)
    changed = np.any(image != render(None), axis=2)
    # In a faint defect rounding leaves single pixels as they were; closing fills these pinholes.
    closed = cv2.morphologyEx(changed.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    return image, changed | (closed > 0)


def write_dataset(
    root: str | Path,
    kind: str,
    *,
    seed: int = 0,
    n_train: int = 120,
    n_test_good: int = 30,
    n_per_defect: int = 15,
) -> Path:
    """Draws a dataset of `kind` into the folder `root`/`kind`, in the mvtec layout, and returns that folder.

    The same seed gives the same files, and other counts do not change the images that both have. Raises
    `OptionError` for an unknown kind and `DatasetError` where the folder already holds something.
    """
    folder = Path(root) / kind
    kinds_of_defect = defects(kind)
    if folder.is_dir() and any(folder.iterdir()):
        raise DatasetError(f"{folder} is not empty; remove it or name another folder for the synthetic parts.")
    _write_group(folder, kind, "train", None, n_train, seed)
    _write_group(folder, kind, "test", None, n_test_good, seed)
    for defect in kinds_of_defect:
        _write_group(folder, kind, "test", defect, n_per_defect, seed)
    return folder


def _write_group(folder: Path, kind: str, part: str, defect: str | None, count: int, seed: int) -> None:
    name = defect or GOOD
    images, masks = folder / part / name, folder / "ground_truth" / name
    images.mkdir(parents=True, exist_ok=True)
    if defect is not None:
        masks.mkdir(parents=True, exist_ok=True)
    group = zlib.crc32(f"{kind}/{part}/{name}".encode())

    def write(i: int) -> None:
        rng = np.random.default_rng(np.random.SeedSequence([seed, group, i]))
        image, mask = draw(kind, defect, rng)
        _write_png(images / f"{i:03d}.png", image[..., ::-1])
        if defect is not None:
            _write_png(masks / f"{i:03d}_mask.png", mask.astype(np.uint8) * 255)

    with ThreadPoolExecutor() as pool:  # numpy and cv2 let go of the interpreter while they compute
        list(pool.map(write, range(count)))


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    # Fast rather than small: the sensor noise does not compress anyway. Not imwrite, which fails on some
    # paths in silence.
    _, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    path.write_bytes(data.tobytes())
