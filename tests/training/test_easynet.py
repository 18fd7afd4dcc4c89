"""EasyNet: its equations on picture and depth, which modality is let through, and what anomalies are drawn on."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from patchbank.demo.solid import draw_solid
from patchbank.errors import OptionError
from patchbank.features.store import FeatureStore
from patchbank.fitting import fresh_scorer
from patchbank.methods import EasyNet
from patchbank.methods.easynet import EasyNetTask, foreground
from patchbank.sample import Sample
from patchbank.training.modalities import EntropyGates, attention_entropy
from patchbank.training.network import build
from tests.conftest import good_image
from tests.training.literal import easynet as literal

pytestmark = pytest.mark.filterwarnings("ignore::patchbank.errors.PatchbankWarning")
SIZE, MODALITIES = 64, [("rgb",), ("relief",), ("relief", "rgb"), None]


@cache
def solids() -> list[dict[str, Any]]:
    """Drawn parts with a picture and points."""
    drawn = [draw_solid("plate", None, np.random.default_rng(i), SIZE) for i in range(3)]
    return [{"rgb": each.rgb, "xyz": np.where(each.shape.valid[..., None], each.shape.xyz(), 0)} for each in drawn]


def small(**options: Any) -> EasyNet:
    return EasyNet(**{"image_size": SIZE, "width": 0.03, "epochs": 1, "batch": 3, "threads": 1, **options})


@cache
def opened(channels: tuple[str, ...] | None = None) -> tuple[Any, FeatureStore]:
    """A fitted scorer, and the pixels that it was learned from. Do not change them."""
    model = small(channels=channels, calibration="held-out").fit(solids())
    assert model.inputs_.channels == channels or (channels is None and model.inputs_.channels == ("rgb", "relief"))
    samples: list[Sample] = model.gather(solids())
    features = model.extractor.collect(samples)
    return fresh_scorer(model, model.extractor).fit(features), features


def random_network(scorer: Any) -> nn.Module:
    """All of its weights and statistics are random."""
    network: nn.Module = build(scorer.make_network, 3)
    generator = torch.Generator().manual_seed(4)
    for name, value in network.state_dict().items():
        if name.endswith(("running_mean", "running_var", "1.weight", "bias")):
            value += 0.5 * torch.rand(value.shape, generator=generator)
    return network


@pytest.mark.parametrize("channels", MODALITIES)
def test_loss_and_scores_are_those_of_the_equations(channels: tuple[str, ...] | None) -> None:
    scorer, features = opened(channels)
    network = random_network(scorer)
    task: EasyNetTask = scorer.task(network, features)
    numbers = torch.tensor([0, 2])
    expected = literal.loss(task, numbers, 6)  # before batch norm learns from the batch
    network.train()
    assert float(task.loss(numbers, torch.Generator().manual_seed(6)).detach()) == pytest.approx(expected, rel=1e-4)
    network.eval()
    vectors, grid = features.of_image(1), features.refs[1].grid
    gates: Any = network.mark.gates  # type: ignore[union-attr]
    for limits in [[0.0, 2.0], [2.0, 0.0], [0.0, 0.0], [2.0, 2.0]] if gates else [[]]:
        if gates:
            gates.limits[:] = torch.tensor(limits)[:, None]
        with torch.no_grad():
            found = network(vectors[None], grid)[0].numpy()
        assert found == pytest.approx(literal.forward(network, vectors.numpy(), grid), rel=1e-4)


def test_the_entropy_of_attention() -> None:
    """1 where all places are alike, and 0 where one place is all that is seen."""
    alike, one = torch.ones(1, 4, 6, 8), torch.zeros(1, 4, 6, 8)
    one[0, :, 2, 3] = 100.0
    found = attention_entropy(torch.cat([alike, one]))
    assert found.numpy() == pytest.approx([1.0, 0.0], abs=1e-5)
    random = torch.rand(1, 4, 6, 8, generator=torch.Generator().manual_seed(0)) * 5
    assert float(attention_entropy(random)) == pytest.approx(literal.entropy(random[0].double().numpy()), rel=1e-5)


def test_a_modality_that_sees_nothing_is_closed() -> None:
    """Its attention rests on no place, where that of good parts did."""
    gates = build(lambda: EntropyGates(2, 1), 0)
    peaked = torch.zeros(1, 4, 6, 8)
    peaked[0, :, 2, 3] = 20.0
    entropy = attention_entropy(peaked)[0]
    gates.learn(torch.stack([entropy, entropy + 0.01])[:, None, None].expand(2, 2, 1))
    assert gates.limits[:, 0].numpy() == pytest.approx((1 + float(entropy) + 0.01) / 2, abs=1e-6)
    blank = torch.full((1, 4, 6, 8), 0.5)
    seen, closed = gates([[peaked], [blank]])
    assert torch.equal(seen[0], peaked)
    assert not closed[0].any()
    both = gates([[blank], [blank]])
    assert all(torch.equal(each[0], blank) for each in both)  # something must be looked at


def test_limits_are_learned_from_the_training_parts() -> None:
    scorer, features = opened()
    layers = literal.Layers(scorer.network, of_batch=False)
    found = []
    for i, ref in enumerate(features.refs):
        pixels = features.of_image(i).double().numpy().reshape(1, *ref.grid, -1).transpose(0, 3, 1, 2)
        parts = literal.parts_of(pixels, ("rgb", "relief")).values()
        read = [literal.rebuilding(layers, m, part)[0] for m, part in enumerate(parts)]
        heads = [[layers(f"mark.heads.{m}.{k}", each)[0] for k, each in enumerate(s)] for m, s in enumerate(read)]
        found.append([[literal.entropy(each) for each in scales] for scales in heads])
    expected = (1 + np.max(found, 0)) / 2
    assert scorer.network.mark.gates.limits.numpy() == pytest.approx(expected, abs=1e-5)


def test_anomalies_are_drawn_on_the_part() -> None:
    """The background is the plane at height 0, with its points known."""
    scorer, features = opened()
    task: EasyNetTask = scorer.task(scorer.network, features)
    good = task.items.pictures(torch.tensor([0, 1]))
    background = (good[:, 3] == 0) & (good[:, 4] == 1)
    assert 0.1 < float(background.float().mean()) < 0.9
    masks = torch.zeros(2, SIZE, SIZE)
    for seed in range(20):
        after, mask = task.damaged(good, None, torch.Generator().manual_seed(seed))
        masks += mask[:, 0]
        assert torch.equal(after[:, 3:][:, :, background[0]][0], good[:, 3:][:, :, background[0]][0])
    assert not masks[background].any()
    assert masks.any()


def test_a_picture_without_points_has_anomalies_everywhere() -> None:
    heights, known = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4, dtype=torch.bool)
    heights[0, 0, 1, 1] = 0.5
    found = foreground(heights, known, None)
    assert int(found[0].sum()) == 1
    assert found[1].all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"channels": ("rgb", "curvature")}, "easynet looks at the channels rgb, relief or both, not rgb,curvature"),
        ({"width": 0.0}, r"width must lie in \(0, 4\], not 0.0"),
        ({"fusion": "max"}, "fusion has no effect on easynet"),
        ({"backbone": "efficientnet_lite0"}, "easynet learns from the pictures themselves"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        small(**options).fit([good_image(0)])
