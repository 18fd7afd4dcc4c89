"""Former names of options: constructors warn, files are read in silence, both names at once are refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

import patchbank
from patchbank import BTF, FAPM, SPADE, AnomalyDINO, PatchCore  # type: ignore[attr-defined]
from patchbank.cli.detectors import maker_for
from patchbank.errors import OptionError, PatchbankWarning
from patchbank.evaluation.finished import _of_today
from patchbank.loading import options_of_today
from patchbank.methods import METHODS
from tests.cli.running import patchbank as command

CASES = [
    (PatchCore, "balance", "balance_levels", False),
    (PatchCore, "thumbnails", "thumbnails_mb", 0.0),
    (AnomalyDINO, "balance", "balance_levels", True),
    (BTF, "balance", "balance_levels", True),
    (SPADE, "images_compared", "k", 3),
    (FAPM, "spread", "adaptive_threshold", 0.2),
    (FAPM, "spread_unit", "adaptive_threshold_unit", "neighbour"),
    (FAPM, "radius", "search_radius", 1),
]


@pytest.mark.parametrize(("kind", "old", "new", "value"), CASES)
def test_a_constructor_warns(kind: type[PatchCore], old: str, new: str, value: object) -> None:
    with pytest.warns(DeprecationWarning, match=f"the option {old} of {kind.__name__} is now {new}") as heard:
        model = kind(**{old: value})  # type: ignore[arg-type]
    assert heard[0].filename == __file__
    assert getattr(model, new) == value
    assert not hasattr(model, old)
    with (
        pytest.warns(DeprecationWarning, match=old),
        pytest.raises(OptionError, match=f"{old} is the former name of {new}"),
    ):
        kind(**{old: value, new: value})  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert getattr(kind(**{new: value}), new) == value  # type: ignore[arg-type]


def test_every_former_name_has_a_case() -> None:
    there = {(old, new) for kind in METHODS.values() for old, new in kind.former.items()}
    assert there == {(old, new) for _, old, new, _ in CASES}
    for kind in METHODS.values():
        assert set(kind.former.values()) <= set(kind.parameter_names())
        assert not set(kind.former) & set(kind.parameter_names())


def test_files_are_read_in_silence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert options_of_today("fapm", {"spread": 0.2, "radius": 1}) == {"adaptive_threshold": 0.2, "search_radius": 1}
        assert _of_today("patchcore", {"balance": False, "thumbnails": 0}) == {
            "balance_levels": False, "thumbnails_mb": 0
        }  # fmt: skip
        model = patchbank.load(Path(__file__).parents[1] / "model_files" / "format5.patchbank", threads=1)
    assert model.balance_levels is not None or model.option("balance_levels") is not None  # type: ignore[attr-defined]


def test_the_command_line_takes_them_too(parts: Path, tmp_path: Path) -> None:
    line = ["fit", parts, "-o", tmp_path / "m.patchbank", "--image-size", "64", "--bank-size", "20", "--threads", "1"]
    done = command(*line, "--set", "thumbnails=0")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "note: --set thumbnails is now --set thumbnails_mb; the old name works until 0.3\n"
    assert json.loads(command("info", tmp_path / "m.patchbank", "--json").stdout)["options"]["thumbnails_mb"] == 0


def test_a_grid_of_methods_takes_them_too() -> None:
    with pytest.warns(PatchbankWarning) as heard:
        make = maker_for(["patchcore", "padim"], {}, ["balance=false"])
    assert sorted(str(warning.message) for warning in heard) == [
        "--set balance is now --set balance_levels; the old name works until 0.3",
        "--set balance_levels: left out for padim, where it has no effect",
    ]
    assert make("patchcore", {}).option("balance_levels") is False
    make("padim", {})
