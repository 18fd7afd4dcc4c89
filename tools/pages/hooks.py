"""What mkdocs calls while it builds the site."""

from __future__ import annotations

import logging
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from mkdocs.structure.files import File, Files  # noqa: E402

from tools.pages import command_pages, docstrings, equations, http_page, notebooks  # noqa: E402

_log = logging.getLogger("mkdocs.plugins.patchbank")
# files at the root of the repository that are pages of the site, too
_PAGES = {
    "CHANGELOG.md": "contribute/changelog.md",
    "SECURITY.md": "contribute/security.md",
    "CODE_OF_CONDUCT.md": "contribute/conduct.md",
}
_further: dict[str, str] = {}  # pages that the navigation does not name, with their titles
_LESS = 0.4  # weight of a page in the search
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")


def on_config(config: Any) -> Any:
    """Equations, in a fence and within a line."""
    config["mdx_configs"].setdefault("pymdownx.superfences", {})["custom_fences"] = [
        {"name": "math", "class": "equation", "format": equations.block}
    ]
    config["markdown_extensions"].append(equations.Equations())
    return config


def on_pre_build(config: Any) -> None:
    """Warn of what the reference does not say, which `--strict` turns into a failure."""
    reference = ROOT / "docs" / "reference" / "api"
    for name in docstrings.without_docstring(reference):
        _log.warning("%s has no docstring", name)
    for name in docstrings.not_documented(reference):
        _log.warning("patchbank.%s is public, but no page below docs/reference/api has it", name)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from the command line, the service, notebooks and files of the repository."""
    made: dict[str, str | bytes] = {**command_pages.command_pages(), http_page.PAGE: http_page.http_page()}
    for name, page in _PAGES.items():
        if (ROOT / name).exists():
            made[page] = _moved((ROOT / name).read_text(encoding="utf-8"), page)
    for file in files.documentation_pages():
        made |= {_copy_of(path): (ROOT / path).read_bytes() for path in _files_linked(file.content_string, file)}
    for notebook in sorted((ROOT / "docs").glob("*/*.ipynb")):
        folder = notebook.parent.name
        text, pictures = notebooks.notebook_page(notebook)
        made[f"{folder}/{notebook.stem}.md"] = text
        made |= {f"{folder}/{name}": data for name, data in pictures.items()}
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    mentioned = set(_mentioned(config["nav"]))
    _further.clear()
    _further.update(
        {f.src_uri: _title(f.content_string) for f in files.documentation_pages() if f.src_uri not in mentioned}
    )
    _fill_in(config["nav"], list(_further))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files of the repository lead to the pages and copies that these are on the site. The search shows guides
    before measurements and the changelog."""
    if page.file.src_uri.startswith(("experiments/", "contribute/")):
        page.meta.setdefault("search", {})["boost"] = _LESS

    def led(found: re.Match[str]) -> str:
        before, target, anchor, after = found.groups()
        full = _in_repository(target, page.file)
        if full is None:
            return found[0]
        there = posixpath.relpath(_PAGES.get(full, _copy_of(full)), posixpath.dirname(page.file.src_uri) or ".")
        return f"{before}{there}{anchor or ''}{after}"

    return _LINK.sub(led, command_pages.listed(_with_further(markdown, page.file.src_uri)))


def _title(markdown: str) -> str:
    """The first heading of a page."""
    found = re.search(r"^# (.+)$", markdown, re.MULTILINE)
    return found[1] if found else ""


def _with_further(markdown: str, path: str) -> str:
    """The first page of a folder, with links to pages of the folder that neither it nor the navigation names."""
    folder, name = posixpath.split(path)
    if name != "index.md":
        return markdown
    further = {p[len(folder) + 1 :]: title for p, title in _further.items() if posixpath.dirname(p) == folder}
    missing = [f"- [{title}]({page})" for page, title in sorted(further.items()) if f"({page}" not in markdown]
    missing = [line for line in missing if "(index.md)" not in line]
    return markdown + ("\n\n## More\n\n" + "\n".join(missing) + "\n" if missing else "")


def _in_repository(target: str, file: File) -> str | None:
    """The path of a linked file that is in the repository, but not in docs/."""
    if "://" in target or target.startswith(("/", "#", "mailto:")):
        return None
    full = posixpath.normpath(posixpath.join("docs", posixpath.dirname(file.src_uri), target))
    if full.startswith(("docs/", "..")) or not (ROOT / full).is_file():
        return None
    return full


def _files_linked(markdown: str, file: File) -> Iterator[str]:
    """Files of the repository that a page links to, and that are no pages."""
    for found in _LINK.finditer(markdown):
        full = _in_repository(found[2], file)
        if full is not None and full not in _PAGES:
            yield full


def _copy_of(path: str) -> str:
    """Where the site has a copy of a file, by a name that a browser shows and does not save."""
    return f"files/{path}.txt"


def _moved(text: str, page: str) -> str:
    """Links of a file at the root of the repository, as they are from its page on the site."""

    def led(found: re.Match[str]) -> str:
        before, target, anchor, after = found.groups()
        if "://" in target or target.startswith(("#", "mailto:")):
            return found[0]
        there = _PAGES.get(target, target.removeprefix("docs/"))
        return f"{before}{posixpath.relpath(there, posixpath.dirname(page))}{anchor or ''}{after}"

    return _LINK.sub(led, text)


def _mentioned(navigation: Any) -> Iterator[str]:
    """Every page that the navigation has."""
    for entry in navigation:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            if isinstance(value, str):
                yield value
            else:
                yield from _mentioned(value)


def _fill_in(navigation: list[Any], pages: list[str]) -> None:
    """Pages that are not in the navigation go where their folder is: to an entry that ends with `…/*`."""
    for entry in navigation:
        for title, value in entry.items():
            if not isinstance(value, list):
                continue
            for place, item in enumerate(value):
                if isinstance(item, str) and item.endswith("/*"):
                    found = sorted(p for p in pages if p.startswith(item[:-1]) and "/" not in p[len(item) - 1 :])
                    entry[title] = value[:place] + sorted(found, key=lambda p: not p.endswith("index.md"))
            deeper = [item for item in entry[title] if isinstance(item, dict)]
            _fill_in(deeper, pages)
    navigation[:] = [entry for entry in navigation if [] not in entry.values()]
