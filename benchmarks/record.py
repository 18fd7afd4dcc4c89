"""When, where and from which commit a benchmark ran: beside every result that is written from now on."""

from __future__ import annotations

import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from patchbank._system import environment as system

_ROOT = Path(__file__).parents[1]


def environment() -> dict[str, Any]:
    """The machine and its packages, the date in UTC, the commit and the command."""
    return {"date": datetime.now(timezone.utc).date().isoformat(), "commit": commit(), "command": command()} | (
        system.environment()
    )


def commit() -> str | None:
    """The commit of the working tree, with "+" where files differ from it; None outside a repository."""
    try:
        name = _git("rev-parse", "--short=10", "HEAD")
        return name + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def command() -> str:
    """The command line, with folders shortened to their names: they are those of one machine."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"python -m {spec.name.removesuffix('.__main__')}" if spec else Path(sys.argv[0]).name
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return " ".join([program, *map(shlex.quote, words)])


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=_ROOT, check=True, capture_output=True, text=True).stdout.strip()
