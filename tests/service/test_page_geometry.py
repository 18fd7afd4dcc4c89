"""The page in Chromium with parts of picture and geometry, end to end."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from patchbank.service.config import Config
from tests.service.solid import SIZE, fit, part, write
from tests.service.test_page import CHROMIUM, Page, expect, is_problem, running, sync_api

Open = Callable[[str], Page]


class Place:
    """Where the service answers, and a folder for files."""

    def __init__(self, url: str, folder: Path):
        self.url, self.folder = url, folder

    def write(self, where: str, name: str, *, bad: bool = False, seed: int = 60) -> tuple[Path, Path]:
        picture = write(self.folder / where, name, part(seed, bad=bad))
        return picture, picture.parent.parent / "xyz" / f"{name}.tiff"

    def send(self, *, bad: bool, seed: int = 60) -> dict[str, Any]:
        files = [(channel, (f"line.{channel}", data)) for channel, data in part(seed, bad=bad).items()]
        answer = httpx.post(f"{self.url}/v1/models/parts/inspect?threshold=-10", files=files, timeout=60)
        result: dict[str, Any] = answer.json()["results"][0]
        return result


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("page")
    fit(folder / "root/plates").save(folder / "parts.patchbank")
    config = Config(
        models=(folder / "parts.patchbank",), weights="random", threads=1, history=folder / "history.sqlite",
        fit_root=folder / "root",
    )  # fmt: skip
    with running(config) as url:
        yield Place(url, folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any, service: Place) -> Iterator[Open]:
    """Opens an address of the page in a new tab; at the end nothing may have gone wrong in it."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    context.set_default_timeout(15_000)
    problems: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: problems.append(message.text) if is_problem(message) else None)
    page.on("pageerror", lambda error: problems.append(str(error)))

    def open_(address: str) -> Page:
        page.goto(f"{service.url}/{address}")
        expect(page.locator("#model option")).to_have_count(1)  # it knows what the model looks at
        return page

    yield open_
    context.close()
    assert problems == []


def test_a_picture_and_its_geometry_are_sent_together(opened: Open, service: Place) -> None:
    page = opened("")
    a, b = service.write("chosen", "a"), service.write("chosen", "b", seed=61)
    chooser = page.get_by_label("Inspect images …")
    chooser.set_input_files([a[0], b[0], b[1], a[1]])
    panel = page.locator("#uploads")
    expect(panel).to_contain_text("2 images inspected")
    expect(page.locator(".row")).to_have_count(2)
    chooser.set_input_files([a[0], b[1]])  # one of each, whatever they are called
    expect(page.locator(".row")).to_have_count(3)
    chooser.set_input_files([a[0]])
    expect(panel).to_contain_text("a.png has no picture or geometry beside it: choose or drop both files together")
    expect(page.locator(".row")).to_have_count(3)
    cloud = service.folder / "c.ply"
    cloud.write_bytes(b"ply")
    chooser.set_input_files([cloud])
    expect(panel).to_contain_text("c.ply has no picture beside it")


def test_a_folder_is_paired_and_its_masks_left_out(opened: Open, service: Place) -> None:
    page = opened("")
    for number in range(2):
        service.write("lot", f"{number}", seed=62 + number)
    (service.folder / "lot/gt").mkdir()
    (service.folder / "lot/gt/0.png").write_bytes(part(62)["rgb"])
    before = len(httpx.get(f"{service.url}/v1/history").json()["items"])
    page.get_by_label("Inspect a folder …").set_input_files(service.folder / "lot")
    expect(page.locator("#uploads")).to_contain_text("2 images inspected")
    expect(page.locator("#uploads")).to_contain_text("1 file without an image's ending left out")
    expect(page.locator(".row")).to_have_count(before + 2)


def test_files_of_one_stem_are_dropped_together(opened: Open, service: Place) -> None:
    page = opened("")
    files = part(64)
    given = [["007.jpg", list(files["rgb"])], ["007.tiff", list(files["xyz"])]]
    given += [["008.png", list(files["rgb"])], ["008_depth.tiff", list(files["xyz"])]]
    transfer = page.evaluate_handle(
        """files => {
            const transfer = new DataTransfer();
            for (const [name, content] of files) transfer.items.add(new File([new Uint8Array(content)], name));
            return transfer;
        }""",
        given,
    )
    page.dispatch_event("main", "drop", {"dataTransfer": transfer})
    expect(page.locator("#uploads")).to_contain_text("2 images inspected")
    names = [item["name"] for item in httpx.get(f"{service.url}/v1/history").json()["items"][:2]]
    assert sorted(names) == ["007.jpg", "008.png"]


