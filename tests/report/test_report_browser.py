"""The report of a grid in a real browser: nothing sticks out, sorting works, pictures load, nothing is fetched."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchbank.evaluation.results import Evaluation
from patchbank.report.grid import write_grid_report
from patchbank.report.html import write_report
from tests.finished_cells import write_cell

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_LONG = "a_dataset_with_quite_a_long_name"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("needs Chromium on PATH")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets, five configurations with two seeds, pictures."""
    output = tmp_path_factory.mktemp("grid")
    values = {"padim": 0.81, "lmf": 0.935, "fapm": 0.93}
    for dataset in (_LONG, "weave"):
        for seed in (0, 1):
            for i, (method, value) in enumerate(values.items()):
                write_cell(output, dataset, method, seed, image_auroc=value + 0.002 * seed, latency_ms_p50=9.0 + i)
            for coreset in (0.01, 0.03, 0.1):
                write_cell(
                    output, dataset, seed=seed, options={"coreset": coreset}, image_auroc=0.9 + coreset,
                    latency_ms_p50=10 + 100 * coreset, pictures=2,
                )  # fmt: skip
    return write_grid_report(output)


@pytest.fixture
def open_page(browser: Any, report: Path) -> Iterator[Any]:
    """Opens the report in a window of some width; fails where the page complains or asks for anything else."""
    contexts, complaints = [], []

    def open_at(width: int, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url[:80]))
        page.goto(report.as_uri())
        own = [url for url in complaints if url == report.as_uri() or url.startswith("data:image/jpeg")]
        assert report.as_uri() in own
        complaints[:] = [text for text in complaints if text not in own]
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert complaints == []


def column(page: Any, number: int) -> list[str]:
    """A column of the table of all datasets, the rows of the single seeds left out."""
    script = "n => [...document.querySelectorAll('#numbers table')].at(-1).tBodies"
    texts: list[str] = page.evaluate(f"n => [...({script})(n)].map(b => b.rows[0].cells[n].innerText)", number)
    return texts


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out_of_the_page(open_page: Any, width: int) -> None:
    page = open_page(width)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = "e => !e.closest('.wide') && (e.getBoundingClientRect().right > innerWidth + 1)"
    assert page.evaluate(f"[...document.querySelectorAll('body *')].filter({outside}).map(e => e.outerHTML)") == []


def test_a_wide_table_scrolls_within_itself_and_its_first_column_stays(open_page: Any) -> None:
    page = open_page(390)
    table = page.locator("#numbers .wide").last
    assert table.evaluate("e => e.scrollWidth > e.clientWidth")
    before = table.locator("tbody td").first.bounding_box()
    table.evaluate("e => e.scrollLeft = 300")
    assert table.locator("tbody td").first.bounding_box() == before
    assert before["width"] < 390 / 2


def test_a_click_sorts_and_another_turns_it_round(open_page: Any) -> None:
    page = open_page(1280)
    heading = page.locator("#numbers table").last.locator("th button").nth(6)  # time for one image
    assert "image" in heading.inner_text()
    for reverse in (False, True):
        heading.click()
        times = [float(text.split()[0]) for text in column(page, 6)]
        assert len(times) == 12
        assert times == sorted(times, reverse=reverse)
    page.locator("#numbers table").last.locator("th button").first.click()
    assert [_LONG in text for text in column(page, 0)] == [True] * 6 + [False] * 6


def test_the_seeds_of_a_row_can_be_shown(open_page: Any) -> None:
    page = open_page(1280)
    body = page.locator("#numbers tbody").first
    assert body.locator("tr:visible").count() == 1
    body.locator("button").click()
    assert body.locator("tr:visible").count() == 3
    assert body.locator("button").get_attribute("aria-expanded") == "true"


def test_without_scripts_everything_is_there(open_page: Any) -> None:
    page = open_page(1280, java_script_enabled=False)
    assert page.locator("#numbers tr.seed:visible").count() == (6 + 12) * 2


def test_pictures_load(open_page: Any) -> None:
    page = open_page(1280)
    sizes = page.evaluate("[...document.images].map(i => i.complete && i.naturalWidth)")
    assert len(sizes) == 12
    assert all(sizes)


def test_labels_of_the_plots_cover_no_other(open_page: Any) -> None:
    page = open_page(1280)
    overlapping = """
        svg => {
          const texts = [...svg.querySelectorAll("text")].filter(t => t.textContent.trim());
          const boxes = texts.map(t => t.getBoundingClientRect());
          const beside = (a, b) => a.right <= b.left + 1 || a.bottom <= b.top + 2;
          const apart = (a, b) => beside(a, b) || beside(b, a);
          return texts.filter((t, i) => boxes.some((b, j) => j < i && !apart(b, boxes[i]))).map(t => t.textContent);
        }"""
    found = page.evaluate(f"[...document.querySelectorAll('#cost > .scatters svg')].map({overlapping})")
    assert len(found) == 4
    assert found == [[]] * 4
    labels = page.locator("#cost > .scatters svg").first.text_content()
    assert "patchcore, coreset 0.1" in labels


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_drawn(open_page: Any, scheme: str) -> None:
    page = open_page(1280, color_scheme=scheme)
    shot = np.asarray(Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("L"), np.float32)
    assert shot.shape[0] > 3000
    paper = np.median(shot)
    assert paper > 200 if scheme == "light" else paper < 60
    for top in range(0, shot.shape[0] - 1000, 1000):  # ink in every part of it
        assert (np.abs(shot[top : top + 1000] - paper) > 80).mean() > 0.005


def test_in_print_everything_is_open_and_nothing_is_cut(open_page: Any) -> None:
    page = open_page(794)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.evaluate("[...document.querySelectorAll('details')].every(d => d.open)")
    assert page.evaluate("getComputedStyle(document.querySelector('.wide td')).position") == "static"
    assert page.evaluate("document.documentElement.scrollWidth") <= 794


@pytest.mark.parametrize("width", [400, 1400])
def test_a_report_with_geometry_fits_the_window(
    browser: Any, make_evaluation: Callable[..., Evaluation], tmp_path: Path, width: int
) -> None:
    channels = {"rgb": 1.0, "curvature": 14.0, "normals": 9.0}
    plain = make_evaluation()
    cases = [replace(case, channels=channels) for case in plain.cases]
    how = {"Method": "patchcore with backbone=efficientnet_lite0, channels=('rgb', 'curvature', 'normals')"}
    write_report(replace(plain, cases=cases, channels=tuple(channels), how=how), tmp_path / "report.html")
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert "the shape alone shows" in page.locator("header").inner_text()
    context.close()
