"""HyADS after its abstract (Ma et al. 2025); HOG of Dalal and Triggs 2005; LBP of Ojala et al. 2002."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.training.literal import Array, values

OPTIONS: dict[str, Any] = {
    "image_size": 64, "width": 4, "bank_size": 32, "epochs": 4, "batch": 3, "learning_rate": 0.01,
}  # fmt: skip


def forward(network: nn.Module, vectors: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """−log of the probability of a good pixel, 1 − sigmoid of what the head says, and what the distance adds."""
    w = values(network)
    picture = vectors.astype(np.float64).reshape(*grid, 3)
    rebuilt, bottleneck = unet(w, picture.transpose(2, 0, 1)[None], training=False)
    rebuilt = rebuilt[0].transpose(1, 2, 0)
    unlike = 1 - np.mean([ssim(picture[..., c], rebuilt[..., c]) for c in range(3)], 0)
    maps = np.stack([np.abs(picture - rebuilt).mean(2), unlike, distances(w, picture, bottleneck[0])])
    maps = (maps - w["evidence.offset"][:, None, None]) / w["evidence.scale"][:, None, None]
    logits = head({name.removeprefix("head."): value for name, value in w.items()}, maps[None], training=False)
    pairs = zip(logits.ravel(), maps[2].ravel(), strict=True)
    return np.array([-math.log(1 - 1 / (1 + math.exp(-logit))) + 0.3 * max(0.0, z) for logit, z in pairs])


def loss(task: Any, numbers: torch.Tensor, seed: int) -> float:
    """0.84·(1 − SSIM) + 0.16·L1 between pictures, and what is rebuilt from them with anomalies."""
    generator = torch.Generator().manual_seed(seed)
    good = task.items.pictures(numbers)
    pictures, damaged = (each.double().numpy() for each in (good, task.anomalies.applied(good, generator)[0]))
    rebuilt, _ = unet(values(task.network), damaged, training=True)
    similar = [
        ssim(a, b).mean() for one, two in zip(pictures, rebuilt, strict=True) for a, b in zip(one, two, strict=True)
    ]
    return float(0.84 * (1 - np.mean(similar)) + 0.16 * np.abs(pictures - rebuilt).mean())


# ---- networks --------------------------------------------------------------------------------------------------------


def convolved(x: Array, weight: Array, bias: Array | None = None, dilation: int = 1) -> Array:
    size = dilation * (weight.shape[2] // 2)
    of = None if bias is None else torch.from_numpy(bias)
    found: Array = F.conv2d(torch.from_numpy(x), torch.from_numpy(weight), of, padding=size, dilation=dilation).numpy()
    return found


def layer(w: dict[str, Array], name: str, number: int, x: Array, training: bool, dilation: int = 1) -> Array:
    """Convolution, batch norm, ReLU: the modules `number` and `number` + 1."""
    x = convolved(x, w[f"{name}{number}.weight"], dilation=dilation)
    of = {key: w[f"{name}{number + 1}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")}
    mean, variance = (x.mean((0, 2, 3)), x.var((0, 2, 3))) if training else (of["running_mean"], of["running_var"])
    shape = (1, -1, 1, 1)
    x = (x - mean.reshape(shape)) / np.sqrt(variance.reshape(shape) + 1e-5)
    return np.maximum(x * of["weight"].reshape(shape) + of["bias"].reshape(shape), 0)


def unet(w: dict[str, Array], x: Array, training: bool) -> tuple[Array, Array]:
    maps = []
    for level in range(4):
        if level:
            b, c, h, v = x.shape
            x = x.reshape(b, c, h // 2, 2, v // 2, 2).max((3, 5))
        for number in (0, 3):
            x = layer(w, f"unet.down.{level}.", number, x, training)
        maps.append(x)
    for step, beside in enumerate((maps[2], maps[1], maps[0])):
        x = convolved(x, w[f"unet.narrow.{step}.weight"], w[f"unet.narrow.{step}.bias"])
        x = np.concatenate([x.repeat(2, axis=2).repeat(2, axis=3), beside], 1)
        x = layer(w, f"unet.up.{step}.", 0, x, training)
    return 1 / (1 + np.exp(-convolved(x, w["unet.last.weight"], w["unet.last.bias"]))), maps[3]


def head(w: dict[str, Array], x: Array, training: bool) -> Array:
    for number, dilation in ((0, 1), (3, 2), (6, 4)):
        x = layer(w, "", number, x, training, dilation)
    return convolved(x, w["9.weight"], w["9.bias"])[:, 0]


def ssim(a: Array, b: Array) -> Array:
    """H×W: equation 13 of Wang et al. 2004, under a Gaussian window of 11×11 pixels."""
    offset = np.arange(-5, 6)
    window = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 1.5**2))
    found = np.zeros_like(a)
    for y in range(a.shape[0]):
        for x in range(a.shape[1]):
            rows, columns = slice(max(y - 5, 0), y + 6), slice(max(x - 5, 0), x + 6)
            one, two = a[rows, columns], b[rows, columns]
            top, left = max(5 - y, 0), max(5 - x, 0)
            weight = window[top : top + one.shape[0], left : left + one.shape[1]]
            weight = weight / weight.sum()
            mean, other = (weight * one).sum(), (weight * two).sum()
            spread, spreads = (weight * (one - mean) ** 2).sum(), (weight * (two - other) ** 2).sum()
            together = (weight * (one - mean) * (two - other)).sum()
            similar = (2 * mean * other + 1e-4) * (2 * together + 9e-4)
            found[y, x] = similar / ((mean**2 + other**2 + 1e-4) * (spread + spreads + 9e-4))
    return found


# ---- matching --------------------------------------------------------------------------------------------------------


def distances(w: dict[str, Array], picture: Array, bottleneck: Array) -> Array:
    """H×W: the distance of each cell to the nearest vector of the bank, interpolated between the middles of cells."""
    grey = grey_levels(picture)
    described = np.concatenate([hog(grey), lbp(grey), bottleneck.transpose(1, 2, 0)], 2)
    standard = (described - w["bank.standard.offset"]) / w["bank.standard.scale"]
    rows, columns = standard.shape[:2]
    nearest = np.zeros((rows, columns))
    for r in range(rows):
        for c in range(columns):
            nearest[r, c] = min(np.linalg.norm(standard[r, c] - vector) for vector in w["bank.vectors"])
    found = np.zeros(picture.shape[:2])
    for y in range(found.shape[0]):
        for x in range(found.shape[1]):
            r, c = max((y + 0.5) / 8 - 0.5, 0), max((x + 0.5) / 8 - 0.5, 0)
            top, left = int(r), int(c)
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            above = nearest[top, left] + (nearest[top, right] - nearest[top, left]) * (c - left)
            below = nearest[bottom, left] + (nearest[bottom, right] - nearest[bottom, left]) * (c - left)
            found[y, x] = above + (below - above) * (r - top)
    return found


def grey_levels(picture: Array) -> Array:
    """H×W×3 in 0..1 → H×W whole levels."""
    r, g, b = np.rint(picture * 255).transpose(2, 0, 1)
    return np.floor((77 * r + 150 * g + 29 * b) / 256 + 0.5)


def at(grey: Array, y: int, x: int) -> float:
    """A pixel; beyond the border the nearest one."""
    return float(grey[min(max(y, 0), grey.shape[0] - 1), min(max(x, 0), grey.shape[1] - 1)])


def hog(grey: Array) -> Array:
    """H/8×W/8×36: each cell's histogram, as it is in the four blocks of 2×2 cells that it belongs to."""
    rows, columns = grey.shape[0] // 8, grey.shape[1] // 8
    histograms = np.zeros((rows, columns, 9))
    for y in range(8 * rows):
        for x in range(8 * columns):
            down, across = at(grey, y + 1, x) - at(grey, y - 1, x), at(grey, y, x + 1) - at(grey, y, x - 1)
            degrees = (math.degrees(math.atan2(down, across)) + 90) % 180  # the first bin begins at −90
            place = degrees / 20 - 0.5
            low = math.floor(place)
            for number, share in ((low, 1 - (place - low)), (low + 1, place - low)):
                histograms[y // 8, x // 8, number % 9] += share * math.hypot(down, across) / 64
    found = np.zeros((rows, columns, 36))
    for r in range(rows):
        for c in range(columns):
            for number, (up, left) in enumerate(((1, 1), (1, 0), (0, 1), (0, 0))):  # how far the block begins away
                cells = [(r - up, c - left), (r - up, c - left + 1), (r - up + 1, c - left), (r - up + 1, c - left + 1)]
                inside = [(min(max(i, 0), rows - 1), min(max(j, 0), columns - 1)) for i, j in cells]
                block = np.concatenate([histograms[cell] for cell in inside])
                block = np.minimum(block / (np.linalg.norm(block) + 1), 0.2)
                block = block / (np.linalg.norm(block) + 1e-6)
                own = 9 * (2 * up + left)
                found[r, c, 9 * number : 9 * number + 9] = block[own : own + 9]
    return found


def lbp(grey: Array) -> Array:
    """H/8×W/8×28: shares of the patterns of 8 neighbours at 1 pixel, and of 16 at 2."""
    found = np.zeros((grey.shape[0] // 8, grey.shape[1] // 8, 28))
    for count, radius, first in ((8, 1, 0), (16, 2, 10)):
        circle = [2 * math.pi * number / count for number in range(count)]
        # places in sixteenths of a pixel
        places = [(round(-16 * radius * math.sin(a)) / 16, round(16 * radius * math.cos(a)) / 16) for a in circle]
        for y in range(8 * found.shape[0]):
            for x in range(8 * found.shape[1]):
                signs = []
                for dy, dx in places:
                    top, left = math.floor(dy), math.floor(dx)
                    b, a = dy - top, dx - left
                    above = (1 - a) * at(grey, y + top, x + left) + a * at(grey, y + top, x + left + 1)
                    below = (1 - a) * at(grey, y + top + 1, x + left) + a * at(grey, y + top + 1, x + left + 1)
                    signs.append((1 - b) * above + b * below > at(grey, y, x) - 0.501)
                changes = sum(signs[i] != signs[i - 1] for i in range(count))
                found[y // 8, x // 8, first + (sum(signs) if changes <= 2 else count + 1)] += 1 / 64
    return found
