"""What a dataset is to the rest of the package: good images to learn from, and labelled images to test on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchbank.errors import DatasetError, OptionError
from patchbank.images.sources import list_images
from patchbank.numbers import is_whole

GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """One test image.

    `defect` is "good" for a nominal part, else the kind of defect. `mask` is the file that marks its pixels,
    or a folder of such files that together mark them (MVTec LOCO), or None where the dataset has none.
    """

    path: Path
    defect: str
    mask: Path | None


@dataclass(frozen=True)
class Dataset:
    """Good images to train on and labelled images to test on, both sorted by path.

    A mask pixel whose grey value is above `mask_above` is a defect. `test` is empty where the layout has no
    test images.
    """

    name: str
    root: Path
    layout: str
    train: tuple[Path, ...]
    test: tuple[Sample, ...]
    mask_above: int

    def with_shots(self, shots: int | None, seed: int) -> Dataset:
        """The same with so many training images, drawn by the seed; None for all. Raises `OptionError`."""
        if shots is None:
            return self
        if not is_whole(shots) or not 1 <= shots <= len(self.train):
            raise OptionError(f"--shots must lie in 1..{len(self.train)} for {self.name}, not {shots}")
        drawn = np.random.default_rng(seed).choice(len(self.train), shots, replace=False)
        return replace(self, train=tuple(self.train[i] for i in sorted(drawn)))

    def with_every(self, nth: int) -> Dataset:
        """The same with every `nth` training image, and test image of each kind, in the order of their file names, as
        frames of a video."""
        if not is_whole(nth) or nth < 1:
            raise OptionError(f"every must be a whole number, at least 1, not {nth}")
        if nth == 1:
            return self
        by_name = sorted(self.test, key=lambda sample: sample.path.name)
        kinds = {sample.defect for sample in self.test}
        test = [sample for kind in kinds for sample in [s for s in by_name if s.defect == kind][::nth]]
        train = sorted(self.train, key=lambda path: path.name)[::nth]
        return replace(self, train=tuple(sorted(train)), test=tuple(sorted(test, key=lambda sample: sample.path)))


def read_mask(sample: Sample, mask_above: int, size: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Which pixels of `sample` are defective: bool, H×W with `size` = (H, W); None for a defect that has no
    mask file.

    A good part is False everywhere. A mask of another size is resized to `size`, nearest pixel. A mask file
    without any defective pixel is legal and comes back as all False. Raises `DatasetError` where a mask file
    cannot be read.
    """
    if sample.defect == GOOD:
        return np.zeros(size, dtype=bool)
    if sample.mask is None:
        return None
    mask = np.zeros(size, dtype=bool)
    for file in list_images(sample.mask) if sample.mask.is_dir() else [sample.mask]:
        mask |= _read_mask_file(file, mask_above, size)
    return mask


def _read_mask_file(file: Path, mask_above: int, size: tuple[int, int]) -> NDArray[np.bool_]:
    try:
        with Image.open(file) as image:
            # A colour or palette mask counts by its brightest channel; transparency says nothing about
            # defects.
            grey = image.mode in ("1", "L") or image.mode.startswith(("I", "F"))
            values = np.asarray(image if grey else image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(
            f"{file}: the mask cannot be read as an image ({error}); repair it or leave it out."
        ) from None
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * 255
    mask = (values.max(axis=2) if values.ndim == 3 else values) > mask_above
    if mask.shape != size:
        height, width = size
        mask = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    return np.asarray(mask, dtype=bool)
