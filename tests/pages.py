"""What a reader of the pages would have at hand: pictures in the folders that the pages name, and models of them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from typer.testing import CliRunner

import patchbank
from patchbank.cli import app
from patchbank.demo.synthetic import write_dataset

DOCS = Path(__file__).parents[1] / "docs"
SMALL = (96, 72)  # width and height
_BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_ENDLESS = {"serve", "watch", "demo"}  # demo takes minutes


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each block of Python or commands, in the order of the page."""
    return _BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))


def commands(block: str) -> Iterator[list[str]]:
    """The arguments of each call of patchbank that ends by itself; other programs are left out."""
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "patchbank" and words[1] not in _ENDLESS:
            yield words[1:]


def run(arguments: list[str]) -> None:
    """A command, as it stands on a page."""
    takes_threads = "--threads" in CliRunner().invoke(app, [arguments[0], "--help"], env={"COLUMNS": "200"}).output
    result = CliRunner().invoke(app, [*arguments, *(["--threads", "1"] if takes_threads else [])])
    assert result.exit_code == 0, f"patchbank {shlex.join(arguments)}\n{result.output}"


def lay_out(folder: Path) -> None:
    """The folders and files of the pages on pictures."""
    drawn = write_dataset(folder / "drawn", "gear", seed=0, n_train=42, n_test_good=4, n_per_defect=2)
    for path in drawn.rglob("*.png"):
        small = cv2.resize(cv2.imread(str(path)), SMALL, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(path), small)
    shutil.copytree(drawn, folder / "dataset")
    shutil.copytree(drawn, folder / "demo" / "gear" / "gear-seed0")
    good = sorted((drawn / "train" / "good").glob("*.png"))
    (folder / "parts").mkdir()
    test = drawn / "test"
    for name, paths in {
        "parts/good": good[:20],
        "parts/new-good": good[20:30],
        "parts/today": sorted(test.rglob("*.png"))[:4],
        "parts/test": sorted((test / "good").glob("*.png")),
        "parts/more-good": good[20:30],
        "more-good": good[20:30],
        "my-textures": sorted((test / "dent").glob("*.png")),
        "new-good": good[30:33],
        "alarms": good[16:19],
        "today": sorted((test / "good").glob("*.png")),
        "defects": sorted((test / "dent").glob("*.png")),
    }.items():
        (folder / name).mkdir()
        for path in paths:
            shutil.copy(path, folder / name / path.name)
    for path in (folder / "alarms").iterdir():  # not those that were learned from
        picture = cv2.imread(str(path))
        cv2.imwrite(str(path), np.clip(picture.astype(int) + 6, 0, 255).astype(np.uint8))
    shutil.copy(drawn / "test" / "scratch" / "000.png", folder / "part.png")
    mask = np.full(SMALL[::-1], 255, np.uint8)
    mask[:6] = 0
    cv2.imwrite(str(folder / "mask.png"), mask)
    square = [[[8, 6], [88, 6], [88, 66], [8, 66]]]
    (folder / "roi.json").write_text(json.dumps({"include": square, "ignore": [], "size": list(SMALL[::-1])}))
    learn(folder)


def learn(folder: Path) -> None:
    """The models that the pages begin with."""
    for name, images in (("parts", "parts/good"), ("line-1", "parts/good"), ("line-2", "parts/new-good")):
        model = patchbank.PatchCore(threads=1, image_size=96, enlarge=False).fit(str(folder / images))
        model.save(folder / f"{name}.patchbank")
