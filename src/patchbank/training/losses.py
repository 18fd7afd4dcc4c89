"""Losses of networks that rebuild images or mark anomalies: SSIM, focal and Dice loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_WINDOW = 11  # pixels
_SIGMA = 1.5  # pixels
_C1, _C2 = 0.01**2, 0.03**2  # (K1·L)² and (K2·L)² for values in 0..1
_DICE_SMOOTHING = 1.0  # pixels: the loss of an empty mask without a marked pixel is 0


def ssim_map(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of two images around each pixel (Wang et al. 2004, equation 13).

    Means, variances and the covariance are taken under an 11×11 Gaussian window with σ = 1.5 pixels, in each channel
    apart. At the border the part of the window inside the image is used, its weights scaled to a sum of 1.

    Args:
        a: B×C×H×W in 0..1.
        b: B×C×H×W in 0..1.

    Returns:
        B×C×H×W, 1 where both are equal, at least −1.
    """
    a, b = a.float(), b.float()
    with torch.autocast(a.device.type, enabled=False):  # variances are lost in bfloat16
        mean_a, mean_b, square_a, square_b, product = _window_means(torch.stack([a, b, a * a, b * b, a * b]))
    variance_a, variance_b = square_a - mean_a**2, square_b - mean_b**2
    covariance = product - mean_a * mean_b
    luminance: Tensor = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    structure: Tensor = (2 * covariance + _C2) / (variance_a + variance_b + _C2)
    return luminance * structure


def _window_means(images: Tensor) -> Tensor:
    """Weighted means around each pixel of …×H×W: along columns, then along rows.

    Products with banded matrices are several times faster than convolutions of single channels, above all backwards.
    """
    height, width = images.shape[-2:]
    return _weights(height, images) @ images @ _weights(width, images).T


def _weights(length: int, like: Tensor) -> Tensor:
    """N×N: the weights of the pixels of a line around each of them, with a sum of 1."""
    position = torch.arange(length, dtype=like.dtype, device=like.device)
    offset = position[:, None] - position
    weights = torch.exp(-(offset**2) / (2 * _SIGMA**2)) * (offset.abs() <= _WINDOW // 2)
    return weights / weights.sum(1, keepdim=True)


def ssim_loss(a: Tensor, b: Tensor) -> Tensor:
    """1 − the mean of `ssim_map`: a scalar, 0 for equal images."""
    return 1 - ssim_map(a, b).mean()


def focal_loss(logits: Tensor, mask: Tensor, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al. 2017, equation 4): the mean of −(1 − p_t)^γ · log p_t.

    p_t is the probability that the network gives to the truth: p = sigmoid(logit) on anomalous pixels, 1 − p elsewhere.
    A network with two outputs gives the logit (anomalous − normal), whose sigmoid is their softmax.

    Args:
        logits: any shape, of the anomalous class.
        mask: of the same shape, 1 for anomalous and 0 for normal.
        gamma: 0 for cross-entropy; a larger one leaves more to what is hard.

    Returns:
        A scalar.
    """
    of_truth = logits.float() * (2 * mask - 1)
    return ((1 - torch.sigmoid(of_truth)) ** gamma * -functional.logsigmoid(of_truth)).mean()


def dice_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Soft Dice loss: the mean over images of 1 − (2·Σ p·m + 1) / (Σ p + Σ m + 1), p = sigmoid(logit).

    As in V-Net (Milletari et al. 2016), without the squares of its denominator. The 1 keeps images without an anomaly
    finite.

    Args:
        logits: B×…, of the anomalous class.
        mask: of the same shape, 1 for anomalous and 0 for normal.

    Returns:
        A scalar in 0..1.
    """
    p, m = torch.sigmoid(logits).flatten(1), mask.flatten(1)
    overlap = (2 * (p * m).sum(1) + _DICE_SMOOTHING) / (p.sum(1) + m.sum(1) + _DICE_SMOOTHING)
    return (1 - overlap).mean()
