"""Open every page of the site in Chromium, as wide as a desktop and as a phone: `python -m tools.pages.browse`."""

from __future__ import annotations

import argparse
import contextlib
import functools
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
WIDTHS = {"desktop": 1280, "phone": 390}
HEIGHT = 900
# elements that stick out of the window without scrolling in a box of their own
_STICKS_OUT = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const outside = [...document.querySelectorAll('main *, header *')]
    .filter(e => e.getBoundingClientRect().right > width + 1);
  return [`the page is ${document.documentElement.scrollWidth} pixels wide, for instance ` +
    outside.slice(0, 2).map(e => e.outerHTML.slice(0, 80)).join(' and ')];
}"""
_BROKEN_PICTURES = (
    "() => [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => 'no picture: ' + i.src)"
)


def pages(site: Path) -> list[str]:
    """Paths of all pages below the folder of the site."""
    return sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html") if path.name != "404.html")


@contextlib.contextmanager
def served(site: Path) -> Iterator[str]:
    """The address of a server of the folder, on this machine alone."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Chromium, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield started
        finally:
            started.close()


def problems(chromium: Any, url: str, shots: Path | None = None) -> list[str]:
    """What is wrong with a page: errors of its scripts, requests that fail or leave this machine, pictures that are not
    there, and what sticks out at one of the widths. `shots`: a folder for a picture at each width."""
    found: list[str] = []
    here = url[: url.index("/", 8)]
    page = chromium.new_page(viewport={"width": WIDTHS["desktop"], "height": HEIGHT})
    page.on("console", lambda said: found.append(f"console: {said.text}") if said.type == "error" else None)
    page.on("pageerror", lambda error: found.append(f"script: {error}"))
    page.on("requestfailed", lambda request: found.append(f"failed: {request.url}"))
    page.on("request", lambda request: None if _is_from(here, request.url) else found.append(f"leaves: {request.url}"))
    page.on("response", lambda answer: found.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else None)
    page.goto(url, wait_until="networkidle")
    found += page.evaluate(_BROKEN_PICTURES)
    for name, width in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": HEIGHT})
        found += [f"{name}: {what}" for what in page.evaluate(_STICKS_OUT)]
        if shots is not None:
            title = url[len(here) + 1 :].removesuffix(".html").replace("/", "-")
            page.screenshot(path=str(shots / f"{title}-{name}.png"))
    page.close()
    return found


def hits(chromium: Any, address: str, words: str, shot: Path | None = None) -> list[str]:
    """Titles that the search of the site finds."""
    page = chromium.new_page(viewport={"width": WIDTHS["desktop"], "height": HEIGHT})
    page.goto(f"{address}/index.html", wait_until="networkidle")
    page.locator("input.md-search__input").click()
    page.keyboard.type(words)
    page.locator(".md-search-result__item").first.wait_for(timeout=20_000)
    found = [title.strip() for title in page.locator(".md-search-result__item h1").all_inner_texts()]
    if shot is not None:
        page.screenshot(path=str(shot))
    page.close()
    return found


def _is_from(here: str, url: str) -> bool:
    return url.startswith((here, "data:", "blob:"))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the problems are printed."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.pages.browse", description=__doc__)
    parser.add_argument("site", type=Path, nargs="?", default=Path("out/site"))
    parser.add_argument("--shots", type=Path, help="a folder for a picture of each page at each width")
    parser.add_argument("--only", default="", help="pages whose path has this in it")
    given = parser.parse_args()
    if given.shots:
        given.shots.mkdir(parents=True, exist_ok=True)
    chosen = [path for path in pages(given.site) if given.only in path]
    bad = 0
    with served(given.site) as address, browser() as chromium:
        for path in chosen:
            for problem in problems(chromium, f"{address}/{path}", given.shots):
                print(f"{path}: {problem}", flush=True)
                bad += 1
        if given.shots:
            print("search for threshold:", hits(chromium, address, "threshold", given.shots / "search.png"))
    print(f"{len(chosen)} pages at {len(WIDTHS)} widths, {bad} problems")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
