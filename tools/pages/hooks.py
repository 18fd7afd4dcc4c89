"""What mkdocs calls while it builds the site."""

from __future__ import annotations

import logging
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from mkdocs.structure.files import File, Files  # noqa: E402

from tools.pages import command_pages, docstrings, equations, http_page  # noqa: E402

_log = logging.getLogger("mkdocs.plugins.patchbank")
# files of the repository that are pages of the site, too
_REPOSITORY_FILES = {
    "CHANGELOG.md": "contribute/changelog.md",
    "SECURITY.md": "contribute/security.md",
    "CODE_OF_CONDUCT.md": "contribute/conduct.md",
}
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")


def on_config(config: Any) -> Any:
    """Equations in both forms; the commands' pages in the navigation."""
    config["mdx_configs"].setdefault("pymdownx.superfences", {})["custom_fences"] = [
        {"name": "math", "class": "equation", "format": equations.block}
    ]
    config["markdown_extensions"].append(equations.Equations())
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from the command line, the service and files of the repository."""
    made = {**command_pages.command_pages(), http_page.PAGE: http_page.http_page()}
    for name, page in _REPOSITORY_FILES.items():
        if (ROOT / name).exists():
            made[page] = _moved((ROOT / name).read_text(encoding="utf-8"), page)
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    _put_into_navigation(config["nav"], [p for p in made if p.startswith(command_pages.FOLDER + "/")])
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files of the repository lead to the pages that these are on the site."""

    def led(found: re.Match[str]) -> str:
        before, target, anchor, after = found.groups()
        full = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), target))
        if full not in _REPOSITORY_FILES:
            return found[0]
        there = posixpath.relpath(_REPOSITORY_FILES[full], posixpath.dirname(page.file.src_uri) or ".")
        return f"{before}{there}{anchor or ''}{after}"

    return _LINK.sub(led, markdown)


def on_pre_build(config: Any) -> None:
    """Warn, which `--strict` turns into a failure, of what the reference does not say."""
    reference = ROOT / "docs" / "reference" / "api"
    for name in docstrings.without_docstring(reference):
        _log.warning("%s has no docstring", name)
    for name in docstrings.not_documented(reference):
        _log.warning("patchbank.%s is public, but no page below docs/reference/api has it", name)


def _moved(text: str, page: str) -> str:
    """Links of a file at the root of the repository, as they are from its page on the site."""

    def led(found: re.Match[str]) -> str:
        before, target, anchor, after = found.groups()
        there = _REPOSITORY_FILES.get(target, target.removeprefix("docs/"))
        if "://" in target or target.startswith(("#", "mailto:")):
            return found[0]
        return f"{before}{posixpath.relpath(there, posixpath.dirname(page))}{anchor or ''}{after}"

    return _LINK.sub(led, text)


def _put_into_navigation(navigation: list[Any], pages: list[str]) -> None:
    """The pages of commands, under the entry "Command line" of the reference."""
    for entry in navigation:
        for title, value in entry.items() if isinstance(entry, dict) else ():
            if title == "Command line":
                entry[title] = pages
                return
            if isinstance(value, list):
                _put_into_navigation(value, pages)
