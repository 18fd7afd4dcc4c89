"""A model of one part has no threshold: commands that decide say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from patchbank.cli.opening import say_if_undecided
from tests.conftest import good_image, small_model


def test_a_model_without_a_threshold_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = small_model().fit([good_image(0)])
    assert say_if_undecided(tmp_path / "one.patchbank", model)
    assert "has no threshold, so no part is rejected" in (said := capsys.readouterr().err)
    assert "or give --threshold" in said
    assert say_if_undecided(tmp_path / "one.patchbank", model, takes=False)
    assert "--threshold" not in capsys.readouterr().err
    assert not say_if_undecided(tmp_path / "one.patchbank", model, 3.0)
