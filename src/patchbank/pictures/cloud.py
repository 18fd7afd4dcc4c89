"""One prediction as a cloud of coloured points, which programs for point clouds open."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from patchbank.data import Sample, ValueRange
from patchbank.errors import ImageError
from patchbank.pictures.drawing import read_again
from patchbank.pictures.heat import heat
from patchbank.prediction import Prediction
from patchbank.shape import write_ply
from patchbank.shape.decide import read_sample_shape


def write_cloud(path: Path, source: Sample, prediction: Prediction, values: ValueRange) -> None:
    """Write the points of a sample as a binary PLY, in millimetres.

    A point has the colour of the picture, or of the shaded surface where there is none; above the map threshold that of
    `heat`. The property "anomaly" is the map, NaN where it was not inspected.

    Args:
        path: of the file, which is written aside and renamed.
        source: the sample, seen in the first channel of the model.
        prediction: of that sample, with a map.
        values: what pixel values and depths mean to the model.

    Raises:
        ImageError: the sample cannot be read any more, or has another size now.
    """
    rgb = read_again(source, prediction.map.shape, values).picture
    shape = read_sample_shape(source, values.depths)
    if shape.size != prediction.map.shape:
        raise ImageError(f"{source.name}: changed while it was inspected")
    above = np.nan_to_num(prediction.map, nan=-np.inf) > prediction.map_threshold
    colours = np.where(above[..., None], heat(rgb, prediction.map, prediction.map_threshold), rgb)
    write_ply(path, shape, colours, {"anomaly": prediction.map})
