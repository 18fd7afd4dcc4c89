"""A fitted detector as one network: the inspected image in; score, map and patch distances out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchbank.data import Tiling
from patchbank.detector import Detector
from patchbank.errors import OptionError
from patchbank.features.aggregation import REFERENCE_DIMENSION, OneGrid
from patchbank.features.extractor import Extractor
from patchbank.scorer import Grid, PatchScores, Scorer
from patchbank.scoring.maps import TOP_SHARE, enlarging
from patchbank.scoring.post import Post


class Graph(nn.Module):
    """B×3×H×W float32 RGB in 0..255, at the `inspected` size → score B, map B×H×W, patch distances B×h×w (a method
    without a map: the score alone).

    Further inputs in the order of `input_names`: what the region of interest has of the grids, where there is one (see
    `masks`), then the memory, where it is not in the graph.
    """

    def __init__(
        self,
        features: Features,
        scorer: Scorer,
        post: Post,
        fine: Grid,
        masks: dict[str, Grid],
        external: bool,
    ):
        super().__init__()
        self.features, self.masks, self.external, self.inspected = features, masks, external, features.inspected
        self.image_score, self.normal = post.image_score, scorer.normal
        self.memory, self.growing = scorer.export_memory(features.grid)
        self._scorer = (scorer.on_cpu(),)  # no module of this one: its memory is traced from the graph's own
        self.down: Tensor
        self.across: Tensor
        self.localizes, self.patches = scorer.localizes, fine[0] * fine[1]
        nothing = (torch.zeros(0), torch.zeros(0))
        matrices = enlarging(fine, self.inspected, post.sigma, post.lattice) if self.localizes else nothing
        for name, matrix in zip(("down", "across"), matrices, strict=True):
            self.register_buffer(name, matrix.clone())
        self.scale: Tensor | None  # what the map is divided by
        self.register_buffer("scale", None if post.scale is None else torch.from_numpy(post.scale.at(self.inspected)))
        # the tracer computes what hangs on plain tensors alone, and would store every result of it
        for name, tensor in () if external else self.memory.items():
            self.register_buffer(f"memory_{name}", tensor)

    @property
    def input_names(self) -> list[str]:
        return ["image", *self.masks, *(self.memory if self.external else ())]

    @property
    def output_names(self) -> list[str]:
        return ["score", "map", "distances"] if self.localizes else ["score"]

    def example(self) -> tuple[Tensor, ...]:
        """Inputs to trace with."""
        image = torch.zeros(1, 3, *self.inspected)
        masks = [torch.ones(shape) for shape in self.masks.values()]
        return (image, *masks, *(self.memory.values() if self.external else ()))

    def forward(self, image: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        masks, grid = dict(zip(self.masks, rest, strict=False)), self.features.grid
        if self.external:
            memory = dict(zip(self.memory, rest[len(self.masks) :], strict=True))
        else:
            memory = {name: self.get_buffer(f"memory_{name}") for name in self.memory}
        scorer = self._scorer[0].traced(memory, grid)
        found: PatchScores = scorer(self.features(image).flatten(1, 2), grid, masks.get("inside"))  # of B×P×D
        if found.distances is None:
            return (torch.as_tensor(found.image),)
        inside = masks.get("inside_fine", masks.get("inside"))
        distances = found.distances.reshape(-1, *grid) if found.distances.ndim == 2 else found.distances
        distances = distances if inside is None else distances * inside
        anomaly = self._map(distances, inside)
        if found.image is None:
            score = self._score(distances, anomaly, inside, masks.get("inside_pixels")) * found.factor
        else:
            score = torch.as_tensor(found.image)
        if self.normal != (0.0, 1.0):
            score = (score - self.normal[0]) / self.normal[1]
        return score, anomaly, distances

    def _map(self, distances: Tensor, inside: Tensor | None) -> Tensor:
        """As `patchbank.scoring.maps.anomaly_map`."""
        smoothed = self.down @ distances @ self.across.T
        if inside is not None:
            smoothed = smoothed / (self.down @ inside @ self.across.T).clamp(min=1e-6)
        return smoothed if self.scale is None else smoothed / self.scale

    def _score(self, distances: Tensor, anomaly: Tensor, inside: Tensor | None, pixels: Tensor | None) -> Tensor:
        """As `patchbank.scoring.maps.image_score`, of what lies inside."""
        if self.image_score == "max":
            return distances.flatten(1).amax(1)
        if self.image_score == "smoothed":
            seen = anomaly if pixels is None else anomaly * pixels + (pixels - 1) * 1e30
            return seen.flatten(1).amax(1)
        most = max(1, round(TOP_SHARE * self.patches))
        top = distances.flatten(1).topk(most, dim=1).values
        if inside is None:
            return top.mean(1)
        count = (TOP_SHARE * inside.sum()).round().clamp(min=1)
        return (top * (torch.arange(most) < count)).sum(1) / count


class Features(nn.Module):
    """Image → patch features B×rows×columns×D: the backbone with its normalisation, and the arrangement."""

    def __init__(self, extractor: Extractor, inspected: tuple[int, int], grid: tuple[int, int]):
        super().__init__()
        self.network = copy.deepcopy(extractor.backbone._network).to("cpu").eval()  # the live one stays as it is
        for parameter in self.network.parameters():
            parameter.data = parameter.data.contiguous()  # whatever the runtime in use has made of it
        self.has_head, self.inspected, self.grid = extractor.backbone.has_head, inspected, grid
        self.tiling: Tiling | None = extractor.tiling
        arrangement = extractor.arrangement
        self.arrangement: Callable[[Sequence[Tensor]], Tensor] = arrangement
        if isinstance(arrangement, OneGrid) and arrangement.aggregation == "reference":
            self.arrangement = ReferenceArrangement(extractor.backbone.channels, arrangement)

    def forward(self, image: Tensor) -> Tensor:
        if self.tiling is None:
            return self._arranged(image)
        down, across = self.inspected[0] // self.grid[0], self.inspected[1] // self.grid[1]
        lines = []
        for rows in self.tiling.side(self.inspected[0]):
            line = []
            for columns in self.tiling.side(self.inspected[1]):
                tile = self._arranged(image[:, :, rows.start : rows.stop, columns.start : columns.stop])
                top, left = (rows.first - rows.start) // down, (columns.first - columns.start) // across
                height, width = rows.last // down - rows.first // down, columns.last // across - columns.first // across
                line.append(tile[:, top : top + height, left : left + width])
            lines.append(torch.cat(line, 2))
        return torch.cat(lines, 1)

    def _arranged(self, image: Tensor) -> Tensor:
        maps: Sequence[Tensor] = self.network(image)
        return maps[0] if self.has_head else self.arrangement(maps)


class ReferenceArrangement(nn.Module):
    """`patch_features` of aggregation "reference" without adaptive pooling, which graph formats lack: unfold and pool
    is a convolution with fixed weights, pooling the stack a matrix."""

    stack: Tensor

    def __init__(self, channels: Sequence[int], arrangement: OneGrid):
        super().__init__()
        size, self.stride = arrangement.patch_size, arrangement.stride
        for j, c in enumerate(channels):
            kernel = _pooling(c * size * size).T.reshape(REFERENCE_DIMENSION, c, size, size)
            self.register_buffer(f"kernel{j}", kernel.contiguous())
        self.register_buffer("stack", _pooling(len(channels) * REFERENCE_DIMENSION))
        self.padding = size // 2

    def __call__(self, maps: Sequence[Tensor]) -> Tensor:
        levels = []
        for j, feature_map in enumerate(maps):
            local = F.conv2d(feature_map, self.get_buffer(f"kernel{j}"), padding=self.padding)
            if j:
                size = (int(maps[0].shape[2]), int(maps[0].shape[3]))
                local = F.interpolate(local, size=size, mode="bilinear", align_corners=False)
            levels.append(local[..., :: self.stride, :: self.stride])
        return torch.cat(levels, 1).permute(0, 2, 3, 1) @ self.stack


def _pooling(values: int) -> Tensor:
    """values×1024: adaptive average pooling as a matrix."""
    return F.adaptive_avg_pool1d(torch.eye(values)[:, None], REFERENCE_DIMENSION)[:, 0]


def make_graph(detector: Detector, inspected: Grid, external: bool) -> Graph:
    """The graph of a fitted detector (no ensemble) for images inspected at (height, width). Raises `OptionError` for
    what no graph can hold."""
    if detector.align:
        raise OptionError("align=true cannot be exported: images are laid over the reference before the graph")
    fitted, extractor = detector.require_fitted(), detector.extractor
    grid = extractor.arrangement.grid(inspected, extractor.backbone.strides)
    features = Features(extractor, inspected, grid).eval()
    fine, masks, scorer = grid, dict[str, Grid](), fitted.scorer
    if scorer.localizes:
        fine = _fine_grid(scorer, features)
        if extractor.inputs.roi is not None:
            masks = {"inside": grid, **({"inside_fine": fine} if fine != grid else {})}
            if fitted.post.image_score == "smoothed":
                masks["inside_pixels"] = inspected
    return Graph(features, scorer, fitted.post, fine, masks, external).eval().requires_grad_(False)


def _fine_grid(scorer: Scorer, features: Features) -> Grid:
    """The grid of the distances, which may be finer than that of the features."""
    with torch.no_grad():
        memory, _ = scorer.export_memory(features.grid)
        traced = scorer.on_cpu().traced(memory, features.grid)
        found: PatchScores = traced(features(torch.zeros(1, 3, *features.inspected)).flatten(1, 2), features.grid)
    distances = found.distances
    assert distances is not None
    return features.grid if distances.ndim == 2 else (distances.shape[1], distances.shape[2])
