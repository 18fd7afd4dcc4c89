"""A page for each command, from the tree of the command line: what `--help` says, with links."""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Iterator
from typing import Any

import typer

FOLDER = "reference/cli"
_MENTION = re.compile(r"docs/([\w/-]+\.md)")
_ARGUMENTS = "Arguments"
_OPTIONS = "Options"


LIST = "<!-- commands -->"  # on a page of the reference: where the list of commands goes


def listed(markdown: str) -> str:
    """A page of the reference, with links to all commands where it has the line for them."""
    if LIST not in markdown:
        return markdown
    from patchbank.cli import app

    paths = [path[1:] for path, _ in _commands(typer.main.get_command(app), ("patchbank",))]
    return markdown.replace(LIST, ", ".join(f"[`{' '.join(path)}`](cli/{'-'.join(path)}.md)" for path in paths))


def command_pages() -> dict[str, str]:
    """Markdown of each page by its path below docs/: an index, and a page for each command."""
    from patchbank.cli import app

    root = typer.main.get_command(app)
    pages = {}
    rows = []
    for path, command in _commands(root, ("patchbank",)):
        name = "-".join(path[1:])
        pages[f"{FOLDER}/{name}.md"] = _page(path, command)
        rows.append(f"| [`{' '.join(path)}`]({name}.md) | {_linked(_sentence(command))} |")
    return {f"{FOLDER}/index.md": _index(root, rows), **pages}


def _commands(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each command that is not hidden, with the words that call it, groups entered."""
    for name, command in group.commands.items():
        if getattr(command, "hidden", False):
            continue
        if hasattr(command, "commands"):
            yield from _commands(command, (*path, name))
        else:
            yield (*path, name), command


def _index(root: Any, rows: list[str]) -> str:
    options = _tables(root, ("patchbank",))
    return (
        "# Command line\n\n"
        "Every command answers `--help`. These pages are made from the same texts. "
        "[Exit codes](../exit-codes.md) are the same for all commands.\n\n"
        "| command | what it does |\n|---|---|\n" + "\n".join(rows) + "\n\n" + options
    )


def _page(path: tuple[str, ...], command: Any) -> str:
    called = " ".join(path)
    usage = command.get_usage(_context(command, path)).removeprefix("Usage: ").split()
    text = (command.help or "").strip()
    return (
        f"# {called}\n\n{_linked(_escaped(text))}\n\n```\n{' '.join(usage)}\n```\n\n{_tables(command, path)}\n"
        "[All commands](index.md), [exit codes](../exit-codes.md).\n"
    )


def _tables(command: Any, path: tuple[str, ...]) -> str:
    """One table for each panel of the help, in the order in which the help shows them."""
    context = _context(command, path)
    panels: dict[str, list[str]] = {}
    for parameter in command.params:
        record = None if getattr(parameter, "hidden", False) else parameter.get_help_record(context)
        if record is None:
            continue
        is_argument = parameter.param_type_name == "argument"
        panel = getattr(parameter, "rich_help_panel", None) or (_ARGUMENTS if is_argument else _OPTIONS)
        panels.setdefault(panel, []).append(f"| {_code(record[0])} | {_linked(_escaped(_cell(record[1])))} |")
    return "".join(
        f"## {panel}\n\n| {'argument' if panel == _ARGUMENTS else 'option'} | meaning |\n|---|---|\n"
        + "\n".join(rows)
        + "\n\n"
        for panel, rows in panels.items()
    )


def _context(command: Any, path: tuple[str, ...]) -> Any:
    return command.make_context(" ".join(path), [], resilient_parsing=True)


def _sentence(command: Any) -> str:
    """The first paragraph of a command's help."""
    return _escaped(" ".join((command.help or "").strip().split("\n\n")[0].split()))


def _code(text: str) -> str:
    """An option with its choices as code that a table may hold, and may break between two choices."""
    return "<code>" + html.escape(" ".join(text.split())).replace("|", "&#124;<wbr>") + "</code>"


def _cell(text: str) -> str:
    """Text of a help, as a table's cell may hold it."""
    return " ".join(text.replace("\\[", "[").split()).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Without what Markdown would take for HTML, outside code."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([<*_\[\]])", r"\\\1", p) for p in pieces)


def _linked(text: str) -> str:
    """Mentions of pages, such as docs/guides/regions.md, as links from a page of a command."""

    def link(found: re.Match[str]) -> str:
        page = found[1].replace("\\", "")
        return f"[{posixpath.basename(page).removesuffix('.md').replace('-', ' ')}]({posixpath.relpath(page, FOLDER)})"

    return _MENTION.sub(link, text.replace("\\_", "_") if "docs/" in text else text)
