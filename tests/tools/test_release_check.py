"""Each check passes on this tree, and fails on a copy with the fault that it looks for."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tools.release_check import CHECKS, ROOT, entries, project_version, report

IN_FILES = ("version", "model-files", "exports", "docs")
NAMES = ("pyproject.toml", "CITATION.cff", "CHANGELOG.md", "README.md", "docs")
FIXTURES = ("tests/model_files", "tests/export_files")
SOURCES = ("src/patchbank/io/model_file.py", "src/patchbank/edge/runtime.py")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the checks read, with nothing under Unreleased, committed."""
    for name in (*NAMES, *FIXTURES, *SOURCES):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("*.png", "*.ipynb"))
        else:
            shutil.copy(ROOT / name, target)
    edit(tmp_path, "CHANGELOG.md", r"## Unreleased\n.*?(?=^## )", "## Unreleased\n\n")
    (tmp_path / "Makefile").write_text(".PHONY: docs\ndocs:\n\ttrue\n")
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def edit(tree: Path, name: str, pattern: str, by: str) -> None:
    text = (tree / name).read_text(encoding="utf-8")
    changed, count = re.subn(pattern, by, text, count=1, flags=re.MULTILINE | re.DOTALL)
    assert count == 1, pattern
    (tree / name).write_text(changed, encoding="utf-8")


def git(tree: Path, *arguments: str) -> None:
    who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *who, *arguments], cwd=tree, check=True, capture_output=True)


def commit(tree: Path) -> None:
    git(tree, "add", "--all")
    git(tree, "commit", "--quiet", "--allow-empty", "--message", "State")


@pytest.mark.parametrize("name", IN_FILES)
def test_this_tree_is_consistent(name: str) -> None:
    assert CHECKS[name](ROOT) == []


def test_a_consistent_copy_is_ready(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(tree, skip=("installed",)) == 0
    said = capsys.readouterr().out
    assert said.count("ok    ") == len(CHECKS) - 1
    assert said.endswith("ready to release\n")


VERSION = r'^version = "[^"]+"'
FAULTS = {
    "version in pyproject": ("version", "pyproject.toml", VERSION, 'version = "9.9.9"', "CITATION.cff has version"),
    "date of the citation": ("version", "CITATION.cff", r"^date-released: \S+", "date-released: 1999-01-01", "date"),
    "no date": ("changelog", "CHANGELOG.md", r"^## 0\.1\.0 - \S+", "## 0.1.0", "has no date"),
    "no such date": ("changelog", "CHANGELOG.md", r"^## 0\.1\.0 - \S+", "## 0.1.0 - 2026-13-01", "has no date"),
    "empty entry": ("changelog", "CHANGELOG.md", r"(^## 0\.1\.0 - \S+).*", r"\1\n", "lists no change"),
    "empty heading": ("changelog", "CHANGELOG.md", r"\Z", "\n### Removed\n", "Removed is empty"),
    "unreleased": ("changelog", "CHANGELOG.md", r"^## Unreleased$", "## Unreleased\n\n- A change.", "under Unreleased"),
    "wrong order": ("changelog", "CHANGELOG.md", r"^## 0\.1\.0", "## 7.1.0", "not sorted"),
    "format of models": ("model-files", SOURCES[0], r"^FORMAT_VERSION = \d+", "FORMAT_VERSION = 99", "format 98"),
    "unread format": ("model-files", SOURCES[0], r"^_OLDEST = \d+", "_OLDEST = 4", "format 2, which"),
    "format of exports": ("exports", SOURCES[1], r"^EXPORT_VERSION = \d+", "EXPORT_VERSION = 98", "version 98"),
    "version in docs": ("docs", "README.md", r"\Z", "\npip install patchbank==0.0.9\n", "names patchbank 0.0.9"),
    "format in docs": (
        "docs",
        "docs/reference/model-file.md",
        r"(`format_version`\D+)\d+",
        r"\g<1>4",
        "says format 4, not",
    ),
    "no format in docs": ("docs", "docs/reference/model-file.md", r"`format_version`", "the format", "no page of docs"),
    "tree": ("tree", "README.md", r"\Z", "\n", "README.md: commit"),
    "site": ("site", "Makefile", "true$", "echo broken link >\\&2; exit 1", "make docs"),
    "no citation": ("version", "CITATION.cff", r"^version:.*?$", "", "CITATION.cff has version None"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(fault: str, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check, file, pattern, by, reason = FAULTS[fault]
    edit(tree, file, pattern, by)
    assert report(tree, skip=[name for name in CHECKS if name != check]) == 1
    said = capsys.readouterr().out
    assert f"FAIL  {check}: " in said
    assert reason in said


def test_a_missing_file_is_a_reason(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "CITATION.cff").unlink()
    assert report(tree, skip=("site", "installed")) == 1
    assert "FAIL  version: CITATION.cff cannot be read" in capsys.readouterr().out


def test_a_lost_fixture_is_a_reason(tree: Path) -> None:
    (tree / "tests/model_files/format2.patchbank").unlink()
    assert [reason for reason in CHECKS["model-files"](tree) if "format 2" in reason]


def test_a_tag_on_another_commit_is_a_reason(tree: Path) -> None:
    git(tree, "tag", f"v{project_version(tree)}")
    assert CHECKS["tag"](tree) == []  # the release itself
    commit(tree)
    assert "choose the next version" in CHECKS["tag"](tree)[0]


def test_another_installed_version_is_a_reason(tree: Path) -> None:
    edit(tree, "pyproject.toml", VERSION, 'version = "9.9.9"')
    assert "run `make lint`" in CHECKS["installed"](tree)[0]


def test_entries_are_read_whole() -> None:
    read = entries(ROOT)
    assert [entry.title for entry in read][-2:] == ["0.2.0", "0.1.0"]
    assert read[-1].date == "2026-11-24"
    assert "PaDiM" in read[-1].text
