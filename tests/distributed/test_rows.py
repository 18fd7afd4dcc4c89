"""Rows that lie with several workers: the blocks, the bits and the sums of one matrix."""

from __future__ import annotations

import sys
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchbank._system.ram import private_bytes
from patchbank._system.tree import Tree
from patchbank.distributed.cluster import deal
from patchbank.distributed.crew import Crew
from patchbank.distributed.matrix import aligned
from patchbank.distributed.rows import Selections, ShardedRows
from patchbank.distributed.shard import FEATURES, Shard
from patchbank.features.storage import column_moments, fill, map_blocks, map_rows, scale, take
from patchbank.memory.coreset import SAMPLERS
from patchbank.memory.moments import LEAF, Moments
from tests.distributed.crews import Here


def sharded(points: torch.Tensor, cuts: list[int]) -> ShardedRows:
    starts = [0, *sorted(cuts), len(points)]
    workers = Here(len(starts) - 1)
    for worker, (start, stop) in enumerate(pairwise(starts)):
        shard = workers.shards[worker] = Shard()
        shard.first = start
        shard.matrices[FEATURES] = aligned(stop - start, points.shape[1], start, False)
        shard.matrices[FEATURES].copy_(points[start:stop])
    return ShardedRows(Crew(workers), FEATURES, starts, points.shape[1], Selections())


def first_and_sum(block: torch.Tensor) -> tuple[float, int]:
    return float(block.double().sum()), len(block)


def product(matrix: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    return block @ matrix


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_blocks_of_one_matrix(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 60))
    cuts = data.draw(st.lists(st.integers(0, n), max_size=5))
    rows = data.draw(st.integers(1, 70))
    points = torch.from_numpy(np.random.default_rng(n).standard_normal((n, 24)).astype("f4"))
    apart = sharded(points, cuts)
    assert list(map_blocks(apart, first_and_sum, rows)) == list(map_blocks(points, first_and_sum, rows))
    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(n))
    made, whole = (map_rows(each, partial(product, matrix), rows, 40) for each in (apart, points))
    some = torch.from_numpy(np.random.default_rng(n).permutation(n))
    assert torch.equal(take(made, some), whole[some])
    for each in (apart, points):
        scale(each, torch.arange(24.0))
    assert torch.equal(take(apart, some), points[some])
    column, of_all = (map_rows(each, partial(torch.sum, dim=1), rows) for each in (apart, points))
    for each in (column, of_all):
        fill(each, [slice(0, 1), slice(n // 2, n)], -1.0)
    assert torch.equal(take(column, some), of_all[some])


@pytest.mark.parametrize("sampler", ["greedy", "approximate", "random"])
def test_samplers(sampler: str) -> None:
    points = torch.from_numpy(np.random.default_rng(0).standard_normal((5_000, 160)).astype("f4"))
    one, other = (SAMPLERS[sampler](0.1, count=60, seed=3) for _ in range(2))
    assert torch.equal(one.run(points), other.run(sharded(points, [1_700, 1_700, 3_333])))
    assert torch.equal(one.indices_, other.indices_)
    assert one.covering_radius_ == other.covering_radius_


def test_values_at_the_ends_of_float32() -> None:
    points = torch.from_numpy(np.random.default_rng(0).standard_normal((300, 8)).astype("f4")) * 1e17
    one, other = (SAMPLERS["greedy"](0.1, count=60) for _ in range(2))
    assert torch.equal(one.run(points), other.run(sharded(points, [100])))
    assert one.covering_radius_ == other.covering_radius_


def test_column_moments() -> None:
    points = torch.from_numpy(np.random.default_rng(0).standard_normal((9_000, 152)).astype("f4"))
    for one, other in zip(column_moments(points), column_moments(sharded(points, [4_000])), strict=True):
        assert torch.equal(one, other)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.lists(st.integers(0, 40), max_size=4), st.sets(st.integers(0, 39), max_size=10))
def test_a_tree_has_one_shape(leaves: int, cuts: list[int], missing: set[int]) -> None:
    numbers = [i for i in range(leaves) if i not in missing] or [0]
    whole = Tree[str](lambda a, b: f"({a} {b})")
    for i in numbers:
        whole.add(i, str(i))
    total = Tree[str](lambda a, b: f"({a} {b})")
    bounds = [0, *sorted(min(cut, leaves) for cut in cuts), leaves + 1]
    for start, stop in pairwise(bounds):
        part = Tree[str](lambda a, b: f"({a} {b})")
        for i in numbers:
            if start <= i < stop:
                part.add(i, str(i))
        for level, number, value in part.parts:
            total.add(number, value, level)
    assert total.total() == whole.total()


def test_moments_of_leaves_are_those_of_all() -> None:
    vectors = torch.from_numpy(np.random.default_rng(0).standard_normal((200, 3, 4))) + 5
    tree = Tree(Moments.merge)
    for number, leaf in enumerate(torch.split(vectors, LEAF)):
        moments = Moments(3, 4, "full", dtype=torch.float64)
        moments.add(leaf)
        tree.add(number, moments)
    centred = vectors - vectors.mean(0)
    expected = torch.einsum("npi,npj->pij", centred, centred)
    torch.testing.assert_close(tree.total().scatter, expected)
    torch.testing.assert_close(tree.total().mean, vectors.mean(0))


def test_images_are_dealt_out() -> None:
    patches, numbers = [10] * 300, [i // 8 for i in range(300)]
    parts = deal(patches, numbers, 4, whole_leaves=False)
    assert [part.start % 8 for part in parts] == [0, 0, 0, 0]
    assert all(70 <= part.stop - part.start <= 84 for part in parts)
    leaves = deal([1] * 500, list(range(500)), 4, whole_leaves=True)
    assert [part.start % LEAF for part in leaves] == [0] * 4
    assert leaves[-1].stop == 500
    assert [part.stop - part.start for part in deal([5], [0], 3, False)].count(1) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="glibc keeps what others give back")
def test_memory_that_blocks_leave_below_their_results_is_given_back() -> None:
    shard = Shard()
    shard.hold(torch.zeros(30, 2**18), 0)

    def leaves_gap(block: torch.Tensor) -> bytearray | None:
        if float(block[0, 0]):
            return None
        block += 1  # the first block alone
        pieces = [bytearray(100_000) for _ in range(2000)]
        return pieces[-1]  # keeps glibc from giving back the 200 MB below it

    shard.matrices[FEATURES][1:] = 1
    before = private_bytes()
    results = shard.map_blocks(FEATURES, leaves_gap, 1, torch.empty(0, 2**18))
    assert len(results) == 30
    assert private_bytes() - before < 50e6
