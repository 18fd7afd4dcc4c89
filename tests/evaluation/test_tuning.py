"""Options chosen from good images alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from patchbank import PatchCore, create
from patchbank.data import gather
from patchbank.errors import OptionError
from patchbank.evaluation import tuning
from patchbank.evaluation.tuning import Choice, tune
from patchbank.training.anomalies import Anomalies
from tests.conftest import good_image

LABELS = np.arange(60) >= 20


def choice(size: int, quality: float, seed: int = 0) -> Choice:
    """Held-out good images score around 0, their damaged copies around `quality`."""
    rng = np.random.default_rng(seed)
    scores = np.r_[rng.standard_normal(20), quality + rng.standard_normal(40)]
    from patchbank.metrics.image import auroc

    return Choice(size, 8.0, True, float(auroc(LABELS, scores)), scores)


def test_what_is_clearly_better_is_chosen() -> None:
    found = tuning._decided([choice(512, 0.5), choice(768, 3.0)], 20)
    assert found.options == {"image_size": 768}
    assert found.reason.startswith("image_size 768, sigma 8, with position scale: image AUROC ")
    assert "20 held-out good images and 40 copies with drawn defects" in found.reason


def test_the_default_stays_where_the_choice_is_not_clear() -> None:
    for other in (choice(768, 1.0), choice(768, 1.05), choice(768, 0.2)):
        found = tuning._decided([choice(512, 1.0), other], 20)
        assert found.options == {}
        assert found.reason.startswith("the defaults stay (image_size 512, sigma 8, with position scale)")


def test_tuning_on_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One choice of each kind, without a look at any label; twice the same."""
    monkeypatch.setattr(tuning, "SIZES", (64, 96))
    monkeypatch.setattr(tuning, "SIGMAS", (2.0, 6.0))
    tried: list[dict[str, Any]] = []

    def make(**changed: Any) -> PatchCore:
        tried.append(changed)
        usual = {"image_size": 64, "bank_size": 100, "threads": 1, "runtime": "torch"}
        return PatchCore(**(usual | changed))

    images = gather([good_image(i, (96, 96)) for i in range(42)])
    found = tune(make, images)
    assert {(c.image_size, c.sigma, c.position_scale) for c in found.choices} == {
        (size, sigma, scaled) for size in (64, 96) for sigma in (2.0, 6.0) for scaled in (True, False)
    } | {(64, 8.0, True)}
    assert found.choices[0].options == {"image_size": 64, "sigma": 8.0, "position_scale": True}
    assert [t.get("image_size") for t in tried] == [None, 64, 96]
    assert all(c.auroc > 0.5 for c in found.choices)
    assert tune(make, images).reason == found.reason


def test_drawn_defects_are_small_and_faint() -> None:
    """Each is a part of one that trained methods learn from: in a square of it, and at a part of its contrast."""
    whole = np.random.default_rng(0).uniform(0.3, 0.7, (120, 160, 3)).astype(np.float32)
    before = whole.copy()
    anomalies, sides, contrasts = Anomalies(), list[int](), list[float]()
    for seed in range(60):
        plain, mask = anomalies.damaged(whole, np.random.default_rng(seed))
        found = tuning._damaged(whole, anomalies, np.random.default_rng(seed))
        changed = (found != whole).any(2)
        assert changed.any()
        assert not (changed & ~mask).any()
        rows, columns = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
        sides.append(1 + max(int(np.ptp(rows)), int(np.ptp(columns))))
        full = (plain - whole)[changed]
        contrasts.append(float(((found - whole)[changed] * full).sum() / (full * full).sum()))
    assert (whole == before).all()
    assert min(sides) <= 10
    assert np.median(sides) < 60
    assert 0.1 <= min(contrasts) < 0.2
    assert 0.8 < max(contrasts) <= 1.001
    assert 0.2 < np.median(contrasts) < 0.5


def test_what_cannot_be_tuned() -> None:
    images = gather([good_image(i, (64, 64)) for i in range(10)])
    with pytest.raises(OptionError, match="at least 16 good images that can be read, not 10"):
        tune(lambda **o: PatchCore(**o), images)
    with pytest.raises(OptionError, match="the peak of a map: leave it out for mahalanobis"):
        tune(lambda **o: create("mahalanobis", **o), images)
    with pytest.raises(OptionError, match="for whole pictures"):
        tune(lambda **o: PatchCore(tile=256, **o), images)
