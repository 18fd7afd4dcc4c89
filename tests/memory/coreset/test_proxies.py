"""Learned proxies against Eq. 8 written out feature by feature, and what a detector makes of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from patchbank import PatchCore
from patchbank.errors import OptionError
from patchbank.memory.coreset import ProxySampler, RandomSampler
from patchbank.memory.coreset.proxies import BATCH, RATE, learn_proxies, reconstruction_loss
from tests.conftest import bad_image, good_image


def clusters(n: int, d: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = 8 * torch.randn(5, d, generator=generator)
    return centres[torch.arange(n) % 5] + torch.randn(n, d, generator=generator)


def literal_loss(features: np.ndarray, proxies: np.ndarray, sign: float) -> float:
    """Eq. 8, one feature, one proxy and one coordinate at a time, in float64."""
    total = 0.0
    for m in features:
        distances = [math.sqrt(sum((a - b) ** 2 for a, b in zip(m, p, strict=True))) for p in proxies]
        exponents = [math.exp(sign * d) for d in distances]
        weights = [e / sum(exponents) for e in exponents]
        rebuilt = [sum(w * p[i] for w, p in zip(weights, proxies, strict=True)) for i in range(len(m))]
        total += sum((a - b) ** 2 for a, b in zip(m, rebuilt, strict=True))
    return total / len(features)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_loss_is_eq_8(sign: float) -> None:
    features, proxies = clusters(40), clusters(7, seed=1)
    expected = literal_loss(features.double().numpy(), proxies.double().numpy(), sign)
    assert float(reconstruction_loss(features, proxies, sign)) == pytest.approx(expected, rel=1e-5)


def test_learning_is_adam_on_the_literal_loss() -> None:
    """The gradient by differences of the literal loss, the update as in the paper of Adam."""
    features, count, steps = clusters(30, 3), 4, 5
    rng = np.random.default_rng(9)
    proxies = features.double().numpy()[np.sort(rng.choice(30, count, replace=False))].copy()
    rate = RATE * float(features.double().sub(features.double().mean(0)).square().mean().sqrt())
    first, second = np.zeros_like(proxies), np.zeros_like(proxies)
    for step in range(1, steps + 1):
        batch = features.double().numpy()[np.sort(rng.integers(0, 30, min(BATCH, 30)))]
        gradient = np.zeros_like(proxies)
        for at in np.ndindex(proxies.shape):
            moved = [proxies.copy(), proxies.copy()]
            moved[0][at] += 1e-5
            moved[1][at] -= 1e-5
            gradient[at] = (literal_loss(batch, moved[0], -1) - literal_loss(batch, moved[1], -1)) / 2e-5
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        proxies -= rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(learn_proxies(features, count, 9, steps).numpy(), proxies, rtol=1e-3, atol=1e-3)


def test_proxies_reconstruct_better_than_the_features_they_started_from() -> None:
    features = clusters(500)
    drawn, learned = RandomSampler(0.02, seed=3).run(features), ProxySampler(0.02, seed=3).run(features)
    assert learned.shape == drawn.shape
    assert reconstruction_loss(features, learned) < 0.8 * reconstruction_loss(features, drawn)


def test_a_proxy_comes_from_the_feature_nearest_to_it() -> None:
    features = clusters(20_000)  # more than one block
    sampler = ProxySampler(0.001, steps=20)
    learned = sampler.run(features)
    assert torch.equal(sampler.indices_, torch.cdist(learned.double(), features.double()).argmin(1))


def test_progress_ends_at_the_number_of_proxies() -> None:
    counted: list[int] = []
    ProxySampler(0.1, steps=7).run(clusters(200), counted.append)
    assert sum(counted) == 20


def test_a_detector_with_proxies() -> None:
    model = PatchCore(sampler="proxies", bank_size=40, image_size=96, threads=2).fit([good_image(i) for i in range(6)])
    good, bad = model.predict(good_image(50)), model.predict(bad_image(60))
    assert model.memory_vectors == 40
    assert good.score < bad.score
    assert bad.is_anomalous
    assert bad.nearest(5, 5).image.startswith("image ")
    again = PatchCore(sampler="proxies", bank_size=40, image_size=96, threads=2).fit([good_image(i) for i in range(6)])
    assert torch.equal(model.bank_.vectors, again.bank_.vectors)


@pytest.mark.parametrize("options", [{"coreset": "stream"}, {"coreset_radius": 3.0}])
def test_what_proxies_cannot_be_combined_with(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="proxies"):
        PatchCore(sampler="proxies", **options).fit([good_image(0)])  # type: ignore[arg-type]
