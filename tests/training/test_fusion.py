"""UFF against numpy loops, and what training does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from patchbank.errors import DatasetError
from patchbank.training.fusion import Fusion, FusionTask, Pair, Pairs
from patchbank.training.loop import Training, train
from patchbank.training.network import build
from patchbank.training.session import Session

erf = np.vectorize(math.erf)


def images(count: int = 6, patches: int = 80, seed: int = 0) -> list[Pair]:
    """Two views, 12-d and 20-d, of the same hidden variables at each place."""
    generator = torch.Generator().manual_seed(seed)
    to_a, to_b = (torch.randn(5, d, generator=generator) for d in (12, 20))
    hidden = [torch.randn(patches, 5, generator=generator) for _ in range(count)]
    return [
        (h @ to_a + 0.05 * torch.randn(patches, 12, generator=generator), (h @ to_b).tanh()) for h in hidden
    ]  # fmt: skip


def literal_branch(x: np.ndarray, state: dict[str, np.ndarray], name: str) -> np.ndarray:
    outputs = []
    for row in x:
        normal = (row - row.mean()) / math.sqrt(row.var() + 1e-5)
        normal = normal * state[f"{name}.norm.weight"] + state[f"{name}.norm.bias"]
        hidden = state[f"{name}.mlp.0.weight"] @ normal + state[f"{name}.mlp.0.bias"]
        hidden = hidden * 0.5 * (1 + erf(hidden / math.sqrt(2)))
        outputs.append(row + state[f"{name}.mlp.2.weight"] @ hidden + state[f"{name}.mlp.2.bias"])
    return np.stack(outputs)


def test_fused_features_and_loss() -> None:
    fusion = build(lambda: Fusion(12, 20), 3)
    generator = torch.Generator().manual_seed(4)
    for name in ("a", "b"):
        norm = getattr(fusion, name).norm
        norm.weight.data.copy_(torch.rand(norm.weight.shape, generator=generator) + 0.5)
        norm.bias.data.copy_(torch.rand(norm.bias.shape, generator=generator))
    a, b = images()[0]
    state = {name: value.double().numpy() for name, value in fusion.state_dict().items()}
    one, two = (literal_branch(x.double().numpy(), state, name) for x, name in ((a, "a"), (b, "b")))
    with torch.no_grad():
        assert np.allclose(fusion.fuse(a, b), np.concatenate([one, two], 1), atol=1e-5)
        found = float(fusion.loss(a, b, 0.2))
    one, two = (x @ state[f"{n}.head.weight"].T + state[f"{n}.head.bias"] for x, n in ((one, "a"), (two, "b")))
    total = 0.0
    for i in range(len(one)):
        cosines = [one[i] @ other / np.linalg.norm(one[i]) / np.linalg.norm(other) for other in two]
        total -= math.log(math.exp(cosines[i] / 0.2) / sum(math.exp(cosine / 0.2) for cosine in cosines))
    assert found == pytest.approx(total / len(one), rel=1e-5)


def trained(
    pairs: Sequence[Pair], epochs: int = 3, seed: int = 0, session: Session | None = None, **task: float
) -> tuple[Fusion, float]:
    """A fusion that learned from pairs, and its mean loss over the last epoch."""
    items = Pairs(pairs)
    fusion = build(lambda: Fusion(12, 20), seed)
    training = Training(epochs, batch=1, seed=seed, schedule="cosine", warmup=min(1, epochs - 1))
    outcome = train(FusionTask(fusion, items, **task), training, session)  # type: ignore[arg-type]
    return fusion, outcome.loss


def test_a_step_sees_some_patches_of_one_image() -> None:
    fusion, pairs = build(lambda: Fusion(12, 20), 3), images()
    task = FusionTask(fusion, Pairs(pairs), temperature=0.2, patches=30)
    rows = torch.randperm(80, generator=torch.Generator().manual_seed(7))[:30]
    expected = fusion.loss(pairs[4][0][rows], pairs[4][1][rows], 0.2)
    assert torch.equal(task.loss(torch.tensor([4]), torch.Generator().manual_seed(7)), expected)
    batches = list(task.items.batches(1, range(6), torch.Generator()))
    assert sorted(int(numbers) for numbers in batches) == list(range(6))
    assert task.optimisers()[0].defaults["betas"] == (0.9, 0.95)


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_training_pairs_places(temperature: float) -> None:
    """Places of an image that was not learned from are found by what the other modality says of them."""
    pairs = images()
    fusion, loss = trained(pairs, 20, temperature=temperature)
    _, first = trained(pairs, 1, rate=0.0, temperature=temperature)
    assert loss < first - 0.1
    assert not fusion.training
    assert not any(parameter.requires_grad for parameter in fusion.parameters())
    a, b = images(7)[-1]
    one, two = (torch.nn.functional.normalize(x.head(x(y)), dim=1) for x, y in ((fusion.a, a), (fusion.b, b)))
    assert (one @ two.T).argmax(1).eq(torch.arange(len(a))).float().mean() > 0.6  # 1 in 80 by chance


def test_one_seed_one_fusion_and_no_global_state() -> None:
    before = torch.get_rng_state()
    one, two = (trained(images(), seed=5, patches=30)[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = trained(images(), seed=6, patches=30)[0].state_dict()
    assert not torch.equal(one["a.head.weight"], other["a.head.weight"])
    assert torch.equal(before, torch.get_rng_state())


class Reading(Sequence[Pair]):
    """Images that are read when they are asked for."""

    def __init__(self, pairs: list[Pair]):
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, number: int) -> Pair:  # type: ignore[override]
        return tuple(each.half() for each in self._pairs[number])  # type: ignore[return-value]

    def __iter__(self) -> Iterator[Pair]:
        raise AssertionError("all images at once")


def test_images_may_be_read_one_at_a_time() -> None:
    steps: list[int] = []
    trained(Reading(images(3)), session=Session(lambda what, done, total: steps.append(done * 100 + total)))
    assert steps == [100 * (i + 1) + 9 for i in range(9)]


def test_images_with_a_single_place_are_left_out() -> None:
    pairs = images(3)
    pairs[1] = (pairs[1][0][:1], pairs[1][1][:1])
    items = Pairs(pairs)
    assert items.images == 2
    assert torch.equal(items.pair(torch.tensor([1]))[0], pairs[2][0])


def test_what_cannot_be_learned_from() -> None:
    (a, b), *_ = images(1)
    with pytest.raises(DatasetError, match="image 0 has 80 patches of one modality and 79 of the other"):
        Pairs([(a, b[1:])])
    with pytest.raises(DatasetError, match="no image has two places"):
        Pairs([(a[:1], b[:1])])
    with pytest.raises(DatasetError, match="the loss is nan after 0 steps"):
        trained([(a * torch.nan, b)])
