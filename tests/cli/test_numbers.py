"""Odd numbers are refused in one sentence, by every option of every command, before any work."""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from patchbank import PatchCore, cli, load
from patchbank.data import RegionOfInterest, read_roi
from patchbank.errors import OptionError
from patchbank.methods import METHODS
from tests.cli.running import patchbank

# how each command is called that has an option of numbers
CALLS = {
    "fit": "fit {good} -o {out}.patchbank",
    "plan": "plan --images 10 --workers 2",
    "predict": "predict {model} {good} -O {out}",
    "explain": "explain {model} {good} -O {out}",
    "evaluate": "evaluate {model} {parts} -O {out}",
    "calibrate": "calibrate {model} {test} --defects {bad} -o {out}.patchbank",
    "benchmark": "benchmark {parts} -O {out}",
    "demo": "demo -O {out}",
    "export": "export {model} -O {out}",
    "audit": "audit {good} -O {out}",
    "show_anomalies": "show-anomalies {good} -O {out}",
    "add": "add {model} {bad} -o {out}.patchbank",
    "merge": "merge {model} {model} -o {out}.patchbank",
    "serve": "serve {model} --history {out}.sqlite",
    "watch": "watch {model} {good} -o {out}.csv",
    "doctor": "doctor",
}
ODD = {float: ("nan", "inf", "-inf", "1e400"), int: ("-1", "nan", "1e3", "2.5", str(10**30))}
# numbers inside of texts
TEXTS = [
    "fit --memory-budget nan", "fit --memory-budget -1GB", "fit --memory-budget 1e400", "fit --memory-budget 0",
    "fit --coreset-ratio nan", "fit --coreset-ratio inf", "fit --coreset-ratio -0.1", "fit --coreset-ratio 0",
    "fit --coreset-ratio 1.5", "fit --levels 1e3", "fit --max-seconds 0", "fit --max-seconds nan",
    "fit --levels nan", "fit --image-size 0", "fit --image-size 1000000000", "fit --bank-memory 0",
    "fit --bank-memory -1MB", "fit --bank-memory 1e308GB", "fit --bank-memory 6", "fit --bank-size 0",
    "fit --false-alarm-rate 0", "fit --false-alarm-rate 1",
    "fit --false-alarm-rate 5e-324", "fit --threads 0", "fit --threads 1000000000", "fit --tile 0", "fit --tile 1",
    "fit --shots 0", "fit --seed 4294967296", "fit --set sigma=nan", "fit --set sigma=-1",
    "fit --set thumbnails_mb=inf",
    "fit --set coreset_radius=nan", "fit --set coreset_radius=1e308", "fit --set stride=0", "fit --set patch_size=999",
    "fit --set neighbours=-1", "fit --set seed=-1", "fit --set threads=0", "fit --set image_size=-5",
    "fit --method subspace --set variance=nan", "fit --method lmf --set channel_share=nan",
    "fit --method lmf --set projection=1000000", "fit --method fapm --set adaptive_threshold=nan",
    "fit --method fapm --set level_weights=nan,1", "fit --method fapm --set level_weights=-1,1",
    "fit --method spade --set k=0", "fit --method padim --set n_features=0",
    "predict --false-discovery-rate 2", "predict --false-alarm-rate -1",
    "explain --at nan,3", "explain --at 1e3,3", "explain --at -1,3", "explain --at 3", "explain --count 0",
    "evaluate --pixel-memory nan", "evaluate --pixel-memory -1", "calibrate --cost-ratio 0",
    "calibrate --cost-ratio -3",
    "benchmark --seeds -1", "benchmark --seeds 0,nan", "benchmark --seeds 4294967296", "benchmark --cache nan",
    "benchmark --cache -1GB", "benchmark --jobs 0", "benchmark --subsample 0", "export --input-size 0x0",
    "export --input-size -1x64",
    "export --input-size nanx64", "export --input-size 1e3x64", "export --input-size 64", "serve --keep-images nan",
    "serve --max-upload -1", "serve --max-pixels 0", "serve --max-pixels 1e300MP",
    "serve --max-pixels 2XP", "plan --network-rate 0", "plan --network-rate nanMB",
    "plan --round-trip -1", "plan --round-trip 1e300", "serve --time-limit 0",
    "serve --time-limit 1e300", "serve --port -1", "serve --port 65536", "serve --batch-delay -1",
    "serve --batch-delay 1e300", "watch --interval 0", "watch --interval 1e300",
]  # fmt: skip


def numbers() -> Iterator[tuple[str, str, str]]:
    """(command, option, value) for all options of numbers that there are."""
    for command in cli.COMMANDS:
        for name, hint in typing.get_type_hints(command).items():
            kinds = set(typing.get_args(hint)) or {hint}
            for kind in kinds & {int, float} if bool not in kinds else ():
                option = f"--{name.replace('_', '-')}"
                for value in ODD[kind]:
                    yield command.__name__, option, value


@pytest.fixture(scope="module")
def places(parts: Path, model_file: Path) -> dict[str, Path]:
    good = parts / "train" / "good"
    return {
        "good": good, "parts": parts, "test": parts / "test" / "good", "bad": parts / "test" / "spot",
        "model": model_file,
    }  # fmt: skip


def test_every_command_with_numbers_is_here() -> None:
    assert {command for command, _, _ in numbers()} <= set(CALLS)
    assert len(list(numbers())) > 150


