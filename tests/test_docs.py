"""The Python and the commands in the pages on geometry run as they stand there, on drawn parts."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from patchbank.cli import app
from patchbank.data.channels import READERS
from patchbank.demo.solid import draw_solid
from patchbank.shape import Shape, write_depth_png, write_pcd, write_ply, write_xyz

DOCS = Path(__file__).parents[1] / "docs"
PAGES = (
    "guides/geometry.md",
    "guides/channels.md",
    "methods/btf.md",
    "methods/cpmf.md",
    "methods/m3dm.md",
    "methods/cfm.md",
)
TRAINED = ("simplenet", "fastflow", "cflow", "rd4ad", "localscale", "draem", "efficientad", "easynet", "hyads")
LINKING = (
    *PAGES,
    "guides/stations.md",
    "guides/service.md",
    "methods/training.md",
    "guides/synthetic-anomalies.md",
    *(f"methods/{name}.md" for name in TRAINED),
)
RUN = (*PAGES[:2], "methods/m3dm.md")  # the others say the same of another method
SIZE, PARTS = 96, 6


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The files that the pages speak of, in the folder that they are run in."""
    monkeypatch.chdir(tmp_path)
    drawn = [draw_solid("plate", None, np.random.default_rng(i), SIZE) for i in range(PARTS)]
    for folder in ("parts/rgb", "parts/xyz", "realsense/rgb", "realsense/depth", "gocator/rgb", "gocator/height"):
        Path(folder).mkdir(parents=True)
    for folder in ("keyence", "zivid", "csv", "clouds"):
        Path(folder).mkdir()
    for i, part in enumerate(drawn):
        for folder in ("parts/rgb", "realsense/rgb", "gocator/rgb", "zivid"):
            write_picture(Path(f"{folder}/{i:03d}.png"), part.rgb[..., ::-1])
        write_geometry(f"{i:03d}", part.shape)
    write_cameras(drawn[0].shape)
    yield
    READERS.pop("thermal", None)  # which a page registers


def write_geometry(name: str, shape: Shape) -> None:
    """One part as each of the cameras stores it."""
    write_xyz(Path(f"parts/xyz/{name}.tiff"), shape)
    write_depth_png(Path(f"realsense/depth/{name}.png"), shape, unit_mm=0.1)
    write_pcd(Path(f"zivid/{name}.pcd"), shape)
    write_ply(Path(f"clouds/{name}.ply"), shape)
    heights = shape.z[shape.valid].max() - shape.z
    write_picture(Path(f"gocator/height/{name}.tiff"), np.where(shape.valid, heights, np.float32(-9999)))
    counts = np.where(shape.valid, np.rint(heights / 0.01) + 1, 0).astype(np.uint16)
    write_picture(Path(f"keyence/{name}.png"), counts)
    np.savetxt(f"csv/{name}.csv", np.where(shape.valid, heights, -99999), delimiter=",", fmt="%.4f")


def write_cameras(shape: Shape) -> None:
    camera = {name: getattr(shape.camera, name) for name in ("fx", "fy", "cx", "cy")}
    Path("camera.json").write_text(json.dumps(camera))
    Path("pitch.json").write_text(json.dumps({"pitch": shape.pitch()}))


def write_picture(path: Path, pixels: NDArray[np.generic]) -> None:
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())


@pytest.mark.filterwarnings("ignore::patchbank.errors.PatchbankWarning")
@pytest.mark.parametrize("page", RUN)
@pytest.mark.usefixtures("parts")
def test_what_a_page_shows_runs(page: str) -> None:
    """Commands and Python in the order of the page, for some of them need the files of others."""
    text = (DOCS / page).read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for language, block in re.findall(r"^```(python|sh)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if language == "python":
            exec(compile(block, page, "exec"), names)
        else:
            for line in block.splitlines():
                run(line)


def run(line: str) -> None:
    program, *arguments = shlex.split(line, comments=True)
    assert program == "patchbank"
    result = CliRunner().invoke(app, [*arguments, "--threads", "1"])
    assert result.exit_code == 0, f"{line}\n{result.output}"


@pytest.mark.parametrize("page", LINKING)
def test_what_a_page_links_to_is_there(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (DOCS / page).parent.joinpath(link).exists(), link
