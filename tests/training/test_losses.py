"""Losses of images and masks against loops over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from patchbank.training.losses import dice_loss, focal_loss, ssim_loss, ssim_map


def images(seed: int, size: tuple[int, ...] = (2, 3, 13, 17)) -> torch.Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


def literal_ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Equations 13 to 16 of Wang et al. 2004, pixel by pixel of one H×W channel."""
    c1, c2 = 0.01**2, 0.03**2
    found = np.zeros_like(a)
    for row in range(a.shape[0]):
        for column in range(a.shape[1]):
            weights, of_a, of_b = [], [], []
            for y in range(max(row - 5, 0), min(row + 6, a.shape[0])):
                for x in range(max(column - 5, 0), min(column + 6, a.shape[1])):
                    weights.append(math.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * 1.5**2)))
                    of_a.append(a[y, x])
                    of_b.append(b[y, x])
            w, u, v = np.array(weights) / sum(weights), np.array(of_a), np.array(of_b)
            mu, nu = (w * u).sum(), (w * v).sum()
            var_u, var_v, cov = (w * (u - mu) ** 2).sum(), (w * (v - nu) ** 2).sum(), (w * (u - mu) * (v - nu)).sum()
            found[row, column] = (2 * mu * nu + c1) * (2 * cov + c2) / ((mu**2 + nu**2 + c1) * (var_u + var_v + c2))
    return found


def test_ssim_map() -> None:
    a, b = images(0), 0.7 * images(0) + 0.3 * images(1)
    found = ssim_map(a, b)
    for image in range(2):
        for channel in range(3):
            expected = literal_ssim(a[image, channel].double().numpy(), b[image, channel].double().numpy())
            np.testing.assert_allclose(found[image, channel].numpy(), expected, atol=2e-4)
    assert float(ssim_loss(a, b)) == pytest.approx(1 - float(found.mean()))
    assert float(ssim_loss(a, a)) == pytest.approx(0, abs=1e-6)


def test_ssim_of_an_image_smaller_than_the_window() -> None:
    a, b = images(2, (1, 1, 4, 3)), images(3, (1, 1, 4, 3))
    expected = literal_ssim(a[0, 0].double().numpy(), b[0, 0].double().numpy())
    np.testing.assert_allclose(ssim_map(a, b)[0, 0].numpy(), expected, atol=2e-4)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_loss(gamma: float) -> None:
    logits, mask = 4 * images(4) - 2, (images(5) > 0.8).float()
    total = 0.0
    for logit, truth in zip(logits.flatten().tolist(), mask.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        p_t = p if truth else 1 - p
        total -= (1 - p_t) ** gamma * math.log(p_t)
    assert float(focal_loss(logits, mask, gamma)) == pytest.approx(total / logits.numel(), rel=1e-5)


def test_focal_loss_of_two_outputs_is_that_of_their_softmax() -> None:
    outputs, mask = 6 * images(6, (2, 2, 5, 5)) - 3, (images(7, (2, 1, 5, 5)) > 0.5).float()
    p_t = outputs.softmax(1).gather(1, mask.long())
    expected = (-((1 - p_t) ** 2) * p_t.log()).mean()
    assert float(focal_loss(outputs[:, 1:] - outputs[:, :1], mask)) == pytest.approx(float(expected), rel=1e-5)


def test_dice_loss() -> None:
    logits, mask = 4 * images(8, (3, 1, 6, 7)) - 2, (images(9, (3, 1, 6, 7)) > 0.7).float()
    mask[2] = 0
    losses = []
    for image in range(3):
        overlap = of_p = of_m = 0.0
        for logit, truth in zip(logits[image].flatten().tolist(), mask[image].flatten().tolist(), strict=True):
            p = 1 / (1 + math.exp(-logit))
            overlap, of_p, of_m = overlap + p * truth, of_p + p, of_m + truth
        losses.append(1 - (2 * overlap + 1) / (of_p + of_m + 1))
    assert float(dice_loss(logits, mask)) == pytest.approx(sum(losses) / 3, rel=1e-5)
    assert float(dice_loss(200 * mask - 100, mask)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("logit", [-100.0, 100.0])
def test_gradients_of_a_sure_network_are_finite(logit: float) -> None:
    logits = torch.full((1, 1, 4, 4), logit, requires_grad=True)
    mask = torch.ones(1, 1, 4, 4) * (logit < 0)  # all wrong
    (focal_loss(logits, mask) + dice_loss(logits, mask)).backward()
    assert torch.isfinite(logits.grad).all()
    assert float(logits.grad.abs().max()) > 0


def test_gradients_lead_to_the_image() -> None:
    target = images(10, (1, 1, 16, 16))
    guess = torch.full_like(target, 0.5).requires_grad_()
    optimiser = torch.optim.Adam([guess], lr=0.03)
    before = float(ssim_loss(guess.detach(), target))
    for _ in range(40):
        optimiser.zero_grad()
        ssim_loss(guess, target).backward()
        optimiser.step()
    assert float(ssim_loss(guess.detach(), target)) < before / 2
