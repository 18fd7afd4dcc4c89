"""Point-MAE as an extractor of point features, as M3DM uses it.

Pang et al. 2022, "Masked Autoencoders for Point Cloud Self-supervised Learning": the encoder, without the decoder. Wang
et al. 2023, "Multimodal Industrial Anomaly Detection via Hybrid Fusion" (M3DM): which outputs are used, and how they
become features of pixels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from patchbank.errors import OptionError
from patchbank.features.backbones.registry import read_state
from patchbank.features.points import farthest_points, interpolation, nearest_points

CENTRES, NEIGHBOURS = 1024, 128
_WIDTH, _HEADS, _DEPTH = 384, 6, 12
_AT_ONCE = 128  # groups: 512 numbers of each of their points are in memory at a time
_OUTPUTS = (3, 7, 11)  # blocks, from 0, whose outputs are the features
DIMENSION = _WIDTH * len(_OUTPUTS)
_PREFIXES = ("module.", "base_model.", "MAE_encoder.")  # what training in parallel and the autoencoder put before names
_OF_DECODER = ("MAE_decoder.", "decoder_pos_embed.", "increase_dim.", "mask_token")


class _Groups(nn.Module):
    """A small PointNet: one 384-d token of each group of points."""

    def __init__(self) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(nn.Conv1d(3, 128, 1), nn.BatchNorm1d(128), nn.ReLU(), nn.Conv1d(128, 256, 1))
        self.second_conv = nn.Sequential(
            nn.Conv1d(512, 512, 1), nn.BatchNorm1d(512), nn.ReLU(), nn.Conv1d(512, _WIDTH, 1)
        )

    def forward(self, groups: Tensor) -> Tensor:
        """G×M×3 → G×384."""
        each = self.first_conv(groups.transpose(1, 2))  # G×256×M
        whole = each.amax(2, keepdim=True).expand_as(each)
        return self.second_conv(torch.cat([whole, each], 1)).amax(2)  # type: ignore[no-any-return]


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(_WIDTH, 3 * _WIDTH, bias=False)
        self.proj = nn.Linear(_WIDTH, _WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(len(x), 3, _HEADS, -1).permute(1, 2, 0, 3)  # each heads×G×64
        mixed = nn.functional.scaled_dot_product_attention(q[None], k[None], v[None])[0]
        return self.proj(mixed.transpose(0, 1).reshape(x.shape))  # type: ignore[no-any-return]


class _MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(_WIDTH, 4 * _WIDTH), nn.Linear(4 * _WIDTH, _WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """A transformer block that normalises first."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(_WIDTH), _Attention()
        self.norm2, self.mlp = nn.LayerNorm(_WIDTH), _MLP()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class _Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([_Block() for _ in range(_DEPTH)])

    def forward(self, x: Tensor, position: Tensor) -> list[Tensor]:
        outputs = []
        for number, block in enumerate(self.blocks):
            x = block(x + position)  # the position enters before every block
            if number in _OUTPUTS:
                outputs.append(x)
        return outputs


class PointMAE(nn.Module):
    """The encoder; its modules have the published names, so that published weights fit.

    Attributes:
        centres: points that groups are built around, by farthest point sampling.
        neighbours: points of each group, the nearest to its centre.
    """

    def __init__(self, centres: int = CENTRES, neighbours: int = NEIGHBOURS):
        super().__init__()
        self.centres, self.neighbours = centres, neighbours
        self.encoder = _Groups()
        self.pos_embed = nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, _WIDTH))
        self.blocks = _Blocks()
        self.norm = nn.LayerNorm(_WIDTH)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """N×3 points → G×3 centres and their G×1152 features: the outputs of blocks 3, 7 and 11, each normalised."""
        centres = points[farthest_points(points, self.centres)]
        _, index = nearest_points(centres, points, self.neighbours)
        groups = points[index] - centres[:, None]
        tokens = torch.cat([self.encoder(some) for some in torch.split(groups, _AT_ONCE)])
        outputs = self.blocks(tokens, self.pos_embed(centres))
        return centres, torch.cat([self.norm(output) for output in outputs], 1)


