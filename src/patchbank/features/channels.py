"""How one channel of a sample becomes patch features: as a picture that a network sees, or computed on the grid itself.

A channel has two stages: `load` runs in a background thread while the network is at another sample, `features` beside
the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchbank._system.files import file_digest, reason
from patchbank.data import RGB, Sample, ValueRange, View, read_image
from patchbank.data.channels import made_of
from patchbank.data.content import pixel_digest
from patchbank.errors import ImageError, OptionError, WeightsError, notify
from patchbank.features import point_mae
from patchbank.sample import GEOMETRY_CHANNEL, MADE_OF
from patchbank.shape import Shape
from patchbank.shape.decide import POINTS, VIEWS, read_sample_shape
from patchbank.shape.features import FEATURE_LENGTHS, SHAPE_FEATURES, STEPS, masked_cell_means
from patchbank.shape.images import SHAPE_IMAGES
from patchbank.shape.surface import Surface
from patchbank.shape.views import View2D, gather, views

if TYPE_CHECKING:
    from patchbank.features.aggregation import Arrangement
    from patchbank.features.backbones import Backbone

# what was best on average over the drawn parts (docs/experiments/geometry.md)
WITH_GEOMETRY = ("rgb", "curvature", "normals", "holes")
Painted = Callable[[RGB], RGB]


@dataclass
class Seen:
    """A sample while its channels are loaded: each file is read once."""

    source: Sample
    values: ValueRange
    _pictures: dict[str, RGB] = field(default_factory=dict)

    def picture(self, channel: str) -> RGB:
        """H×W×3 of a channel that is a picture by itself."""
        if channel not in self._pictures:
            self._pictures[channel] = read_image(self.source.seen_in(channel), self.values, notify)
        return self._pictures[channel]

    @cached_property
    def shape(self) -> Shape:
        """Its geometry, at the size of the file. Raises `ImageError`."""
        return read_sample_shape(self.source.seen_in(GEOMETRY_CHANNEL), self.values.depths)

    def surface(self, view: View) -> Surface:
        """Of the geometry, at about the size at which it is inspected."""
        if not hasattr(self, "_surface"):
            try:
                self._surface: Surface = self.values.depths.surface(self.shape.reduced(view.resized))
            except ImageError as error:
                raise ImageError(f"{self.source.name}: {error}") from None
        return self._surface

    def digest(self, channel: str) -> str:
        """Of the pixels of a channel, or of the depths that it is made of."""
        is_made = made_of(self.source.seen_in(channel)) is not None
        return pixel_digest(self.shape.z if is_made else self.picture(channel))

    def size(self, channels: Sequence[str]) -> tuple[int, int]:
        """(height, width) of all that is looked at. Raises `ImageError` where the channels differ."""
        first: tuple[str, tuple[int, int]] | None = None
        for channel in channels:
            is_made = made_of(self.source.seen_in(channel)) is not None
            size = self.shape.size if is_made else self.picture(channel).shape[:2]
            named = MADE_OF[channel] if is_made else channel
            if first is None:
                first = named, size
            elif size != first[1]:
                raise ImageError(
                    f"{self.source.name}: {first[0]} has {first[1][1]}×{first[1][0]} pixels and {named} "
                    f"{size[1]}×{size[0]}: the channels of a sample must lie over each other, pixel by pixel"
                )
        assert first is not None
        return first[1]


class Channel(Protocol):
    """One channel that a detector looks at. `name`: as the option `channels` has it."""

    @property
    def name(self) -> str: ...

    def levels(self, backbone: Backbone, arrangement: Arrangement) -> tuple[tuple[int, ...], int]:
        """The lengths of the levels, and D of its part of a patch feature."""
        ...

    def load(self, seen: Seen, view: View, grid: tuple[int, int], painted: Painted, *, whole: bool) -> Any:
        """What `features` needs of one sample. `whole`: H×W×3, for tiles. Raises `ImageError`."""
        ...

    def features(self, pieces: Sequence[Any], network: Callable[[Sequence[NDArray[Any]]], Tensor]) -> Tensor:
        """Of a batch of what `load` gave: B×rows×columns×D. `network`: pictures → their patch features."""
        ...


@dataclass(frozen=True)
class PictureChannel:
    """A picture, or a shape image: what the network makes of it."""

    name: str

    def levels(self, backbone: Backbone, arrangement: Arrangement) -> tuple[tuple[int, ...], int]:
        return backbone.channels, arrangement.dimension(backbone.channels, backbone.strides)

    def load(self, seen: Seen, view: View, grid: tuple[int, int], painted: Painted, *, whole: bool) -> NDArray[Any]:
        rgb: RGB
        if made_of(seen.source.seen_in(self.name)) is not None:
            rgb = SHAPE_IMAGES[self.name](seen.surface(view), seen.values.depths.top_mm)
        else:
            rgb = seen.picture(self.name)
        rgb = painted(view.laid(rgb))
        return view.pixels(rgb) if whole else view.apply(rgb)

    def features(self, pieces: Sequence[Any], network: Callable[[Sequence[NDArray[Any]]], Tensor]) -> Tensor:
        return network(pieces)


@dataclass(frozen=True)
class CellChannel:
    """Features of the points themselves, averaged over the valid ones of each cell of the grid; 0 where there is
    none."""

    name: str

    def levels(self, backbone: Backbone, arrangement: Arrangement) -> tuple[tuple[int, ...], int]:
        return (FEATURE_LENGTHS[self.name],), FEATURE_LENGTHS[self.name]

    def load(self, seen: Seen, view: View, grid: tuple[int, int], painted: Painted, *, whole: bool) -> NDArray[Any]:
        features, counts = SHAPE_FEATURES[self.name](seen.surface(view), seen.values.depths.top_mm)
        rows, columns = _inspected(features.shape[:2], view)
        means, _ = masked_cell_means(features[rows, columns], counts[rows, columns], *grid)
        steps = STEPS.get(self.name)
        return np.round(means * steps) / np.float32(steps) if steps else means

    def features(self, pieces: Sequence[Any], network: Callable[[Sequence[NDArray[Any]]], Tensor]) -> Tensor:
        return torch.from_numpy(np.stack(pieces))


@dataclass(frozen=True)
class Drawn:
    """A part drawn from several sides, and the (rows, columns) of its patches."""

    views: list[View2D]
    grid: tuple[int, int]


@dataclass(frozen=True)
class ViewsChannel:
    """The part drawn from `count` sides, as CPMF does: a patch has the mean of its features over the views in which it
    is seen, of length 1; 0 where it has no point."""

    name: str
    count: int

    def levels(self, backbone: Backbone, arrangement: Arrangement) -> tuple[tuple[int, ...], int]:
        return backbone.channels, arrangement.dimension(backbone.channels, backbone.strides)

    def load(self, seen: Seen, view: View, grid: tuple[int, int], painted: Painted, *, whole: bool) -> Any:
        surface = seen.surface(view)
        part = replace(surface.shape, valid=surface.part).cropped(*_inspected(surface.shape.size, view))
        return Drawn(views(part, self.count, view.inspected), grid)

    def features(self, pieces: Sequence[Any], network: Callable[[Sequence[NDArray[Any]]], Tensor]) -> Tensor:
        found = []
        for drawn in pieces:
            pictures = [each.image.transpose(2, 0, 1).astype(np.float32) for each in drawn.views]
            maps = [network([picture])[0].cpu().numpy() for picture in pictures]
            means, _ = gather(maps, drawn.views, *drawn.grid)
            lengths = np.linalg.norm(means, axis=-1, keepdims=True)
            found.append(torch.from_numpy(means / np.maximum(lengths, 1e-12)))
        return torch.stack(found)


@dataclass(frozen=True)
class Points:
    """The points of one sample, H×W×3 millimetres, which pixels have one, and the (rows, columns) of its patches."""

    xyz: NDArray[np.float32]
    valid: NDArray[np.bool_]
    grid: tuple[int, int]


@dataclass(frozen=True)
class PointChannel:
    """The points as Point-MAE sees them. `weights`: the file of its weights."""

    name: str
    weights: str

    def levels(self, backbone: Backbone, arrangement: Arrangement) -> tuple[tuple[int, ...], int]:
        return (point_mae.DIMENSION,), point_mae.DIMENSION

    def load(self, seen: Seen, view: View, grid: tuple[int, int], painted: Painted, *, whole: bool) -> Any:
        surface = seen.surface(view)
        part = _inspected(surface.shape.size, view)
        return Points(surface.shape.xyz()[part], surface.part[part], grid)

    def features(self, pieces: Sequence[Any], network: Callable[[Sequence[NDArray[Any]]], Tensor]) -> Tensor:
        model = opened_points(self.weights)
        clouds = [(torch.from_numpy(each.xyz), torch.from_numpy(each.valid), each.grid) for each in pieces]
        return torch.stack([point_mae.point_features(model, *cloud)[0] for cloud in clouds])


@lru_cache(maxsize=2)
def opened_points(weights: str) -> point_mae.PointMAE:
    """Point-MAE with the weights of a file. Raises `OptionError`."""
    return point_mae.load_point_mae(weights)


def points_digest(weights: str) -> str:
    """Of the file of Point-MAE's weights. Raises `WeightsError`."""
    try:
        return file_digest(weights)
    except OSError as error:
        raise WeightsError(f"{weights}: the weights of Point-MAE cannot be read ({reason(error)})") from None


def channel_of(name: str, point_weights: str | None = None) -> Channel:
    """The channel of that name, as `data.channels.check_channels` knows it. Raises `OptionError`."""
    if name == POINTS:
        if point_weights is None:
            raise OptionError("the channel points needs weights of Point-MAE: use the method m3dm with point_weights")
        opened_points(point_weights)
        return PointChannel(name, point_weights)
    if name in VIEWS:
        return ViewsChannel(name, VIEWS[name])
    return CellChannel(name) if name in SHAPE_FEATURES else PictureChannel(name)


def _inspected(size: tuple[int, int], view: View) -> tuple[slice, slice]:
    """Rows and columns of the inspected part of a view, in a grid of another size over its input."""
    left, top, right, bottom = view.inspected_box
    down, across = size[0] / view.input_size[0], size[1] / view.input_size[1]
    return slice(round(top * down), round(bottom * down)), slice(round(left * across), round(right * across))
