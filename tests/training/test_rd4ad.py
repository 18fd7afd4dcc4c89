"""What is particular to reverse distillation; its equations are tested with those of the others."""

from __future__ import annotations

import pytest
import torch

import patchbank
from patchbank.errors import OptionError
from patchbank.methods.rd4ad import ReverseNetwork
from patchbank.scorer import Levels
from patchbank.training.network import build


def cells(levels: Levels, grid: tuple[int, int]) -> torch.Tensor:
    return torch.randn(2, grid[0] * grid[1], levels.dimension, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("levels", "finest"),
    [
        (Levels((4, 6, 8), (8, 16, 32), 4 * 16 + 6 * 4 + 8), 4),
        (Levels((4, 6), (4, 16), 4 * 16 + 6), 4),  # a level was left out
        (Levels((6,), (8,), 6), 1),
        (Levels((6, 6), (14, 14), 12), 1),  # layers of a vision transformer
    ],
    ids=["three levels", "levels with a gap", "one level", "one resolution"],
)
def test_scores_lie_on_the_finest_grid_also_where_sides_are_odd(levels: Levels, finest: int) -> None:
    network, grid = build(lambda: ReverseNetwork(levels, 1.0), 0).eval(), (3, 5)
    scores = network(cells(levels, grid), grid)
    assert scores.shape == (2, grid[0] * finest, grid[1] * finest)
    assert torch.all((scores > 0) & (scores < 2 * len(levels.channels)))  # 1 − cos of each level


def test_the_student_sees_the_teacher_through_the_embedding_alone() -> None:
    network = build(lambda: ReverseNetwork(Levels((4, 6), (8, 16), 22), 1.0), 0).eval()
    for parameter in network.embed.parameters():
        parameter.data.zero_()
    one, other = (network._reconstruct([torch.rand(1, 4, 4, 8) + i, torch.rand(1, 6, 2, 4) + i]) for i in (0, 5))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_cells_that_do_not_count_are_the_mean_of_good_parts() -> None:
    levels, grid = Levels((4, 6), (8, 16), 22), (2, 4)
    network = build(lambda: ReverseNetwork(levels, 1.0), 0).eval()
    vectors, counts = cells(levels, grid), torch.tensor([1.0, 1, 1, 0, 1, 1, 1, 0])
    network.statistics.learn(vectors.flatten(0, 1))
    mean = torch.where(counts[:, None] > 0, vectors, network.statistics.offset)
    torch.testing.assert_close(network(vectors, grid, counts), network(mean, grid))


def test_the_widths_are_those_of_the_teacher_times_width() -> None:
    network = ReverseNetwork(Levels((24, 40, 112), (4, 8, 16), 656), 0.5)
    assert [head.in_channels for head in network.heads] == [12, 20, 56]
    assert [head.out_channels for head in network.heads] == [24, 40, 112]
    assert network.embed.second[0].out_channels == 112


@pytest.mark.parametrize(
    ("option", "what"),
    [({"width": 0.0}, "width must lie in"), ({"stride": 2}, "stride must be 1"), ({"epochs": 0}, "epochs must be")],
)
def test_options_that_cannot_be_used(option: dict[str, float], what: str) -> None:
    with pytest.raises(OptionError, match=what):
        patchbank.create("rd4ad", **option).fit([])
