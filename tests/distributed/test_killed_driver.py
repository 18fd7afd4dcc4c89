"""The driver of a fit on a Ray cluster is killed with -9, stage by stage, and the fit goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import patchbank
from tests.distributed.test_fit import images_for, make, same

_DRIVER = """
import sys, time
from patchbank import PatchCore
from patchbank.distributed import cluster, connect
cluster._SAVE_EVERY = 0.0
address, good, output, workers, stage, enough = sys.argv[1:]

def waits_to_be_killed(now, done, total):
    if now == stage and done >= int(enough):
        print("reached", stage, flush=True)
        time.sleep(300)

with connect(address, int(workers), threads=1) as shared:
    model = PatchCore(image_size=64, threads=1, bank_size=100).fit(
        good, cluster=shared, checkpoints=output + ".training", resume=True, progress=waits_to_be_killed
    )
    print("rounds", shared.selections.traffic[0].rounds)
model.save(output)
"""


def driver(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _DRIVER, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_driver_that_is_killed_in_each_stage_goes_on(ray_cluster: Any, tmp_path: Path) -> None:
    good, output = tmp_path / "good", tmp_path / "parts.patchbank"
    good.mkdir()
    for number, image in enumerate(images_for("patchcore")):
        Image.fromarray(np.asarray(image)).save(good / f"{number}.png")
    alone = make("patchcore").fit(good)
    for stage, enough in (("features", 1), ("coreset", 40), ("calibration", 2)):
        with driver(ray_cluster.address, good, output, 2, stage, enough) as killed:
            assert killed.stdout is not None
            assert killed.stdout.readline() == f"reached {stage}\n"
            killed.kill()
        assert not output.exists()
    assert list(output.with_name("parts.patchbank.training").glob("*.safetensors"))
    last, _ = driver(ray_cluster.address, good, output, 3, "none", 0).communicate(timeout=120)  # with more workers
    assert last == "rounds 0\n"  # nothing is selected a second time
    same(alone, patchbank.load(output))
    assert not output.with_name("parts.patchbank.training").exists()
