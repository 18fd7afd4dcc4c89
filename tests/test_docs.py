"""The pages: their Python and their commands run as they stand there, on drawn parts; their tables are those of the
results."""

from __future__ import annotations

import base64
import json
import re
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from benchmarks.pages import compared
from benchmarks.pages.__main__ import outdated
from numpy.typing import NDArray
from tools.pages import docstrings
from tools.pages.notebooks import notebook_page

import patchbank
from patchbank.data.channels import READERS
from patchbank.data.datasets import open_dataset
from patchbank.demo.solid import draw_solid
from patchbank.evaluation.evaluate import evaluate
from patchbank.io.model_file import FORMAT_VERSION, read
from patchbank.registry import METHODS
from patchbank.shape import Shape, write_depth_png, write_pcd, write_ply, write_xyz
from tests.pages import DOCS, blocks, commands, lay_out, run

PAGES = (
    "guides/geometry.md",
    "guides/channels.md",
    "methods/btf.md",
    "methods/cpmf.md",
    "methods/m3dm.md",
    "methods/cfm.md",
)
PICTURES = (
    "../README.md",
    "start/first-model.md",
    "start/choosing.md",
    *(
        f"guides/{name}.md"
        for name in (
            "images", "camera", "thresholds", "regions", "large-images", "alignment", "audit", "banks", "teaching",
            "drift", "explanations", "embedding", "deploy-edge", "export", "synthetic-anomalies",
        )
    ),
    *(f"methods/{name}.md" for name in ("padim", "fapm", "lmf", "spade", "mahalanobis", "subspace")),
)  # fmt: skip
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
    run_blocks(page, {})


@pytest.fixture(scope="session")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    lay_out(folder)
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::patchbank.errors.PatchbankWarning")
@pytest.mark.parametrize("page", PICTURES)
def test_a_page_on_pictures_runs(page: str, laid_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(laid_out, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    frames = [cv2.imread(str(path)) for path in sorted(Path("today").iterdir())]
    model, other = patchbank.load("parts.patchbank"), patchbank.load("line-2.patchbank")
    run_blocks(page, {"frames": lambda: iter(frames), "model": model, "other": other})


def test_the_readme_fits_a_page_and_its_links_lead_somewhere() -> None:
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 110
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("http")]
    assert len(links) > 20
    for link in links:
        assert (DOCS.parent / link).exists(), link


@pytest.mark.filterwarnings("ignore::patchbank.errors.PatchbankWarning")
def test_the_worked_example_of_a_method_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    known = set(METHODS)
    try:
        run_blocks("contribute/method.md", {})
    finally:
        for name in set(METHODS) - known:
            del METHODS[name]


def run_blocks(page: str, names: dict[str, object]) -> None:
    """Commands and Python in the order of the page, for some of them need the files of others."""
    module = types.ModuleType("page")  # where dataclasses look for the names of their annotations
    vars(module).update(names)
    sys.modules["page"] = module
    try:
        for language, block in blocks(page):
            if language == "python":
                exec(compile(block, page, "exec"), vars(module))
            else:
                for arguments in commands(block):
                    run(arguments)
    finally:
        del sys.modules["page"]


def test_tables_are_those_of_the_results() -> None:
    """`make experiments` writes them anew."""
    assert [page.name for page in outdated()] == []


def test_each_written_down_table_is_shown() -> None:
    shown = "".join(page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md"))
    assert [name for name in compared.names_recorded() if f"<!-- results: {name} -->" not in shown] == []


def test_the_page_on_metrics_has_every_key(laid_out: Path) -> None:
    model = patchbank.load(laid_out / "parts.patchbank")
    metrics = evaluate(model, open_dataset(laid_out / "dataset"), pictures=False).metrics
    text = (DOCS / "reference" / "metrics.md").read_text(encoding="utf-8")
    assert [key for key in metrics if f"`{key}`" not in text] == []


def test_the_page_on_the_model_file_has_every_key(laid_out: Path) -> None:
    file = read(laid_out / "parts.patchbank")
    text = (DOCS / "reference" / "model-file.md").read_text(encoding="utf-8")
    assert [key for key in (*file.document, *file.tensors) if f"`{key}`" not in text] == []
    assert f"`format_version` (now {FORMAT_VERSION})" in text


def test_a_notebook_becomes_a_page(tmp_path: Path) -> None:
    picture = {"data": {"image/jpeg": base64.b64encode(b"jpeg").decode(), "text/plain": "<Figure>"}}
    printed = {"text": ["\x1b[31mred\x1b[0m\n", "line\n"]}
    code = {"cell_type": "code", "source": ["print(1)"], "outputs": [printed, picture]}
    cells = [{"cell_type": "markdown", "source": ["# Title"]}, code, {"cell_type": "code", "source": []}]
    (tmp_path / "one.ipynb").write_text(json.dumps({"cells": cells}))
    text, pictures = notebook_page(tmp_path / "one.ipynb")
    assert text.startswith("# Title\n\n```python\nprint(1)\n```\n\n``` {.text .output}\nred\nline\n```\n\n![")
    assert pictures == {"one-1-0.jpeg": b"jpeg"}
    assert "(one-1-0.jpeg)" in text
    assert "<Figure>" not in text


def test_the_reference_has_all_that_is_public() -> None:
    assert docstrings.not_documented(DOCS / "reference" / "api") == []
    assert docstrings.without_docstring(DOCS / "reference" / "api") == []


def test_what_has_no_docstring_is_found(tmp_path: Path) -> None:
    (tmp_path / "api.md").write_text("::: tests.test_docs.Bare\n\n::: tests.test_docs.run_blocks\n")
    assert docstrings.without_docstring(tmp_path) == ["tests.test_docs.Bare", "tests.test_docs.Bare.method"]
    assert "PatchCore" in docstrings.not_documented(tmp_path)


class Bare:
    def method(self) -> None: ...


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.relative_to(DOCS).as_posix())
def test_what_a_page_links_to_is_there(page: Path) -> None:
    """On a disk as on the site: pages that are made while the site is built are left out."""
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "/cli/" not in f"/{link}" and not link.endswith("http.md"):
            target = page.parent / link
            assert target.exists() or target.with_suffix(".ipynb").exists(), link
