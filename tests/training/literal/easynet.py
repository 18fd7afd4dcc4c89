"""EasyNet, Chen et al. 2023, layer by layer in numpy; plain convolutions alone are torch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from patchbank.training.anomalies import Anomalies, DepthAnomalies, SolidAnomalies

Array = NDArray[np.float64]

OPTIONS: dict[str, Any] = {
    "image_size": 64,
    "width": 0.08,
    "epochs": 24,
    "batch": 1,
    "learning_rate": 0.003,
    "sigma": 2.0,
}
CHANNELS = {"rgb": 3, "relief": 2}


class Layers:
    """The layers of a network by name, with the statistics of a batch, or with those that were learned."""

    def __init__(self, network: nn.Module, of_batch: bool):
        self.values: dict[str, Array] = {k: v.double().numpy() for k, v in network.state_dict().items()}
        self.of_batch = of_batch

    def __call__(self, name: str, x: Array) -> Array:
        """max(0, γ·(Wx − μ)/√(σ² + ε) + β)"""
        y = convolution(x, self.values[f"{name}.0.weight"])
        mean, variance = self.values[f"{name}.1.running_mean"], self.values[f"{name}.1.running_var"]
        if self.of_batch:
            mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3))
        gain, offset = self.values[f"{name}.1.weight"], self.values[f"{name}.1.bias"]
        each = (None, slice(None), None, None)
        y = (y - mean[each]) / np.sqrt(variance[each] + 1e-5) * gain[each] + offset[each]
        return np.maximum(y, 0)


def convolution(x: Array, weight: Array) -> Array:
    found = nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(weight), padding=weight.shape[-1] // 2)
    return np.asarray(found.numpy())


def pooled(x: Array) -> Array:
    """The largest of each 2×2 values."""
    return np.asarray(np.maximum.reduce([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]))


def bilinear(x: Array, rows: int, columns: int) -> Array:
    """Values between the four nearest middles of pixels."""

    def weights(small: int, large: int) -> Array:
        found = np.zeros((large, small))
        for i in range(large):
            place = max((i + 0.5) * small / large - 0.5, 0.0)
            low = min(int(place), small - 1)
            high = min(low + 1, small - 1)
            found[i, low] += 1 - (place - low)
            found[i, high] += place - low
        return found

    return np.asarray(weights(x.shape[2], rows) @ x @ weights(x.shape[3], columns).T)


def rebuilding(layers: Layers, m: int, x: Array) -> tuple[list[Array], Array]:
    """Network m: what encoder and decoder make of the scales 1 to 3, and the rebuilt picture."""
    encoded = []
    for k in range(5):
        x = layers(f"rebuild.{m}.encoder.{k}.1", layers(f"rebuild.{m}.encoder.{k}.0", pooled(x) if k else x))
        encoded.append(x)
    decoded = {4: x}
    for k in (3, 2, 1, 0):
        narrow = layers(f"rebuild.{m}.narrow.{k}", decoded[k + 1])
        large = bilinear(narrow, 2 * narrow.shape[2], 2 * narrow.shape[3])
        decoded[k] = layers(f"rebuild.{m}.refine.{k}", large)
    rebuilt = convolution(decoded[0], layers.values[f"rebuild.{m}.last.weight"])
    rebuilt = rebuilt + layers.values[f"rebuild.{m}.last.bias"][None, :, None, None]
    return [np.concatenate([encoded[k], decoded[k]], 1) for k in (1, 2, 3)], rebuilt


def entropy(features: Array) -> float:
    """−Σ a·log a / log P of the attention that the mean of C×h×w features pays to each of the P places."""
    places = features.reshape(len(features), -1).T
    query = places.mean(0)
    products = np.array([query @ place for place in places]) / np.sqrt(len(query))
    attention = np.exp(products - products.max())
    attention /= attention.sum()
    return float(-(attention * np.log(attention)).sum() / np.log(len(places)))


def gated(features: list[list[Array]], limits: Array) -> list[list[Array]]:
    """Modality m at scale k of each part, 0 where its entropy is above its limit and another one's is not."""
    found = [[each.copy() for each in scales] for scales in features]
    for k in range(len(features[0])):
        for i in range(len(features[0][0])):
            is_open = [entropy(scales[k][i]) <= limits[m, k] for m, scales in enumerate(features)]
            for m in range(len(features)):
                if any(is_open) and not is_open[m]:
                    found[m][k][i] = 0
    return found


