"""`make release-check`: whether this working tree is a consistent release, one line for each check.

Exit code 1 if a check fails. `--skip NAME` leaves a check out, for example the slow build of the docs.
"""

from __future__ import annotations

import argparse
import json
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).parents[1]
_ENTRY = re.compile(r"^## (\S+)(?: - (\S+))?\s*$", re.MULTILINE)
_RELEASE = re.compile(r"\d+\.\d+\.\d+")
_NAMED = re.compile(r"patchbank(?:==|[ ]v?)(\d+\.\d+\.\d+)|version\s*=\s*\{(\d+\.\d+\.\d+)\}")

_FORMAT = re.compile(r"`format_version`(?: \(now | \| )(\d+)")


class Entry(NamedTuple):
    """A section of the changelog."""

    title: str
    date: str | None
    text: str


class Refused(Exception):
    """A check cannot be made at all."""


def read(root: Path, name: str) -> str:
    try:
        return (root / name).read_text(encoding="utf-8")
    except OSError as error:
        raise Refused(f"{name} cannot be read: add the file") from error


def found(pattern: str, text: str, name: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise Refused(f"{name} has no line that matches {pattern}: add it")
    return match[1]


def project_version(root: Path) -> str:
    return found(r'^version = "([^"]+)"', read(root, "pyproject.toml"), "pyproject.toml")


def entries(root: Path) -> list[Entry]:
    """The sections of the changelog, in the order of the file."""
    text = read(root, "CHANGELOG.md")
    heads = list(_ENTRY.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    return [Entry(head[1], head[2], text[head.end() : end].strip()) for head, end in zip(heads, ends, strict=True)]


def released(root: Path) -> list[Entry]:
    found_entries = [entry for entry in entries(root) if entry.title != "Unreleased"]
    if not found_entries:
        raise Refused("CHANGELOG.md has no released version: add a dated section")
    return found_entries


# ---- the checks: each returns what is wrong ----


def check_version(root: Path) -> list[str]:
    """pyproject.toml, CITATION.cff and the newest entry of the changelog name one version."""
    wanted = project_version(root)
    citation, newest = yaml.safe_load(read(root, "CITATION.cff")), released(root)[0]
    wrong = []
    if str(citation.get("version")) != wanted:
        wrong.append(f"CITATION.cff has version {citation.get('version')}, pyproject.toml {wanted}: make them equal")
    if newest.title != wanted:
        wrong.append(f"the newest entry of CHANGELOG.md is {newest.title}, pyproject.toml has {wanted}: add its entry")
    if str(citation.get("date-released")) != newest.date:
        wrong.append(
            f"CITATION.cff has the date {citation.get('date-released')}, CHANGELOG.md {newest.date}: make them equal"
        )
    return wrong


def check_installed(root: Path) -> list[str]:
    """The installed package, which is what `patchbank --version` prints, has the version of pyproject.toml."""
    wanted = project_version(root)
    try:
        actual = installed_version("patchbank")
    except PackageNotFoundError:
        return ["patchbank is not installed: run `make lint`"]
    return [] if actual == wanted else [f"patchbank {actual} is installed, not {wanted}: run `make lint`"]


def check_changelog(root: Path) -> list[str]:
    """Every version has a date and a text, newest first, and nothing waits under Unreleased."""
    wrong = []
    for entry in released(root):
        if not _RELEASE.fullmatch(entry.title):
            wrong.append(f"CHANGELOG.md has an entry {entry.title}: name it by a version such as 1.2.3")
        if not _is_date(entry.date):
            wrong.append(f"the entry {entry.title} of CHANGELOG.md has no date: write `## {entry.title} - YYYY-MM-DD`")
        if not re.search(r"^- ", entry.text, re.MULTILINE):
            wrong.append(f"the entry {entry.title} of CHANGELOG.md lists no change: fill it or remove it")
        wrong += [f"CHANGELOG.md {entry.title}: {name} is empty: remove it" for name in _empty_headings(entry.text)]
    keys = [(_as_numbers(entry.title), entry.date or "") for entry in released(root)]
    if not wrong and keys != sorted(keys, reverse=True):
        wrong.append("the entries of CHANGELOG.md are not sorted: put the newest version first")
    if any(entry.title == "Unreleased" and entry.text for entry in entries(root)):
        wrong.append("CHANGELOG.md has changes under Unreleased: move them to the entry of the version")
    return wrong


def check_model_files(root: Path) -> list[str]:
    """A fixture for every format version of model files that the reader accepts, and none from the future."""
    source = read(root, "src/patchbank/io/model_file.py")
    newest = int(found(r"^FORMAT_VERSION = (\d+)", source, "model_file.py"))
    oldest = int(found(r"^_OLDEST = (\d+)", source, "model_file.py"))
    have = {_format_of(path) for path in (root / "tests/model_files").glob("*.patchbank")}
    wrong = [
        f"tests/model_files has no file of format {version}: keep one that a release with this format wrote"
        for version in range(oldest, newest + 1)
        if version not in have
    ]
    return wrong + [
        f"tests/model_files has a file of format {version}, which the reader refuses: remove it"
        for version in sorted(have - set(range(oldest, newest + 1)))
    ]


def check_exports(root: Path) -> list[str]:
    """A fixture for every version of exports that the runtime accepts."""
    source = read(root, "src/patchbank/edge/runtime.py")
    newest = int(found(r"^EXPORT_VERSION = (\d+)", source, "runtime.py"))
    documents = (root / "tests/export_files").glob("*/patchbank.json")
    have = {json.loads(path.read_text(encoding="utf-8"))["export_version"] for path in documents}
    lost = sorted(set(range(1, newest + 1)) - have)
    return [f"tests/export_files has no export of version {version}: keep one that a release wrote" for version in lost]


def check_docs(root: Path) -> list[str]:
    """Pages that name a version of patchbank or the newest format of model files name the one of today."""
    wanted, wrong = project_version(root), []
    newest = found(r"^FORMAT_VERSION = (\d+)", read(root, "src/patchbank/io/model_file.py"), "model_file.py")
    pages = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    formats = []
    for page in pages:
        if "experiments" in page.relative_to(root).parts:  # these name the version that was measured
            continue
        text, name = page.read_text(encoding="utf-8"), page.relative_to(root).as_posix()
        named = {one or other for one, other in _NAMED.findall(text)} - {wanted}
        wrong += [f"{name} names patchbank {version}, not {wanted}: correct it" for version in sorted(named)]
        formats += [(name, number) for number in _FORMAT.findall(text)]
    wrong += [f"{name} says format {number}, not {newest}: correct it" for name, number in formats if number != newest]
    return (
        wrong
        if formats
        else [*wrong, "no page of docs says the newest `format_version`: say it on the page of the model file"]
    )


def check_site(root: Path) -> list[str]:
    """`make docs` succeeds."""
    done = subprocess.run(["make", "docs"], cwd=root, capture_output=True, text=True, check=False)
    last = (done.stderr or done.stdout).strip().splitlines()[-1:]
    return [f"`make docs` fails: {''.join(last)}"] if done.returncode else []


def check_tree(root: Path) -> list[str]:
    """Everything is committed."""
    changed = _git(root, "status", "--porcelain").splitlines()
    return [f"{len(changed)} files are not committed, among them {changed[0][3:]}: commit them"] if changed else []


def check_tag(root: Path) -> list[str]:
    """The tag is free, or lies on this commit."""
    tag = f"v{project_version(root)}"
    if not _git(root, "tag", "--list", tag):
        return []
    here, there = _git(root, "rev-parse", "HEAD"), _git(root, "rev-list", "-n", "1", tag)
    return [] if here == there else [f"the tag {tag} lies on another commit: choose the next version"]


CHECKS: dict[str, Callable[[Path], list[str]]] = {
    "version": check_version,
    "installed": check_installed,
    "changelog": check_changelog,
    "model-files": check_model_files,
    "exports": check_exports,
    "docs": check_docs,
    "site": check_site,
    "tree": check_tree,
    "tag": check_tag,
}


# ---- parts ----


def _is_date(text: str | None) -> bool:
    try:
        return date.fromisoformat(text or "").isoformat() == text
    except ValueError:
        return False


def _empty_headings(text: str) -> list[str]:
    """Titles of subsections without a change."""
    parts = re.split(r"^### (.+)$", text, flags=re.MULTILINE)
    return [title for title, body in zip(parts[1::2], parts[2::2], strict=True) if not body.strip()]


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _format_of(path: Path) -> int:
    """The format version in the header of a model file, without opening its tensors."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return int(json.loads(header["__metadata__"]["patchbank"])["format_version"])


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(f"`git {' '.join(arguments)}` fails: {done.stderr.strip()}")
    return done.stdout.rstrip()


def report(root: Path, skip: Sequence[str] = ()) -> int:
    """Print a line for each check, and return the exit code."""
    failed = 0
    for name, check in CHECKS.items():
        if name in skip:
            print(f"skip  {name}")
            continue
        try:
            wrong = check(root)
        except Refused as reason:
            wrong = [str(reason)]
        failed += bool(wrong)
        print(f"FAIL  {name}: {' | '.join(wrong)}" if wrong else f"ok    {name}: {check.__doc__}")
    print(f"{failed} of {len(CHECKS) - len(skip)} checks failed" if failed else "ready to release")
    return int(failed > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description="Check whether a release is consistent.")
    parser.add_argument("--root", type=Path, default=ROOT, help="the working tree to check [default: this one]")
    parser.add_argument("--skip", action="append", default=[], choices=CHECKS, help="leave a check out")
    given = parser.parse_args()
    return report(given.root.resolve(), given.skip)


if __name__ == "__main__":
    sys.exit(main())
