"""`patchbank fit` of a method that learns weights, killed and gone on with, as a user sees it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

import patchbank
from tests.cli.running import patchbank as run
from tests.conftest import good_image

# many checkpoints, and slow steps, so that the process can be killed in the midst of them
SLOW = """
import time
from patchbank import cli
from patchbank.training import loop

def slow(self, loss, done, total):
    time.sleep(0.05)

loop._EVERY, loop.Session.tell = 0.2, slow
cli.main()
"""
OPTIONS = ("--method", "simplenet", "--image-size", "64", "--threads", "1", "--set", "epochs=12", "--set", "batch=64")


def weights(path: Path) -> dict[str, torch.Tensor]:
    tensors, _ = patchbank.load(path, threads=1).memory_state()
    return tensors


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    for i in range(2):
        Image.fromarray(good_image(i)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def undisturbed(images: Path) -> dict[str, torch.Tensor]:
    output = images.parent / "undisturbed.patchbank"
    assert run("fit", images, "-o", output, *OPTIONS).returncode == 0
    return weights(output)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of a POSIX system")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_fit_that_was_ended_goes_on_to_the_same_weights(
    how: signal.Signals, images: Path, undisturbed: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    output = tmp_path / "m.patchbank"
    command = ("fit", str(images), "-o", str(output), *OPTIONS)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *command], stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whatever started the tests has set
    )  # fmt: skip
    kept = tmp_path / "m.patchbank.training"
    started = time.monotonic()
    while not any(kept.glob("[0-9a-f]*.safetensors")) and time.monotonic() - started < 60:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 130)
    assert not output.exists()
    assert any(kept.glob("*.safetensors"))
    if how == signal.SIGINT:
        assert f"the training so far is kept in {kept}: the same command with --resume goes on" in said
    again = run(*command, "--resume")
    assert again.returncode == 0, again.stderr
    assert "all was learned anew" not in again.stderr
    assert "MB learned in 12 epochs, loss " in again.stdout
    assert not kept.exists()
    found = weights(output)
    assert undisturbed.keys() == found.keys()
    assert all(torch.equal(undisturbed[name], found[name]) for name in found)


def test_a_fit_of_a_given_time_says_so(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.patchbank"
    done = run("fit", images, "-o", output, *OPTIONS, "--max-seconds", "0.001")
    assert done.returncode == 0, done.stderr
    assert "in 0 epochs, loss " in done.stdout
    assert "ended by max_minutes" in done.stdout
    assert "ended by max_minutes" in run("info", output).stdout
    done = run("fit", images, "-o", output, "--method", "patchcore", "--max-seconds", "60")
    assert done.returncode == 2
    assert "--max-seconds: patchcore has no such option" in done.stderr
    done = run("fit", images, "-o", output, *OPTIONS, "--max-seconds", "0")
    assert "--max-seconds" in done.stderr
