"""The C++ example inspects as Python does, where a compiler is at hand."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import patchbank
from patchbank.edge import runtime
from patchbank.export import export
from tests.conftest import bad_image, good_image

openvino = pytest.importorskip("openvino")
SOURCE = Path(__file__).parents[2] / "examples" / "cpp" / "inspect.cpp"
HOME = Path(openvino.__path__[0])
SIZE = 64


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.skipif(not (HOME / "include").is_dir(), reason="this openvino has no headers")
def test_the_program_decides_as_python_does(tmp_path: Path) -> None:
    images = [good_image(i, (SIZE, SIZE)) for i in range(6)]
    model = patchbank.PatchCore(weights="random", image_size=SIZE, bank_size=50, threads=1).fit(images)
    folder = tmp_path / "export"
    export(model, folder, to="openvino", images=images[:2])
    exported = runtime.load(folder)
    (library,) = HOME.joinpath("libs").glob("libopenvino.so.*")
    program = tmp_path / "inspect"
    paths = [f"-I{HOME / 'include'}", str(library), f"-Wl,-rpath,{HOME / 'libs'}"]
    subprocess.run(["g++", "-std=c++17", "-Wall", "-Werror", str(SOURCE), "-o", str(program), *paths], check=True)
    for name, pixels in (("good", good_image(50, (SIZE, SIZE))), ("bad", bad_image(51, (SIZE, SIZE)))):
        picture = tmp_path / f"{name}.ppm"
        Image.fromarray(pixels).save(picture)
        expected = exported.predict(picture)
        threshold = str(expected.threshold)
        answer = subprocess.run([program, folder / "model.xml", threshold, picture], check=True, capture_output=True)
        _, decision, score, _, place = answer.stdout.decode().split()
        assert decision == ("rejected" if expected.is_anomalous else "accepted")
        assert float(score) == pytest.approx(expected.score, rel=1e-4)
        column, row = map(int, place.split(","))
        assert expected.map[row, column] == pytest.approx(np.nanmax(expected.map), rel=1e-4)
