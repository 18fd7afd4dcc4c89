"""What a dataset is to the rest of the package: good images to learn from, and labelled images to test on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from patchbank._system.numbers import is_whole
from patchbank.data.datasets.found import NOTHING, Found
from patchbank.errors import OptionError

GOOD = "good"


@dataclass(frozen=True)
class LabelledImage:
    """One test image.

    `defect` is "good" for a nominal part, else the kind of defect. `mask` is the file that marks its pixels,
    or a folder of such files that together mark them (MVTec LOCO), or None where the dataset has none. A good part may
    have one too, which should be empty.
    """

    path: Path
    defect: str
    mask: Path | None


@dataclass(frozen=True)
class Dataset:
    """Good images to train on and labelled images to test on, both sorted by path.

    A mask pixel whose grey value is above `mask_above` is a defect. `test` is empty where the layout has no
    test images. `train_found` and `test_found`: what else lies in their folders.
    """

    name: str
    root: Path
    layout: str
    train: tuple[Path, ...]
    test: tuple[LabelledImage, ...]
    mask_above: int
    train_found: Found = NOTHING
    test_found: Found = NOTHING

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