def test_picture_height_and_map_side_by_side(opened: Open, service: Place) -> None:
    result = service.send(bad=True)
    page = opened(f"#/image/{result['id']}")
    panes = page.locator("figure:visible")
    expect(panes).to_have_count(3)
    for image in page.locator("figure:visible img.base").all():
        expect(image).to_have_js_property("naturalWidth", SIZE)
    page.locator("#opacity").fill("40")
    expect(page.locator("[data-pane=picture] .heat")).to_have_css("opacity", "0")
    expect(page.locator("[data-pane=map] .heat")).to_have_css("opacity", "0.4")
    page.get_by_role("button", name="Height", exact=True).click()
    expect(panes).to_have_count(1)
    expect(page.locator("[data-pane=height] .heat")).to_have_css("opacity", "0.4")
    page.keyboard.press("v")
    expect(panes).to_have_count(3)
    page.keyboard.press("+")  # all move together
    moves = page.locator("figure img.base").evaluate_all("images => images.map(image => image.style.transform)")
    assert len(set(moves)) == 1
    assert "scale(1.5)" in moves[0]
    page.reload()
    expect(page.get_by_role("button", name="Side by side")).to_have_attribute("aria-pressed", "true")


def test_the_channels_and_the_height_under_the_pointer(opened: Open, service: Place) -> None:
    good, bad = service.send(bad=False), service.send(bad=True)
    grids = [httpx.get(f"{service.url}/v1/history/{result['id']}/heights").json() for result in (good, bad)]
    numbers = [np.frombuffer(base64.b64decode(grid["data"]), "<u2").reshape(SIZE, SIZE) for grid in grids]
    middle = np.s_[SIZE // 2 - 5 : SIZE // 2 + 5]
    there = np.argwhere((numbers[0] > 0)[middle, middle] & (numbers[1] > 0)[middle, middle])[0] + SIZE // 2 - 5
    row, column = (int(place) for place in there)
    heights = []
    for result in (good, bad):
        page = opened(f"#/image/{result['id']}")
        section = page.locator(".channels")
        expect(section).to_contain_text(re.compile(r"raised the alarm\. Strangest is .*: [\d.]+ standard deviations"))
        assert section.locator("dt").all_inner_texts() == sorted(
            result["channels"], key=lambda name: -result["channels"][name]
        )
        stage = page.locator("[data-pane=picture] .stage")
        box = stage.bounding_box()
        stage.hover(position={
            "x": (column + 0.5) * box["width"] / SIZE, "y": (row + 0.5) * box["height"] / SIZE
        })  # fmt: skip
        readout = page.locator(".readout")
        expect(readout).to_have_text(re.compile(rf"Column {column}, row {row}: -?[\d.]+ mm above the background"))
        heights.append(float(re.search(r"(-?[\d.]+) mm", readout.inner_text())[1]))  # type: ignore[index]
        expect(page.locator("[data-pane=map] .mark")).to_be_visible()
        expect(page.locator("[data-pane=picture] .mark")).to_be_hidden()
    assert heights[1] - heights[0] > 10  # the hill
    page.locator("h1").hover()
    expect(page.locator("[data-pane=map] .mark")).to_be_hidden()


def test_a_model_is_fitted_from_a_folder_with_geometry(opened: Open, service: Place) -> None:
    page = opened("#/fit")
    options = page.locator("#folder option").all_inner_texts()
    assert not any("xyz" in option for option in options)
    page.get_by_label("Folder of good parts").select_option("plates")
    page.get_by_label("Name of the model").fill("second")
    page.get_by_role("button", name="Start").click()
    card = page.locator(".fitcard")
    expect(card).to_have_class(re.compile("done"), timeout=120_000)
    models = {model["name"]: model for model in httpx.get(f"{service.url}/v1/models").json()["models"]}
    assert models["second"]["needs"] == ["rgb", "xyz"]
    assert models["second"]["images"] == 8
    assert httpx.get(f"{service.url}/v1/fits").json()["items"][0]["skipped"] == 0


def test_geometry_alone_has_one_view(browser: Any, tmp_path: Path) -> None:
    fit(tmp_path / "parts", channels=("curvature",)).save(tmp_path / "shapes.patchbank")
    config = Config(
        models=(tmp_path / "shapes.patchbank",), weights="random", threads=1, history=tmp_path / "h.sqlite"
    )  # fmt: skip
    with running(config) as url:
        page = browser.new_page()
        page.goto(url)
        expect(page.locator("#model option")).to_have_count(1)
        file = tmp_path / "parts/xyz/000.tiff"
        page.get_by_label("Inspect images …").set_input_files([file])
        page.locator(".newest .name a").click()
        expect(page.locator(".stage")).to_have_count(1)
        expect(page.locator(".stage img.base")).to_have_js_property("naturalWidth", SIZE)
        page.locator(".stage").hover()
        expect(page.locator(".readout")).to_contain_text("Column")
        expect(page.locator(".switch")).to_have_count(0)
        page.close()
