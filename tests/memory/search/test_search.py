"""Every search against a float64 distance matrix, on random, adversarial and real vectors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from patchbank import PatchCore
from patchbank._system import threads
from patchbank.data import gather
from patchbank.errors import MissingPackageError, OptionError
from patchbank.memory.search import BlockedIndex, k_nearest, make_index, nearest
from patchbank.memory.search.pruned import PrunedIndex

EXACT = ["pruned", "blocked"]


def literal(queries: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Distances and indices from the float64 distance matrix."""
    matrix = torch.cdist(queries.double(), bank.double(), compute_mode="donot_use_mm_for_euclid_dist")
    found = matrix.min(1)
    return found.values, found.indices


def drawn(n: int, d: int, seed: int) -> Tensor:
    """Vectors that vary in a few directions much more than in the rest, as features do."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator) * torch.logspace(1, -1, d) + 5


@pytest.mark.parametrize("search", EXACT)
@pytest.mark.parametrize(("q", "m", "d"), [(50, 5000, 152), (7, 3, 16), (1, 1, 4), (300, 2049, 33), (90, 700, 1)])
def test_nearest(search: str, q: int, m: int, d: int) -> None:
    queries, bank = drawn(q, d, seed=1), drawn(m, d, seed=2)
    distances, indices = make_index(bank, search).nearest(queries)
    exact, where = literal(queries, bank)
    assert torch.allclose(distances.double(), exact, rtol=1e-5, atol=1e-5)
    assert torch.equal(indices, where) or d == 1


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 70),
    st.integers(1, 300),
    st.integers(1, 60),
    st.sampled_from([0.0, 1e-6, 1.0, 1e4, 1e12]),
    st.sampled_from([0.0, 1.0, 1e3]),
)
def test_pruned_is_exact_at_any_size_and_scale(seed: int, q: int, m: int, d: int, scale: float, offset: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    bank = (torch.randn(m, d, generator=generator) + offset) * scale
    queries = torch.cat([bank[: q // 2], (torch.randn(q, d, generator=generator) + offset) * scale])
    distances, indices = PrunedIndex(bank).nearest(queries)
    exact, _ = literal(queries, bank)
    assert torch.allclose(distances.double(), exact, rtol=1e-4, atol=1e-5 * scale)
    measured = torch.linalg.vector_norm(queries.double() - bank[indices].double(), dim=1)
    assert torch.allclose(measured, exact, rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize("search", EXACT)
def test_duplicates_and_constants(search: str) -> None:
    bank = torch.ones(100, 8).index_fill(0, torch.arange(50, 100), 3.0)
    distances, indices = make_index(bank, search).nearest(torch.tensor([[1.0] * 8, [2.5] * 8]))
    assert distances.tolist() == pytest.approx([0.0, 0.5 * 8**0.5])
    assert indices.tolist() == [0, 50]


@pytest.mark.parametrize("search", EXACT)
def test_a_vector_of_the_bank_is_at_distance_zero(search: str) -> None:
    bank = 1000 + torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    distances, _ = make_index(bank, search).nearest(bank)
    # the expanded form alone would be off by about 8 here
    assert float(distances.max()) < 0.5


@pytest.mark.parametrize("search", [*EXACT, "hnsw", "ivfpq"])
def test_excluded_vectors_are_left_out(search: str) -> None:
    if search in ("hnsw", "ivfpq"):
        pytest.importorskip("faiss", reason="faiss is not installed")
    bank = torch.arange(10.0)[:, None]
    index = make_index(bank, search)
    excluded = torch.zeros(10, dtype=torch.bool)
    excluded[3] = True
    distances, indices = index.nearest(torch.tensor([[3.0], [3.4]]), excluded)
    assert indices.tolist() in ([2, 4], [4, 4])
    assert distances.tolist() == pytest.approx([1.0, 0.6])
    distances, _ = index.nearest(torch.tensor([[3.0]]), torch.ones(10, dtype=torch.bool))
    assert distances.tolist() == [float("inf")]


@pytest.mark.parametrize("threads_used", [1, 3])
def test_threads_change_nothing(threads_used: int, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, bank = drawn(500, 40, seed=1), drawn(3000, 40, seed=2)
    before = PrunedIndex(bank).nearest(queries)
    monkeypatch.setattr(threads, "_chosen", threads_used)
    after = PrunedIndex(bank).nearest(queries)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


def test_vectors_without_structure_go_by_matrix_product() -> None:
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(6000, 256, generator=generator), torch.randn(64, 256, generator=generator)
    assert make_index(bank).name == "blocked"
    index = PrunedIndex(bank)
    assert index.hopeless_share(queries) > 0.5
    distances, indices = index.nearest(queries)  # asked for all the same
    exact, where = literal(queries, bank)
    assert torch.allclose(distances.double(), exact, rtol=1e-5)
    assert torch.equal(indices, where)


@pytest.mark.data
def test_real_features(real_data: Path) -> None:
    """Good and defective parts: the same neighbours and the same distances in both exact ways."""
    mtd = real_data / "mtd"
    files = [*sorted(mtd.glob("MT_Free/Imgs/*.jpg"))[:30], *sorted(mtd.glob("MT_Break/Imgs/*.jpg"))[:15]]
    extractor = PatchCore(image_size=224).extractor
    features = extractor.collect(gather([str(f) for f in files]))
    queries = torch.cat([features.of_image(i) for i in range(25, len(features.refs))])
    queries, bank = queries[::5], features.vectors[: features.starts[25] : 3].contiguous()
    index = make_index(bank)
    assert index.name == "pruned"
    distances, indices = index.nearest(queries)
    exact, where = literal(queries, bank)
    assert torch.allclose(distances.double(), exact, rtol=1e-5)
    assert torch.equal(indices, where)
    blocked, _ = BlockedIndex(bank).nearest(queries)
    assert torch.allclose(distances, blocked, rtol=1e-6)


@pytest.mark.parametrize("search", ["ivfpq", "hnsw"])
def test_approximate_search_finds_most_neighbours(search: str) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed")
    queries, bank = drawn(200, 64, seed=1), drawn(5000, 64, seed=2)
    distances, indices = make_index(bank, search).nearest(queries)
    exact, where = literal(queries, bank)
    assert float((indices == where).float().mean()) > 0.8
    assert torch.all(distances.double() >= exact * (1 - 1e-5))


def test_faiss_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingPackageError, match=r"patchbank\[faiss\]"):
        make_index(torch.ones(3, 3), "hnsw")


def test_unknown_search() -> None:
    with pytest.raises(OptionError, match="pruned"):
        make_index(torch.ones(3, 3), "magic")


def test_k_nearest() -> None:
    bank = torch.tensor([[0.0], [5.0], [1.0]])
    distances, indices = k_nearest(torch.tensor([0.9]), bank, 2)
    assert indices.tolist() == [2, 0]
    assert distances.tolist() == pytest.approx([0.1, 0.9])
    assert len(k_nearest(torch.tensor([0.9]), bank, 9)[1]) == 3
    far = drawn(500, 32, seed=3) + 1000
    distances, indices = k_nearest(far[0], far, 9)
    exact = torch.linalg.vector_norm(far.double() - far[0].double(), dim=1)
    assert indices.tolist() == exact.topk(9, largest=False).indices.tolist()


@pytest.mark.parametrize("search", ["pruned", "blocked", "hnsw"])
def test_neighbourhood(search: str) -> None:
    if search == "hnsw":
        pytest.importorskip("faiss", reason="faiss is not installed")
    bank = drawn(700, 24, seed=4)
    found = make_index(bank, search).neighbourhood(bank[5], 9)
    order = torch.linalg.vector_norm(bank.double() - bank[5].double(), dim=1).argsort()[:9]
    assert torch.equal(found, bank[order])


def test_nearest_without_an_index() -> None:
    assert nearest(torch.tensor([[0.2]]), torch.tensor([[0.0], [1.0]]))[1].tolist() == [0]
