"""The masks of an evaluation as they are read: which were resized, turned or refused, and which look wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchbank.data.datasets import GOOD, Dataset, LabelledImage
from patchbank.data.datasets.mask_files import open_mask
from patchbank.errors import DatasetError, OnError

_LARGE = 0.5  # share of an image: a defect that covers more is perhaps the part, marked by an inverted mask


@dataclass
class MaskReader:
    """Reads masks, and remembers the images with remarkable ones."""

    resized: list[Path] = field(default_factory=list)
    turned: list[Path] = field(default_factory=list)
    refused: list[Path] = field(default_factory=list)
    empty: list[Path] = field(default_factory=list)
    large: list[Path] = field(default_factory=list)
    good: list[Path] = field(default_factory=list)

    def read(
        self, sample: LabelledImage, dataset: Dataset, size: tuple[int, int], on_error: OnError
    ) -> NDArray[np.bool_] | None:
        """The defective pixels of a test image, H×W; None where nobody marked them, or the mask cannot be used, which
        `on_error` hears of."""
        nothing = np.zeros(size, dtype=bool) if sample.defect == GOOD else None
        try:
            mask = open_mask(sample, dataset.mask_above, size)
        except DatasetError as error:
            self.refused.append(sample.path)
            on_error(str(sample.mask), error)
            return nothing
        if mask is None:
            return nothing
        if sample.defect == GOOD:
            if mask.pixels.any():
                self.good.append(sample.path)
            return nothing
        for is_so, images in (
            (mask.resized, self.resized),
            (mask.turned, self.turned),
            (not mask.pixels.any(), self.empty),
            (mask.pixels.mean() > _LARGE, self.large),
        ):
            if is_so:
                images.append(sample.path)
        return mask.pixels

    def sentences(self) -> list[str]:
        """What a person should know about the masks."""
        several = (
            (self.refused, "masks cannot be used: their images count for the image metrics only"),
            (self.empty, "masks of defective images are empty: these count for the image metrics only"),
            (self.large, "masks mark more than half of the image: are they inverted?"),
            (self.good, "good images have masks with marked pixels, which are not used: are the images good?"),
            (self.turned, "masks are turned as the EXIF orientation turns their images"),
            (self.resized, "masks have another size than their images and are resized"),
        )
        return [f"{len(images)} {words} (such as that of {images[0]})" for images, words in several if images]
