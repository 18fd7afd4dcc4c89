"""The flows of FastFlow and CFLOW-AD: invertible, with the right volume, and literal versions of both methods."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from patchbank import CFLOW, FastFlow
from patchbank.errors import OptionError
from patchbank.features.store import FeatureStore
from patchbank.methods import METHODS
from patchbank.methods.cflow import CFlowNetwork, CFlowTask, connected, position_code
from patchbank.methods.fastflow import FastFlowNetwork, FastFlowTask, convolutions
from patchbank.scorer import Levels
from patchbank.training import build
from patchbank.training.couplings import Flow
from patchbank.training.items import on_finest
from tests.conftest import good_image
from tests.training.literal import cflow, fastflow
from tests.training.literal.flows import enlarge, surprise

LEVELS = Levels((5, 3), (8, 16), 4 * 5 + 3)
GRID, IMAGES = (3, 2), 4


def flow_of_maps(channels: int, seed: int = 0) -> Flow:
    return build(lambda: Flow(channels, [convolutions(kernel, 1.5) for kernel in (3, 1, 3)], 2.0, 1), seed).double()


def flow_of_vectors(channels: int, seed: int = 0) -> Flow:
    return build(lambda: Flow(channels, [connected(1)] * 3, 1.9, -1), seed).double()


def stirred(network: torch.nn.Module, factor: float = 8) -> torch.nn.Module:
    """With larger weights, so that nothing is near the identity."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= factor
    return network


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("channels", [2, 5, 6])
def test_flows_are_invertible_and_give_the_volume_of_their_jacobian(channels: int) -> None:
    maps, vectors, code = drawn(1, channels, 3, 2), drawn(4, channels), drawn(4, 128)
    for flow, x, condition in (
        (stirred(flow_of_maps(channels)), maps, ()),
        (stirred(flow_of_vectors(channels)), vectors, (code,)),
    ):
        z, log_det = flow.requires_grad_(False)(x, *condition)
        assert (z - x[:, flow.couplings[0].order]).abs().max() > 0.1
        assert torch.allclose(flow.inverse(z, *condition), x, rtol=0, atol=1e-8)
        jacobian = torch.autograd.functional.jacobian(lambda x: flow(x, *condition)[0], x)  # noqa: B023
        size = x.numel()
        assert float(log_det.sum()) == pytest.approx(float(torch.linalg.slogdet(jacobian.reshape(size, size))[1]))


def test_what_surprises_is_a_density() -> None:
    """exp(−C · surprise) of two channels sums up to 1 over the plane."""
    flow, step = stirred(flow_of_vectors(2), 3).requires_grad_(False), 0.2
    axis = torch.arange(-12, 12, step, dtype=torch.float64)
    plane = torch.cartesian_prod(axis, axis)
    density = torch.exp(-2 * flow.surprise(plane, drawn(1, 128).expand(len(plane), -1)))
    assert float(density.sum()) * step**2 == pytest.approx(1, abs=1e-3)


