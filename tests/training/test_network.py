"""First weights of a seed, and statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from patchbank.training.network import Standard, build


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 4, 2, bias=False), nn.GroupNorm(2, 4),
        nn.Flatten(), nn.Linear(4, 5), nn.LayerNorm(5), Standard(5),
    )  # fmt: skip


def test_one_seed_one_network_and_no_global_state() -> None:
    before = torch.get_rng_state()
    one, two, other = (build(network, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["0.weight"], other["0.weight"])
    assert torch.equal(before, torch.get_rng_state())
    assert not any(value.is_meta for value in one.values())


def test_weights_are_drawn_as_torch_draws_them() -> None:
    made, usual = build(network, 0), network()
    for mine, theirs in zip(made.modules(), usual.modules(), strict=True):
        if isinstance(mine, nn.Conv2d | nn.Linear):
            bound = (1 / mine.weight[0].numel()) ** 0.5
            for name, parameter in mine.named_parameters():
                assert float(parameter.detach().abs().max()) <= bound
                assert float(parameter.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.5), name
        elif isinstance(mine, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
            expected = theirs.state_dict()
            assert all(torch.equal(value, expected[name]) for name, value in mine.state_dict().items())


class Own(nn.Module):
    """Values of its own, which nothing fills."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("code", torch.zeros(3))


class Filled(Own):
    def reset(self, generator: torch.Generator) -> None:
        self.get_buffer("code").copy_(torch.rand(3, generator=generator))


def test_values_that_nothing_fills_are_refused() -> None:
    with pytest.raises(TypeError, match=r"Own has values of its own, and no method reset\(generator\)"):
        build(lambda: nn.Sequential(Own()), 0)
    one, two = (build(Filled, 3).get_buffer("code") for _ in range(2))
    assert torch.equal(one, two)
    assert float(one.max()) > 0


def test_standard_features() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(5, 3, (400, 3)), rng.normal(-1, 0.1, (400, 2))
    b[:, 1] = 7  # of no spread
    standard = Standard(5)
    standard.learn(torch.from_numpy(a).float(), torch.from_numpy(b).float())
    together = np.concatenate([a, b], 1)
    np.testing.assert_allclose(standard.offset, together.mean(0), rtol=1e-5)
    np.testing.assert_allclose(standard.scale[:4], together.std(0)[:4], rtol=1e-4)
    found = standard(torch.from_numpy(together).float()).numpy()
    np.testing.assert_allclose(
        found[:, :4], ((together - together.mean(0)) / together.std(0).clip(1e-6))[:, :4], atol=1e-4
    )
    assert np.isfinite(found).all()
