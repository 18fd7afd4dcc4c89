"""The commands that pages, examples, notebooks and messages show have only options that exist; nothing is run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from patchbank.cli import app

ROOT = Path(__file__).parents[1]
GROUP = typer.main.get_command(app)
COMMANDS = GROUP.commands  # type: ignore[attr-defined]


def _below(group: str) -> list[Any]:
    return list(COMMANDS[group].commands.values())


OURS = {
    name
    for command in [GROUP, *COMMANDS.values(), *_below("models"), *_below("history")]
    for parameter in command.params
    for name in (*getattr(parameter, "opts", ()), *getattr(parameter, "secondary_opts", ()))
} | {"--help", "-h"}  # fmt: skip
# pages that say what was called otherwise before, or what other programs take
HISTORY = {"CHANGELOG.md"}
_ENDINGS = (".md", ".ipynb", ".service", ".yaml", ".yml", ".sh", ".py", ".toml")


def pages() -> list[Path]:
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*"), *(ROOT / "examples").rglob("*")]
    return [path for path in found if path.suffix in _ENDINGS and path.name not in HISTORY]


def text_of(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text.partition("## Old spellings")[0]  # which has them on purpose
    cells = json.loads(text)["cells"]
    texts = [("".join(cell["source"]), cell["cell_type"] == "code") for cell in cells]
    return "\n".join(f"```\n{text}\n```" if is_code else text for text, is_code in texts)


def commands_in(text: str, *, is_code: bool = False) -> Iterator[str]:
    """The words behind `patchbank` in blocks of code and in spans of code."""
    blocks = [text] if is_code else re.findall(r"^ *```[^\n]*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    for block in blocks:
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            yield from re.findall(r"^(?:[\s$!%-]|\w+=\S+ |ExecStart=)*(?:\S*/)?patchbank ([^|;&]+)", line)
    if not is_code:
        for span in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            yield from re.findall(r"^(?:\S*/)?patchbank ([^|;&]+)", " ".join(span.split()))


def wrong_in(words: str) -> str | None:
    """What does not exist of a command."""
    try:
        name, *rest = shlex.split(words, comments=True)
    except ValueError:  # such as an apostrophe in a sentence
        name, *rest = words.split()
    if name.startswith("-"):
        return None if name in OURS else name
    command = COMMANDS.get(name.rstrip(",.:"))
    if command is None:
        return name
    if hasattr(command, "commands") and rest:
        command, *rest = command.commands.get(rest[0], command), *rest[1:]
    known = {"-h", "--help"}
    for parameter in command.params:
        known |= {*getattr(parameter, "opts", ()), *getattr(parameter, "secondary_opts", ())}
    options = [word.partition("=")[0].rstrip("],.:") for word in rest if re.match(r"\[?--?[A-Za-z]", word)]
    return next((option for option in options if option.lstrip("[") not in known), None)


@pytest.mark.parametrize("path", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_have_only_options_that_exist(path: Path) -> None:
    found = commands_in(text_of(path), is_code=path.suffix not in (".md", ".ipynb"))
    wrong = [f"patchbank {words}: {what}" for words in found if (what := wrong_in(words))]
    assert not wrong


def test_the_pages_show_most_commands() -> None:
    """The search finds what it looks for."""
    shown = {words.split()[0] for path in pages() for words in commands_in(text_of(path))}
    assert shown >= {"fit", "predict", "evaluate", "benchmark", "serve", "watch", "calibrate", "export", "merge"}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("```\npatchbank fit x -o m --every 2  # a word\n```", ["--every"]),
        ("```sh\n$ A=1 patchbank predict m x \\\n    -o out\n```", ["-o"]),
        ("`patchbank evaluate m d -O out --size 3`", ["--size"]),
        ("`patchbank fits x`", ["fits"]),
        ("`patchbank watch m f --interval 2` and `patchbank --version`", []),
        ("`patchbank models switch d n v --json`", ["--json"]),
    ],
)
def test_what_is_found(text: str, wrong: list[str]) -> None:
    assert [what for words in commands_in(text) if (what := wrong_in(words))] == wrong


# options of other programs that the pages speak of
_OTHERS = {
    "--user", "--upgrade", "--no-deps", "--constraint", "--strict", "--index-url", "--extra-index-url", "--head",
    "--table",
}  # fmt: skip


@pytest.mark.parametrize(
    "path", [path for path in pages() if path.suffix == ".md"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_options_in_sentences_exist(path: Path) -> None:
    """Each span of code that starts with an option names one that some command has."""
    text = re.sub(r"```.*?```", "", text_of(path), flags=re.DOTALL)
    spans = re.findall(r"`(--[a-z][a-z0-9-]*)[^`]*`", text)
    known = OURS | _OTHERS | {f"--no-{option[2:]}" for option in OURS}  # which turn off what a file turns on
    assert not [option for option in spans if option not in known]


def test_messages_name_options_that_exist() -> None:
    """Also those of pages and templates of the package."""
    wrong = []
    for path in sorted((ROOT / "src" / "patchbank").rglob("*")):
        if path.suffix not in (".py", ".j2", ".html", ".js") or path.name in ("old_spellings.py", "argv.py"):
            continue
        text = path.read_text(encoding="utf-8")
        for option in re.findall(r"(?<![\w-])(--[a-z][a-z0-9-]{2,})(?![\w]*\()", text):
            if path.suffix == ".py" and option not in OURS | _OTHERS | {"--no-"}:
                wrong.append(f"{path.name}: {option}")
        wrong += [f"{path.name}: {words}" for words in re.findall(r"`patchbank ([^`…]+)`", text) if wrong_in(words)]
    assert not wrong
