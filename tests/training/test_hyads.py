"""What HyADS has beside its network: textures of cells, the bank, and a second training."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import patchbank
from patchbank.data import RegionOfInterest, gather
from patchbank.errors import OptionError
from patchbank.methods.hyads import HyADSNetwork, ReconstructionTask, SegmentationTask, learn_errors
from patchbank.training.anomalies import Anomalies
from patchbank.training.handcrafted import grey_levels, hog, lbp
from patchbank.training.loop import Training, train
from patchbank.training.matching import AdaptiveBank, learn_scales, shares
from patchbank.training.network import Standard, build
from patchbank.training.pictures import GoodPictures
from patchbank.training.session import Session
from tests.conftest import good_image
from tests.training.literal import hyads as literal
from tests.training.literal import values

SIZE = (16, 24)


def picture(seed: int) -> torch.Tensor:
    """1×3×16×24, of eight bits, with a flat half."""
    drawn = torch.randint(0, 256, (1, 3, *SIZE), generator=torch.Generator().manual_seed(seed)).float()
    drawn[..., 12:] = 100
    return drawn / 255


def by_cell(features: torch.Tensor) -> np.ndarray:
    return features[0].permute(1, 2, 0).double().numpy()


# ---- textures --------------------------------------------------------------------------------------------------------


def test_hog() -> None:
    grey = grey_levels(picture(0))
    assert np.array_equal(grey[0, 0].numpy(), literal.grey_levels(picture(0)[0].permute(1, 2, 0).double().numpy()))
    np.testing.assert_allclose(by_cell(hog(grey)), literal.hog(grey[0, 0].double().numpy()), atol=1e-5)


def test_hog_of_an_edge_is_its_direction() -> None:
    grey = torch.zeros(1, 1, 24, 24)
    grey[..., 12:] = 200
    middle = hog(grey)[0, :, 1, 1].reshape(4, 9)
    assert (middle.argmax(1) == 4).all()  # across: 0 degrees lies in the middle of −90 to 90
    turned = hog(grey.transpose(2, 3))[0, :, 1, 1].reshape(4, 9)
    assert turned[:, 0].numpy() == pytest.approx(turned[:, 8].numpy())  # down: between the first and the last
    assert (turned[:, 0] > 0.3).all()


def test_lbp() -> None:
    grey = grey_levels(picture(1))
    found = by_cell(lbp(grey))
    assert np.array_equal(found, literal.lbp(grey[0, 0].double().numpy()))
    assert found[..., :10].sum(2) == pytest.approx(1)
    assert found[..., 10:].sum(2) == pytest.approx(1)


def test_lbp_does_not_depend_on_brightness() -> None:
    grey = grey_levels(picture(2) * 0.5)
    assert torch.equal(lbp(grey), lbp(grey + 17))
    flat = lbp(torch.full((1, 1, 8, 8), 40.0))[0, :, 0, 0]
    assert flat[[8, 26]].tolist() == [1.0, 1.0]  # all neighbours are as bright


# ---- the bank --------------------------------------------------------------------------------------------------------


def test_regions_that_vary_get_more_of_the_bank() -> None:
    assert shares(torch.tensor([3.0, 1.0]), [100, 100], 42) == [31, 11]
    assert shares(torch.tensor([3.0, 1.0]), [5, 100], 42) == [5, 37]
    assert shares(torch.tensor([0.0, 0.0, 0.0]), [9, 9, 9], 7) in ([3, 2, 2], [2, 3, 2], [2, 2, 3])
    assert shares(torch.tensor([1.0, 2.0]), [2, 3], 42) == [2, 3]


def test_the_bank_holds_cells_of_each_region() -> None:
    generator = torch.Generator().manual_seed(0)
    cells, regions = torch.randn(300, 5, generator=generator), torch.arange(300) % 3
    cells[regions == 2] *= 4
    bank = AdaptiveBank(30, [5])
    rows = bank.learn(cells, regions)
    assert torch.equal(bank.vectors, cells[rows])
    assert len(set(rows.tolist())) == 30
    of_each = torch.bincount(regions[rows], minlength=3).tolist()
    assert min(of_each) >= 3
    assert of_each[2] > 2 * max(of_each[:2])
    expected = torch.cdist(cells.double(), cells[rows].double()).amin(1)
    bank.standard.reset(torch.Generator())
    found = bank(cells.T.reshape(1, 5, 30, 10))
    np.testing.assert_allclose(found.flatten().numpy(), expected.numpy(), atol=1e-3)


def test_few_cells_fill_the_bank() -> None:
    bank = AdaptiveBank(8, [2])
    rows = bank.learn(torch.arange(6.0).reshape(3, 2), torch.tensor([0, 0, 5]))
    assert len(rows) == 8
    assert set(rows.tolist()) == {0, 1, 2}


def test_kinds_weigh_the_same() -> None:
    values_ = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 1, 1, 1, 50, 50])
    values_[:, 0] = 3.0  # never varies
    standard = Standard(6)
    learn_scales(standard, values_, (4, 2))
    squares = standard(values_).square().mean(0)
    assert float(squares[4:].sum()) == pytest.approx(1, rel=0.01)
    assert float(squares[:4].sum()) == pytest.approx(0.75, rel=0.01)
    off = standard(torch.tensor([[4.0, 0, 0, 0, 0, 0]]))[0, 0]
    assert float(off) == pytest.approx(1 / (0.2 * 0.75**0.5 * 2), rel=0.05)


# ---- the second training ---------------------------------------------------------------------------------------------


def fill_bank(network: HyADSNetwork, pictures: GoodPictures) -> torch.Tensor:
    return network.bank.learn_from(pictures, lambda x: network.described(x, network.unet(x)[1]), 0)


@pytest.fixture(scope="module")
def second() -> SegmentationTask:
    """On three pictures, two of which show one part."""
    model = patchbank.HyADS(**literal.OPTIONS, threads=1)
    pictures = GoodPictures(model.extractor.collect(gather([good_image(i, (64, 64)) for i in range(3)])))
    network, parts = build(lambda: HyADSNetwork(3, 2, 32), 0).eval(), torch.tensor([0, 0, 2])
    first = ReconstructionTask(network, pictures, Anomalies(), 1e-3)
    task = SegmentationTask(first, parts, parts[fill_bank(network, pictures)])
    learn_errors(task)
    return task


def test_a_picture_is_not_compared_with_its_own_part(second: SegmentationTask) -> None:
    whole = second.whole
    pixels = second.items.pictures(torch.tensor([0]))
    with torch.no_grad():
        described = whole.described(pixels, whole.unet(pixels)[1])
        found = whole.bank(described, second.penalty(torch.tensor([0]))).flatten()
        cells = whole.bank.standard(described[0].flatten(1).T)
    others = whole.bank.vectors[second._sources == 2]
    assert 0 < len(others) < 32
    expected = torch.cdist(cells.double(), others.double()).amin(1)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-3)


def test_errors_of_good_parts_are_standardised(second: SegmentationTask) -> None:
    numbers = torch.arange(3)
    with torch.no_grad():
        found = second.whole.evidence.of_maps(
            second.whole.errors(second.items.pictures(numbers), second.penalty(numbers))
        )
    assert found.mean((0, 2, 3)).numpy() == pytest.approx(0, abs=1e-3)
    assert (found.std((0, 2, 3)) <= 1.01).all()


def test_the_loss_of_the_head(second: SegmentationTask) -> None:
    """Focal and Dice loss, pixel by pixel, on what the frozen networks give."""
    numbers = torch.tensor([2, 0, 1])
    damaged, mask = second.anomalies.applied(second.items.pictures(numbers), torch.Generator().manual_seed(7))
    with torch.no_grad():
        errors = second.whole.evidence.of_maps(second.whole.errors(damaged, second.penalty(numbers))).double().numpy()
    second.network.train()
    found = float(second.loss(numbers, torch.Generator().manual_seed(7)).detach())
    second.network.eval()
    logits = literal.head(values(second.network), errors, training=True)
    p, m = 1 / (1 + np.exp(-logits)), mask[:, 0].double().numpy()
    of_truth = np.where(m == 1, p, 1 - p)
    focal = (-((1 - of_truth) ** 2) * np.log(of_truth)).mean()
    dice = 1 - (2 * (p * m).sum() + 1) / (p.sum() + m.sum() + 1)
    assert found == pytest.approx(focal + dice, rel=1e-4)


def test_the_head_alone_learns_in_the_second_training(second: SegmentationTask) -> None:
    before = {name: value.clone() for name, value in second.whole.state_dict().items()}
    train(second, Training(1, 2), Session())
    changed = {name for name, value in second.whole.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} == {"head"}
    assert "head.0.weight" in changed


def test_the_bank_is_of_what_is_inspected() -> None:
    """Cells outside are black to the network, and none of them is in the bank."""
    roi = RegionOfInterest(include=(((0.0, 0.0), (31.0, 0.0), (31.0, 63.0), (0.0, 63.0)),))
    model = patchbank.HyADS(**literal.OPTIONS, threads=1, roi=roi)
    pictures = GoodPictures(model.extractor.collect(gather([good_image(i, (64, 64)) for i in range(2)])))
    network = build(lambda: HyADSNetwork(3, 2, 32), 0).eval()
    fill_bank(network, pictures)
    pixels = pictures.pictures(torch.tensor([0]))
    with torch.no_grad():
        of_cells = network.bank(network.described(pixels, network.unet(pixels)[1]))[0, 0]
    assert float(of_cells[:, 5:].min()) > float(of_cells[:, :3].max())


# ---- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet18"}, "hyads learns from the pictures themselves: leave out backbone=resnet18"),
        ({"width": 0}, "width must be at least 1, not 0"),
        ({"bank_size": 15}, "bank_size must be at least 16, not 15"),
        ({"learning_rate": 0.0}, r"learning_rate must lie in \(0, 1\], not 0.0"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with warnings.catch_warnings(), pytest.raises(OptionError, match=message):
        patchbank.HyADS(**options).fit([good_image(0)])
