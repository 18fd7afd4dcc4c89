"""CFM against numpy loops, and what training does."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from patchbank.errors import DatasetError
from patchbank.features.store import FeatureStore
from patchbank.methods.cfm import CFMNetwork, CFMTask
from patchbank.training import crossmodal as module
from patchbank.training.crossmodal import Crossmodal
from patchbank.training.loop import Training, train
from patchbank.training.network import build

erf = np.vectorize(math.erf)


def pairs(count: int = 600, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two views, 12-d and 20-d, of the same hidden variables."""
    fixed, generator = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
    to_a, to_b = (torch.randn(4, d, generator=fixed) for d in (12, 20))
    hidden = torch.randn(count, 4, generator=generator)
    return (hidden @ to_a).tanh(), (hidden @ to_b).tanh()


def literal(x: np.ndarray, state: dict[str, np.ndarray], name: str, layers: int) -> np.ndarray:
    for layer in range(layers):
        x = state[f"{name}.{2 * layer}.weight"] @ x + state[f"{name}.{2 * layer}.bias"]
        if layer < layers - 1:
            x = x * 0.5 * (1 + erf(x / math.sqrt(2)))
    return x


def cosine_distance(x: np.ndarray, y: np.ndarray) -> float:
    return float(1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize("hidden", [None, (9,), (7, 5, 11)])
def test_scores(hidden: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 16)  # several blocks
    mapping = build(lambda: Crossmodal(12, 20, hidden), 1)
    a, b = pairs(40)
    present = torch.arange(40) % 3 > 0
    found = mapping.scores(a, b, present)
    state = {name: value.double().numpy() for name, value in mapping.state_dict().items()}
    layers = 3 if hidden is None else len(hidden) + 1
    for i in range(40):
        x, y = a[i].double().numpy(), b[i].double().numpy()
        of_a = cosine_distance(x, literal(y, state, "to_a", layers))
        of_b = cosine_distance(y, literal(x, state, "to_b", layers))
        assert found[i] == pytest.approx(of_a * of_b if i % 3 else 0, abs=1e-5)


def test_widths_of_the_paper() -> None:
    with torch.device("meta"):
        mapping = Crossmodal(768, 1152)
    shapes = {name: tuple(value.shape) for name, value in mapping.named_parameters() if name.endswith("weight")}
    assert [shapes[f"to_b.{i}.weight"] for i in (0, 2, 4)] == [(960, 768), (960, 960), (1152, 960)]
    assert [shapes[f"to_a.{i}.weight"] for i in (0, 2, 4)] == [(960, 1152), (960, 960), (768, 960)]


def trained(
    a: torch.Tensor, b: torch.Tensor, epochs: int, hidden: tuple[int, ...] = (16, 16)
) -> tuple[CFMNetwork, float]:
    """Mappings that learned from pairs, and their mean loss over the last epoch."""
    network = build(lambda: CFMNetwork((a.shape[1], b.shape[1]), hidden), 0)
    network.statistics.learn(a.float(), b.float())
    task = CFMTask(network, FeatureStore(parts=[a, b], starts=[0, len(a)]), 3e-3)
    return network, train(task, Training(epochs, batch=128)).loss


def test_training_finds_what_does_not_belong_together() -> None:
    a, b = pairs()
    network, loss = trained(a, b, 60)
    _, first = trained(a, b, 1)
    assert loss < first / 5
    assert not any(parameter.requires_grad for parameter in network.parameters())
    a, b = pairs(200, seed=1)
    good, wrong = (network(torch.cat([a, each], 1)[None], (1, 200))[0] for each in (b, b.roll(1, 0)))
    assert (wrong[:, None] > good).float().mean() > 0.95


def test_scores_do_not_depend_on_the_rest_of_the_image() -> None:
    mapping = build(lambda: Crossmodal(12, 20), 1)
    a, b = pairs(40)
    present = torch.ones(40, dtype=torch.bool)
    assert torch.allclose(mapping.scores(a, b, present)[:10], mapping.scores(a[:10], b[:10], present[:10]), atol=1e-6)


def test_half_precision_hardly_matters() -> None:
    a, b = pairs()
    one, half = (trained(x, y, 4)[0].state_dict() for x, y in ((a, b), (a.half(), b.half())))
    assert torch.allclose(one["mapping.to_a.0.weight"], half["mapping.to_a.0.weight"], atol=0.02)


def test_what_cannot_be_learned_from() -> None:
    a, b = pairs(10)
    with pytest.raises(DatasetError, match="no image has a patch to learn from"):
        trained(a[:0], b[:0], 1)
    with pytest.raises(DatasetError, match="the loss is nan"):
        trained(a * torch.nan, b, 1)
