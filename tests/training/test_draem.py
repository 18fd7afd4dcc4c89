"""What is particular to DRAEM, and to all methods that learn from the pictures themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import patchbank
from patchbank.data import RegionOfInterest, gather
from patchbank.errors import DatasetError, OptionError
from patchbank.methods.draem import DRAEM, DRAEMNetwork, Hourglass
from patchbank.training.anomalies import PictureTextures
from patchbank.training.loop import Training
from patchbank.training.network import build
from patchbank.training.pictures import GoodPictures
from tests.conftest import good_image

TINY: dict[str, Any] = {"image_size": 64, "width": 0.02, "epochs": 1, "batch": 2, "threads": 1}


def changed_by_first_block(skips: bool) -> bool:
    """Whether the output still hangs on the block of the full size when nothing passes the deepest one."""
    network = build(lambda: Hourglass(3, 2, (4, 4, 4), skips), 0).eval()
    network.down[-1].register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    pictures = torch.rand(2, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return not torch.equal(*(network(picture) for picture in pictures))


def test_only_the_network_that_marks_sees_past_the_bottleneck() -> None:
    """So the one that rebuilds cannot copy an anomaly."""
    assert changed_by_first_block(skips=True)
    assert not changed_by_first_block(skips=False)
    network = build(lambda: DRAEMNetwork(3, 0.02), 0)
    assert (network.rebuild._skips, network.mark._skips) == (False, True)


def test_the_widths_of_the_paper() -> None:
    with torch.device("meta"):
        network = DRAEMNetwork(3, 1.0)
    of_rebuilding, of_marking = (
        [block[0].out_channels for block in part.down] for part in (network.rebuild, network.mark)
    )
    assert of_rebuilding == [128, 256, 512, 1024, 1024]
    assert of_marking == [64, 128, 256, 512, 512, 512]


def test_the_rate_falls_twice() -> None:
    training = Training(700, 8, drops=(4 / 7, 6 / 7))
    rates = [training.rate(epoch) for epoch in (0.1, 400, 400.1, 600, 600.1, 700)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_a_model_keeps_the_width_that_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU makes the networks wider where no width is given, but not those of a file."""
    model = DRAEM(**TINY).fit([good_image(0)])
    model.save(tmp_path / "m.patchbank")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert DRAEM(device="cuda").option("width") == 1.0
    assert DRAEM(device="cpu").option("width") == 0.25
    assert patchbank.load(tmp_path / "m.patchbank", device="cpu").option("width") == 0.02


def test_anomalies_are_drawn_where_parts_are_inspected_and_the_rest_is_black() -> None:
    roi = RegionOfInterest(include=(((10.0, 5.0), (60.0, 5.0), (60.0, 90.0), (10.0, 90.0)),))
    model = DRAEM(**TINY, roi=roi).fit([good_image(i) for i in range(2)])
    features: Any = model.extractor.collect(gather([good_image(i) for i in range(2)]))
    scorer: Any = model.scorer
    task = scorer.task(scorer.network, features)
    numbers, inside = torch.arange(2), task.items.inspected(torch.arange(2))
    pictures = task.items.pictures(numbers)
    assert float(pictures[(~inside).expand_as(pictures)].abs().max()) == 0
    assert float(pictures[inside.expand_as(pictures)].min()) > 0
    for seed in range(8):
        _, mask = task.anomalies.applied(pictures, torch.Generator().manual_seed(seed), inside)
        assert not mask[~inside].any()


def test_some_of_the_pictures() -> None:
    """Numbers count those that were chosen."""
    model = DRAEM(**TINY).fit([good_image(0)])
    features = model.extractor.collect(gather([good_image(i) for i in range(4)]))
    some, every = GoodPictures(features, [1, 3]), GoodPictures(features)
    assert (some.images, every.images) == (2, 4)
    assert torch.equal(some.pictures(torch.tensor([1, 0])), every.pictures(torch.tensor([3, 1])))
    assert some.inspected(torch.tensor([0])) is None


def test_textures_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "textures").mkdir()
    Image.fromarray(np.full((80, 80, 3), (250, 10, 10), np.uint8)).save(tmp_path / "textures/red.png")
    model = DRAEM(**TINY, textures=str(tmp_path / "textures")).fit([good_image(0)])
    scorer: Any = model.scorer
    task = scorer.task(scorer.network, model.extractor.collect(gather([good_image(0)])))
    assert isinstance(task.anomalies.textures, PictureTextures)
    with pytest.raises(DatasetError, match="nowhere"):
        DRAEM(**TINY, textures=str(tmp_path / "nowhere")).fit([good_image(0)])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0.0}, r"width must lie in \(0, 4\], not 0.0"),
        ({"backbone": "resnet18"}, "draem learns from the pictures themselves: leave out backbone=resnet18"),
        ({"image_size": 32}, "image_size must be at least 64 pixels for draem"),
        ({"patch_size": 5}, "patch_size has no effect on draem: leave it out"),
        ({"levels": (2, 3)}, "levels has no effect on draem: leave it out"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=f"^{words}$"):
        DRAEM(**TINY | options).fit([good_image(0)])


def test_half_precision_leaves_the_loss_as_it_is() -> None:
    """SSIM subtracts squares that are nearly equal: in bfloat16 nothing would be left of them."""
    network = build(lambda: DRAEMNetwork(3, 0.02), 0).eval()
    generator = torch.Generator().manual_seed(0)
    pictures = 0.5 + 0.02 * torch.rand(1, 3, 64, 64, generator=generator)
    mask = torch.zeros(1, 1, 64, 64)
    network.both = lambda damaged: (damaged + 0.01, torch.zeros(1, 2, 64, 64))  # type: ignore[method-assign]
    expected = float(network.loss(pictures, pictures, mask))
    with torch.autocast("cpu", torch.bfloat16):
        assert float(network.loss(pictures, pictures, mask)) == pytest.approx(expected, rel=1e-5)
