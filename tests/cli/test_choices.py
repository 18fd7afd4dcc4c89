"""The values that options list are those of the library; completion and errors list them too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer.main

from patchbank.cli import app, choices, command
from patchbank.cli.fit import fit
from tests.cli.running import patchbank

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_the_lists_are_those_of_the_library() -> None:
    from patchbank import options
    from patchbank.data.datasets import LAYOUTS
    from patchbank.evaluation.presets import PRESETS
    from patchbank.export import FORMATS
    from patchbank.export.folder import BANKS
    from patchbank.features.backbones import engines, list_backbones
    from patchbank.methods import METHODS, list_methods
    from patchbank.shape import format as depths
    from patchbank.shape.features import SHAPE_FEATURES
    from patchbank.shape.images import SHAPE_IMAGES
    from patchbank.training.anomalies import DEPTH_KINDS, PICTURE_KINDS

    ours = {name for name, kind in METHODS.items() if kind.__module__.startswith("patchbank.")}  # tests register toys
    assert set(choices.METHODS) == ours
    presets = {name for name in list_methods("*.*") if name.partition(".")[0] in ours}
    assert set(choices.PRESET_METHODS) == presets
    assert set(choices.BACKBONES) == {spec.name for spec in list_backbones()}
    assert tuple(preset.name for preset in PRESETS) == choices.PRESETS
    assert set(choices.CHANNELS) == {"rgb", *SHAPE_IMAGES, *SHAPE_FEATURES}
    assert (*PICTURE_KINDS, *DEPTH_KINDS) == choices.ANOMALIES
    assert tuple(options.BY_GEOMETRY) == choices.GEOMETRIES
    assert choices.FUSIONS == options.FUSIONS
    assert choices.DEPTH_AXES == depths.AXES
    assert tuple(depths.UNITS) == choices.DEPTH_UNITS
    assert ("auto", *LAYOUTS) == choices.LAYOUTS
    assert choices.ENGINES == engines.RUNTIMES
    assert choices.FORMATS == FORMATS
    assert choices.BANKS == BANKS


ENUMERATIONS = {
    "--layout": choices.LAYOUTS, "--device": choices.DEVICES, "--engine": choices.ENGINES, "--bank": choices.BANKS,
    "--geometry": choices.GEOMETRIES, "--fusion": choices.FUSIONS, "--quality": choices.QUALITIES,
    "--format": choices.FORMATS, "--depth-axis": choices.DEPTH_AXES,
}  # fmt: skip


@pytest.mark.parametrize("option", ENUMERATIONS)
def test_a_value_that_is_none_lists_those_that_are(option: str) -> None:
    """In each command that has the option."""
    values, tried = ENUMERATIONS[option], 0
    for name, found in COMMANDS.items():
        if option in {spelling for parameter in found.params for spelling in getattr(parameter, "opts", ())}:
            tried += 1
            done = patchbank(name, option, "magic")
            assert done.returncode == 2
            assert done.stderr == f"patchbank: {option} must be one of {', '.join(values)}, not 'magic'\n", name
            assert "|".join(values) in " ".join(str(getattr(p, "metavar", "")) for p in found.params)
    assert tried


def test_every_command_that_runs_a_network_takes_device_and_threads() -> None:
    networks = (
        "fit", "plan", "predict", "explain", "evaluate", "calibrate", "benchmark", "demo", "export", "audit", "add",
        "serve", "watch", "doctor",
    )  # fmt: skip
    for name in networks:
        options = {spelling for parameter in COMMANDS[name].params for spelling in getattr(parameter, "opts", ())}
        assert {"--device", "--threads"} <= options, name


def complete(words: Sequence[str], shell: str = "bash") -> list[str]:
    """What the shell is told, by a process of its own that must not load torch."""
    code = (
        "import sys; sys.argv = ['patchbank']\nfrom patchbank import cli\ntry: cli.main()\n"
        "finally: print(sorted({'torch', 'numpy', 'numba', 'cv2'} & set(sys.modules)), file=sys.stderr)"
    )
    environment = {
        **os.environ, "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1),
        "_PATCHBANK_COMPLETE": f"complete_{shell}",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert done.stderr.strip().endswith("[]"), done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["patchbank", "calib"], ["calibrate"]),
        (["patchbank", "fit", "--coreset"], ["--coreset-ratio"]),
        (["patchbank", "fit", "--layout", "mv"], ["mvtec", "mvtec3d"]),
        (["patchbank", "fit", "--method", "pad"], ["padim"]),
        (["patchbank", "fit", "--backbone", "efficient"], [f"efficientnet_lite{n}" for n in range(3)]),
        (["patchbank", "benchmark", "--methods", "padim,spa"], ["padim,spade"]),
        (["patchbank", "export", "--format", "o"], ["onnx", "openvino"]),
        (["patchbank", "watch", "--eve"], []),  # an old spelling
    ],
)
def test_completion(words: list[str], expected: list[str]) -> None:
    assert complete(words) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_the_script_of_a_shell(shell: str) -> None:
    done = patchbank("--show-completion", shell)
    assert done.returncode == 0
    assert "_PATCHBANK_COMPLETE" in done.stdout
    assert f"complete_{shell}" in done.stdout


def test_a_shell_that_is_none() -> None:
    assert "--show-completion must be one of bash, zsh" in patchbank("--show-completion", "tcsh").stderr


def test_types_of_parameters() -> None:
    kinds = command.as_command(fit).kinds  # type: ignore[attr-defined]
    assert kinds["good"] == (Path, False)
    assert kinds["assignments"] == (str, True)
    assert kinds["coreset_ratio"] == (float, False)
    assert kinds["tune"] == (bool, False)