def test_each_seed_has_its_own_orders() -> None:
    orders = [[coupling.order.tolist() for coupling in flow_of_vectors(9, seed).couplings] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert all(sorted(order) == list(range(9)) for order in orders[0])
    assert orders[0][0] != orders[0][1]


def test_a_level_with_one_channel_is_refused() -> None:
    with pytest.raises(OptionError, match="choose other levels"):
        flow_of_vectors(1)


def store(inspected: np.ndarray | None = None) -> FeatureStore:
    """Features of random images with one grid."""
    cells = GRID[0] * GRID[1]
    vectors = drawn(IMAGES * cells, LEVELS.dimension).float()
    refs = [SimpleNamespace(grid=GRID)] * IMAGES
    starts = list(range(0, len(vectors) + 1, cells))
    return FeatureStore(vectors, refs=refs, inspected=[inspected] * IMAGES, starts=starts)


def task_of(method: ModuleType, features: FeatureStore) -> FastFlowTask | CFlowTask:
    if method is fastflow:
        network = stirred(build(lambda: FastFlowNetwork(LEVELS, 3, 0.6), 0))
    else:
        network = stirred(build(lambda: CFlowNetwork(LEVELS, 3, 1), 0))
    network.statistics.learn(features.stored)
    return (FastFlowTask if method is fastflow else CFlowTask)(network, features, 1e-3)


@pytest.mark.parametrize("method", [fastflow, cflow])
def test_scores_and_losses_are_those_of_the_equations(method: ModuleType) -> None:
    features = store()
    task = task_of(method, features)
    vectors = features.of_image(1)
    with torch.no_grad():
        scores = task.network(vectors[None], GRID)[0]
    assert scores.shape == (6, 4)
    assert scores.numpy() == pytest.approx(method.forward(task.network, vectors.numpy(), GRID), rel=1e-4)
    numbers = torch.tensor([2, 0, 3])
    assert float(task.loss(numbers, torch.Generator()).detach()) == pytest.approx(
        method.loss(task, numbers, 0), rel=1e-4
    )


@pytest.mark.parametrize("method", [fastflow, cflow])
def test_what_is_not_inspected_has_no_loss(method: ModuleType) -> None:
    inspected = np.array([[True, False], [True, True], [False, False]])
    features = store(inspected)
    task = task_of(method, features)
    if method is cflow:
        seen, other = torch.tensor([0, 2, 3, 6]), torch.tensor([1, 4])  # numbers of cells
        both = float(task.loss(torch.cat([seen, other]), torch.Generator()).detach())
        assert both == pytest.approx(cflow.loss(task, seen, 0), rel=1e-4)
        return
    images = [fastflow.of_levels(task.network, features.of_image(i).numpy(), GRID) for i in (0, 1)]
    shallow = np.kron(inspected, np.ones((2, 2))) > 0
    masks = (shallow, inspected)
    expected = np.mean([np.mean([surprise(*image[i])[mask] for image in images]) for i, mask in enumerate(masks)])
    assert float(task.loss(torch.tensor([0, 1]), torch.Generator()).detach()) == pytest.approx(expected, rel=1e-4)


def test_cells_are_found_in_images_of_several_grids() -> None:
    refs = [SimpleNamespace(grid=grid) for grid in ((2, 3), (3, 2))]
    features = FeatureStore(torch.zeros(12, LEVELS.dimension), refs=refs, inspected=[None, None], starts=[0, 6, 12])
    rows, columns = task_of(cflow, features).places(torch.tensor([0, 4, 6, 9, 11]))
    assert (rows.tolist(), columns.tolist()) == ([0, 1, 0, 1, 2], [0, 1, 0, 1, 1])


def test_the_position_code_is_that_of_the_paper_and_tells_places_apart() -> None:
    places = torch.cartesian_prod(torch.arange(40), torch.arange(40))
    codes = position_code(places[:, 0], places[:, 1])
    assert codes[43 * 17].numpy() == pytest.approx(cflow.code(*places[43 * 17].tolist()), abs=1e-4)
    assert float(torch.cdist(codes, codes).fill_diagonal_(1).min()) > 0.1


def test_levels_are_averaged_on_the_finest() -> None:
    maps = [drawn(2, 6, 4), drawn(2, 3, 2)]
    expected = [(fine + enlarge(coarse, (6, 4))) / 2 for fine, coarse in zip(*(m.numpy() for m in maps), strict=True)]
    assert on_finest(maps).mean(0).numpy() == pytest.approx(np.array(expected))


@pytest.mark.parametrize(
    ("method", "options", "what"),
    [
        (FastFlow, {"steps": 0}, "steps must be at least 1"),
        (FastFlow, {"hidden_ratio": 0.0}, "hidden_ratio must lie"),
        (FastFlow, {"stride": 2}, "stride must be 1"),
        (FastFlow, {"learning_rate": 0.0}, "learning_rate must lie"),
        (CFLOW, {"steps": 0}, "steps must be at least 1"),
        (CFLOW, {"hidden_ratio": 0}, "hidden_ratio must lie"),
        (CFLOW, {"stride": 2}, "stride must be 1"),
        (CFLOW, {"aggregation": "reference"}, "aggregation has no effect"),
    ],
)
def test_options_that_cannot_be_used(method: type, options: dict[str, float], what: str) -> None:
    with pytest.raises(OptionError, match=what):
        method(**options).fit([good_image(0)])


@pytest.mark.parametrize("method", [fastflow, cflow])
def test_features_have_noise_while_they_are_learned(method: ModuleType) -> None:
    """The loss is that of the equations on features with noise of so many of their standard deviations."""
    features, sigma = store(), 0.3
    quiet = task_of(method, features)
    task = type(quiet)(quiet.network, features, 1e-3, sigma)
    numbers = torch.tensor([2, 0, 3])
    found = float(task.loss(numbers, torch.Generator().manual_seed(7)).detach())
    given = features.stored if method is cflow else torch.stack([features.of_image(i) for i in range(IMAGES)])
    shape = given[numbers].shape
    noise = sigma * quiet.network.statistics.scale * torch.randn(shape, generator=torch.Generator().manual_seed(7))
    noisy = store()
    (noisy.stored if method is cflow else noisy.stored.reshape(given.shape))[numbers] = given[numbers] + noise
    expected = type(quiet)(quiet.network, noisy, 1e-3).loss(numbers, torch.Generator())
    assert found == pytest.approx(float(expected.detach()), rel=1e-5)
    assert found != pytest.approx(float(quiet.loss(numbers, torch.Generator()).detach()), rel=1e-3)


@pytest.mark.parametrize("method", ["fastflow", "cflow"])
def test_impossible_noise(method: str) -> None:
    for noise in (-0.1, 11):
        with pytest.raises(OptionError, match="noise must lie"):
            METHODS[method](noise=noise).check()  # type: ignore[call-arg]
