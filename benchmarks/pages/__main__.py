"""Write the tables of results into the pages: `python -m benchmarks.pages`, or `make experiments`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.pages import compared, measured
from benchmarks.pages.table import Table

DOCS = Path(__file__).parents[2] / "docs"
_PLACE = re.compile(r"<!-- results: ([\w-]+) -->\n.*?<!-- end of results -->", re.DOTALL)
TABLES: dict[str, Callable[[], Table]] = {
    name.replace("_", "-"): function
    for module in (measured, compared)
    for name, function in vars(module).items()
    if callable(function) and getattr(function, "__annotations__", {}) == {"return": "Table"}
}
OF_METHOD = "method-"
LAST = "other"  # what no other table has read


def filled(text: str) -> str:
    """A page with all its tables written anew. Raises `KeyError` for a name that no result has."""
    return _PLACE.sub(lambda found: f"<!-- results: {found[1]} -->\n{content(found[1])}\n<!-- end of results -->", text)


def content(name: str) -> str:
    """What stands at one place: a table, or several."""
    if name == LAST:
        tables = compared.other()
        return "\n\n".join(table.markdown() for table in tables) or "Every result is on one of the other pages."
    if name.startswith(OF_METHOD):
        return compared.of_method(name.removeprefix(OF_METHOD)).markdown()
    return (TABLES[name]() if name in TABLES else compared.recorded(name)).markdown()


def pages() -> list[Path]:
    """Pages with tables, the one with all others last."""
    found = [page for page in sorted(DOCS.rglob("*.md")) if _PLACE.search(page.read_text(encoding="utf-8"))]
    return sorted(found, key=lambda page: f"results: {LAST} " in page.read_text(encoding="utf-8"))


def outdated() -> dict[Path, str]:
    """Pages that differ from what the results say now, and what they would be."""
    before = {page: page.read_text(encoding="utf-8") for page in pages()}
    after = {page: filled(text) for page, text in before.items()}
    return {page: text for page, text in after.items() if text != before[page]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 where a page is outdated")
    given = parser.parse_args()
    found = outdated()
    for page, text in found.items():
        print(page.relative_to(DOCS.parent))
        if not given.check:
            page.write_text(text, encoding="utf-8")
    sys.exit(1 if given.check and found else 0)


if __name__ == "__main__":
    main()
