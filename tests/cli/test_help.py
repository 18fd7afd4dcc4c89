"""Help texts appear as they are written."""

from __future__ import annotations

import re

import pytest
import typer.main

from patchbank.cli import app
from tests.cli.running import patchbank

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", COMMANDS)
def test_no_bracket_is_lost(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    shown = _words(patchbank(name, "--help").stdout)
    for parameter in COMMANDS[name].params:
        written = _words(getattr(parameter, "help", None) or "")
        assert written in shown, f"{name} {parameter.name}"


def _words(text: str) -> str:
    """Without the frame, and however lines are broken."""
    return re.sub(r"\s+", " ", re.sub(r"[│╭╮╰╯─]", " ", text)).strip()