def load_point_mae(path: Path | str, centres: int = CENTRES, neighbours: int = NEIGHBOURS) -> PointMAE:
    """The encoder with the weights of a checkpoint, frozen and in eval mode: batch-norm uses the statistics that were
    learned, not those of the part at hand.

    Nothing in the file is executed. Weights of the decoder are passed over.

    Args:
        path: a torch file with the names of Point-MAE's authors (`base_model` around them or not), or the same names in
            a `.safetensors` file.
        centres: how many groups.
        neighbours: points of each group.

    Raises:
        OptionError: the names or the shapes in the file are not those of Point-MAE.
        WeightsError: the file is missing or damaged, or holds no tensors.
    """
    found = {_own_name(name): value for name, value in read_state(Path(path), "base_model").items()}
    found = {name: value for name, value in found.items() if not name.startswith(_OF_DECODER)}
    with torch.device("meta"):  # no draw from the global random state for values soon replaced
        model = PointMAE(centres, neighbours)
    wanted = model.state_dict()
    # how many batches were seen in training is not used, and not in every file
    missing = [n for n in wanted if n not in found and not n.endswith("num_batches_tracked")]
    unexpected = [name for name in found if name not in wanted]
    shapes = [n for n in found if n in wanted and found[n].shape != wanted[n].shape]
    if missing or unexpected or shapes:
        wrong = "; ".join(
            f"{label} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
            for label, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
            if names
        )
        raise OptionError(
            f"{path}: these are not the weights of Point-MAE's encoder ({wrong}): give the pre-trained checkpoint of "
            "Point-MAE as point_weights"
        )
    for name in wanted:
        found.setdefault(name, torch.zeros((), dtype=torch.int64))
    model.load_state_dict({n: v.float() if v.is_floating_point() else v for n, v in found.items()}, assign=True)
    return model.eval().requires_grad_(False)


def _own_name(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def point_features(
    model: PointMAE, xyz: Tensor, valid: Tensor, size: int | tuple[int, int] = 56, unit: float = 1000.0
) -> tuple[Tensor, Tensor]:
    """Point features on a grid over the image: interpolated to every valid pixel, then averaged within each cell over
    its valid pixels (M3DM, "Point Feature Alignment").

    Interpolation and averaging are both linear in the features of the centres. So their product, a matrix of cells ×
    centres, is computed first, and no feature of a pixel is ever made. The released code averages over pixels without
    points too, as zeros, so that features shrink towards holes: not copied.

    Args:
        model: the encoder.
        xyz: H×W×3, millimetres.
        valid: H×W, whether a pixel has a point.
        size: rows and columns of the grid; pixel (r, c) is in the cell (r·rows // H, c·columns // W).
        unit: millimetres of one unit of the network. M3DM feeds metres, from the camera on.

    Returns:
        rows×columns×1152 features, 0 where a cell has no valid pixel, and rows×columns, whether it has one.
    """
    rows, columns = (size, size) if isinstance(size, int) else size
    height, width = valid.shape
    cell = (torch.arange(height) * rows // height)[:, None] * columns + torch.arange(width) * columns // width
    cell = cell.to(valid.device)[valid]
    share = torch.zeros(rows * columns, device=xyz.device).index_add_(0, cell, torch.ones_like(cell, dtype=torch.float))
    mask = (share > 0).reshape(rows, columns)
    if not len(cell):
        return torch.zeros(rows, columns, DIMENSION, device=xyz.device), mask
    points = xyz[valid] / unit
    with torch.inference_mode():
        centres, features = model(points)
        index, weight = interpolation(centres, points)
    mixing = torch.zeros(rows * columns * len(centres), device=xyz.device)
    mixing.index_add_(0, (cell[:, None] * len(centres) + index).flatten(), (weight / share[cell, None]).flatten())
    return (mixing.reshape(-1, len(centres)) @ features).reshape(rows, columns, -1), mask