def refused(call: str, options: list[str], places: dict[str, Path], tmp_path: Path) -> str:
    out = tmp_path / "out"
    done = patchbank(*call.format(**places, out=out).split(), *options)
    assert done.returncode == 2, done.stdout
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert list(tmp_path.iterdir()) == []
    return done.stderr


@pytest.mark.parametrize("command", sorted({command for command, _, _ in numbers()}))
def test_odd_numbers(command: str, places: dict[str, Path], tmp_path: Path) -> None:
    for _, option, value in (found for found in numbers() if found[0] == command):
        error = refused(CALLS[command], [f"{option}={value}"], places, tmp_path)
        assert option in error, (option, value)


@pytest.mark.parametrize("text", TEXTS)
def test_odd_numbers_in_texts(text: str, places: dict[str, Path], tmp_path: Path) -> None:
    command, *options = text.split()
    defects = CALLS[command]
    given = [f"{options[0]}={options[1]}", *options[2:]]
    assert refused(defects, given, places, tmp_path).startswith("patchbank: ")


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**30, "1"])
def test_odd_options_of_detectors(method: str, value: object) -> None:
    hints = typing.get_type_hints(METHODS[method])
    tried = 0
    for name in METHODS[method].parameter_names():
        kinds = set(typing.get_args(hints[name])) or {hints[name]}
        if kinds <= {int, float, type(None)}:
            tried += 1
            if value == 10**30 and int not in kinds:
                continue
            with pytest.raises(OptionError, match=name):
                METHODS[method](weights="random", **{name: value}).fit(np.zeros((64, 64, 3), np.uint8))
    assert tried > 8


@pytest.mark.parametrize("name", ["bank_size", "threads", "seed", "sigma", "image_size"])
def test_true_is_no_number(name: str) -> None:
    with pytest.raises(OptionError, match=f"{name} must be a .* number.* not True"):
        PatchCore(weights="random", **{name: True}).fit(np.zeros((64, 64, 3), np.uint8))


def test_numbers_of_numpy_are_numbers() -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    options = {"seed": np.int64(3), "bank_size": np.int32(5), "sigma": np.float32(2), "balance_levels": np.bool_(True)}
    assert len(PatchCore(weights="random", **options).fit(image).bank_) == 5


def calls(model: PatchCore, image: Path) -> dict[str, Callable[[], object]]:
    prediction = model.predict(image)
    return {
        "at_threshold": lambda: prediction.at_threshold(math.nan),
        "at_threshold(True)": lambda: prediction.at_threshold(True),
        "at_rate": lambda: model.calibration_.at_rate(math.nan),
        "batch_threshold": lambda: model.calibration_.batch_threshold([1.0], math.nan),
        "cost": lambda: model.calibration_.choose([100.0], math.nan),
        "cost inf": lambda: model.calibration_.choose([100.0], math.inf),
        "explain nan": lambda: model.explain(image, at=(math.nan, math.nan)),  # type: ignore[arg-type]
        "explain half": lambda: model.explain(image, at=(1.5, 2)),  # type: ignore[arg-type]
        "explain one": lambda: model.explain(image, at=(3,)),  # type: ignore[arg-type]
        "explain outside": lambda: model.explain(image, at=(-1, 2)),
        "count 0": lambda: model.explain(image, count=0),
        "count nan": lambda: model.explain(image, count=math.nan),  # type: ignore[arg-type]
        "polygon": lambda: model.restrict(RegionOfInterest((((0, 0), (5, math.nan), (5, 5)),))),
        "polygon far": lambda: model.restrict(RegionOfInterest((((0, 0), (1e308, 0), (5, 5)),))),
        "polygon of two": lambda: model.restrict(RegionOfInterest((((0, 0), (5, 5)),))),
        "size": lambda: RegionOfInterest(size=(0, 5)),
    }  # fmt: skip


def test_odd_numbers_in_the_api(fitted: PatchCore, model_file: Path, parts: Path) -> None:
    image = parts / "test" / "good" / "000.png"
    for name, call in calls(fitted, image).items():
        with pytest.raises(OptionError):
            pytest.fail(f"{name}: {call()}")
    for count in (-1, 0, 10**9, math.nan, True):
        with pytest.raises(OptionError, match="threads must be"):
            load(model_file, threads=count)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a pixel column and row"):
        fitted.predict(image).nearest(math.nan, 3)  # type: ignore[arg-type]
    assert fitted.predict(image).at_threshold(math.inf).is_anomalous is False  # a batch of which none is rejected


@pytest.mark.parametrize(
    "document",
    [
        {"include": [[[0, 0], [math.nan, 5], [5, 5]]]},
        {"include": [[[0, 0], [math.inf, 5], [5, 5]]]},
        {"ignore": [[[0, 0], [1e308, 5], [5, 5]]]},
        {"include": [[[0, 0], [5, 5]]]},
        {"include": [[[0, 0], ["5", 5], [5, 5]]]},
        {"include": [[[0, 0], [True, 5], [5, 5]]]},
        {"include": [[[0, 0], [5, 0], [5, 5]]], "size": [0, 5]},
        {"include": [[[0, 0], [5, 0], [5, 5]]], "size": [-4, 5]},
        {"include": [[[0, 0], [5, 0], [5, 5]]], "size": [math.nan, 5]},
        {"include": [[[0, 0], [5, 0], [5, 5]]], "size": [2.5, 5]},
    ],
)
def test_odd_numbers_in_regions(document: object, tmp_path: Path) -> None:
    (tmp_path / "roi.json").write_text(json.dumps(document))
    with pytest.raises(OptionError, match=r"roi\.json: "):
        read_roi(tmp_path / "roi.json")
