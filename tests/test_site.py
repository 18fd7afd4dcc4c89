"""The site as a reader sees it: pages in Chromium, as wide as a desktop and as a phone."""

from __future__ import annotations

import os
import posixpath
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tools.pages import browse

pytest.importorskip("mkdocs")
pytest.importorskip("material")
pytest.importorskip("playwright")
if browse.CHROMIUM is None:
    pytest.skip("Chromium is not installed (Debian: apt-get install chromium)", allow_module_level=True)
ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a broken link or a missing docstring fails."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browse.browser() as started:
        yield started


def test_pages_that_are_made_from_code_are_there(site: Path) -> None:
    assert "--false-alarm-rate" in (site / "reference/cli/fit.html").read_text(encoding="utf-8")
    assert "/v1/models/" in (site / "reference/http.html").read_text(encoding="utf-8")
    assert "<math" in (site / "methods/patchcore.html").read_text(encoding="utf-8")
    assert "covering radius" in (site / "reference/api/detector.html").read_text(encoding="utf-8")


def test_every_page_is_two_clicks_from_home(site: Path) -> None:
    """By the tabs and by links in the text, without the list of pages at the side."""
    first = links(site, "index.html")
    near = {"index.html", *first}.union(*(links(site, page) for page in first))
    assert sorted(set(browse.pages(site)) - near) == []


def links(site: Path, page: str) -> set[str]:
    """Pages that the text of a page and the tabs above it lead to."""
    html = (site / page).read_text(encoding="utf-8")
    shown = re.findall(r"<article.*?</article>|<li class=\"md-tabs__item.*?</li>", html, re.DOTALL)
    targets = re.findall(r'href="([^"#:]+\.html)', "".join(shown))
    return {posixpath.normpath(posixpath.join(posixpath.dirname(page), target)) for target in targets}


def test_pages_show_without_a_problem(site: Path, chromium: Any) -> None:
    """A tenth of them, of every folder; `python -m tools.pages.browse` opens all."""
    assert len(browse.pages(site)) > 100
    chosen = {*browse.pages(site)[::10], "tutorials/first-station.html"}
    with browse.served(site) as address:
        found = {path: browse.problems(chromium, f"{address}/{path}") for path in sorted(chosen)}
    assert {posixpath.dirname(path) for path in found} >= {"guides", "methods", "experiments", "tutorials"}
    assert {path: problems for path, problems in found.items() if problems} == {}


@pytest.mark.parametrize(
    ("words", "title"),
    [("threshold", "Thresholds"), ("without torch", "Edge: inspecting without torch"), ("AUPRO", "metrics.json")],
)
def test_the_search_finds(site: Path, chromium: Any, words: str, title: str) -> None:
    with browse.served(site) as address:
        assert title in browse.hits(chromium, address, words)[:3]


def test_problems_are_found(tmp_path: Path, chromium: Any) -> None:
    wide = "<main><p style='width: 600px'>wide</p></main><img src='none.png'><script>nothing()</script>"
    (tmp_path / "page.html").write_text(f"<!doctype html>{wide}<img src='http://127.0.0.2:9/away.png'>")
    with browse.served(tmp_path) as address:
        found = browse.problems(chromium, f"{address}/page.html")
    for part in (
        "phone: the page is 6",
        "404: ",
        "no picture: ",
        "script: nothing is not defined",
        "leaves: http://127.0.0.2",
    ):
        assert any(part in problem for problem in found), (part, found)
    assert not any("desktop: the page" in problem for problem in found)