def marking(layers: Layers, read: list[list[Array]], rows: int, columns: int) -> Array:
    """Logits of an anomaly, B×rows×columns."""
    features = [[layers(f"mark.heads.{m}.{k}", each) for k, each in enumerate(scales)] for m, scales in enumerate(read)]
    if len(features) > 1 and not layers.of_batch:
        features = gated(features, layers.values["mark.gates.limits"])
    size = features[0][0].shape[2:]
    x = np.concatenate([bilinear(each, *size) for scales in features for each in scales], 1)
    x = layers("mark.fuse.1", layers("mark.fuse.0", x))
    logits = convolution(x, layers.values["mark.fuse.2.weight"]) + layers.values["mark.fuse.2.bias"]
    return bilinear(logits + np.log(0.01 / 0.99), rows, columns)[:, 0]


def parts_of(pixels: Array, modalities: tuple[str, ...]) -> dict[str, Array]:
    """B×D×h×w → each modality, with heights of 0 where there is no point."""
    found, start = {}, 0
    for name in modalities:
        found[name] = pixels[:, start : start + CHANNELS[name]].copy()
        start += CHANNELS[name]
    if "relief" in found:
        found["relief"][:, 0] *= found["relief"][:, 1]
    return found


def forward(network: nn.Module, vectors: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The probability of an anomaly of each pixel, from P×D pixels."""
    layers = Layers(network, of_batch=False)
    pixels = vectors.astype(np.float64).reshape(1, *grid, -1).transpose(0, 3, 1, 2)
    parts = parts_of(pixels, network.modalities)  # type: ignore[arg-type]
    read = [rebuilding(layers, m, part)[0] for m, part in enumerate(parts.values())]
    return 1 / (1 + np.exp(-marking(layers, read, *grid).ravel()))


def damaged(parts: dict[str, Array], seed: int) -> tuple[dict[str, Array], Array]:
    """The same parts with drawn anomalies, which are tested elsewhere; and their masks."""
    generator, found = torch.Generator().manual_seed(seed), dict(parts)
    given = {name: torch.from_numpy(part).float() for name, part in parts.items()}
    dents = DepthAnomalies(scale_mm=1.0)
    if "relief" not in parts:
        after, mask = Anomalies().applied(given["rgb"], generator)
        return {"rgb": after.double().numpy()}, mask.double().numpy()
    heights, known = given["relief"][:, :1], given["relief"][:, 1:] == 1
    where = (heights != 0) | ~known
    if "rgb" in parts:
        drawn = SolidAnomalies(depth=dents).applied(given["rgb"], heights, known, generator, where)
        found["rgb"] = drawn[0].double().numpy()
        z, left, mask = drawn[1:]
    else:
        z, left, mask = dents.applied(heights, known, generator, where)
    found["relief"] = torch.cat([z, left.float()], 1).double().numpy()
    return found, mask.double().numpy()


def similarity(a: Array, b: Array) -> Array:
    """SSIM (Wang et al. 2004) with 11×11 Gaussian weights, at the border of the part inside."""
    line = np.exp(-(np.arange(-5, 6.0) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line)[None, None]

    def mean(x: Array) -> Array:
        flat = x.reshape(-1, 1, *x.shape[2:])
        return (convolution(flat, window) / convolution(np.ones_like(flat), window)).reshape(x.shape)

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    return (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))


def loss(task: Any, numbers: torch.Tensor, seed: int) -> float:
    """SSIM and squared error of the picture, squared error of the heights that are known, focal loss of the mask."""
    layers, rows, columns = Layers(task.network, of_batch=True), *task.items.grid(numbers)
    vectors = task.items.vectors(numbers).double().numpy()
    pixels = vectors.reshape(len(vectors), rows, columns, -1).transpose(0, 3, 1, 2)
    good = parts_of(pixels, task.network.modalities)
    seen, mask = damaged(good, seed)
    total, read = 0.0, []
    for m, (name, target) in enumerate(good.items()):
        of_scales, rebuilt = rebuilding(layers, m, seen[name])
        read.append(of_scales)
        if name == "rgb":
            total += 1 - similarity(rebuilt, target).mean() + ((rebuilt - target) ** 2).mean()
        else:
            known = target[:, 1] == 1
            total += ((rebuilt[:, 0] - target[:, 0]) ** 2)[known].mean()
    p = 1 / (1 + np.exp(-marking(layers, read, rows, columns)))
    of_truth = np.where(mask[:, 0] == 1, p, 1 - p)
    return float(total - ((1 - of_truth) ** 2 * np.log(of_truth)).mean())
