"""Completion in the user's shell: `patchbank --show-completion bash`, `--install-completion`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import typer

from patchbank.cli.choices import choice
from patchbank.cli.console import note, say
from patchbank.errors import OptionError

SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
_VARIABLE = "_PATCHBANK_COMPLETE"
_typer: Any = import_module("typer.completion")


def shell_option(name: str, then: Callable[[str], None], help: str) -> Any:
    """An option of the program that takes a shell, does its work, and ends."""
    option = choice(SHELLS, name, help=help)
    check = option.callback

    def act(value: str | None) -> str | None:
        if check(value) is not None and value is not None:
            then(value)
            raise typer.Exit
        return value

    option.callback, option.is_eager = act, True
    return option


def show(shell: str) -> None:
    """Print the script that completes commands, options and their values."""
    say(_typer.get_completion_script(prog_name="patchbank", complete_var=_VARIABLE, shell=shell))


def install(shell: str) -> None:
    """Write the script where the shell finds it."""
    try:
        _, path = _typer.install(shell=shell, prog_name="patchbank", complete_var=_VARIABLE)
    except OSError as error:
        raise OptionError(
            f"--install-completion {shell}: cannot be written ({error}): print it with --show-completion {shell}"
        ) from None
    note(f"completion for {shell} is in {path}; it takes effect in a new terminal")


def prepare() -> None:
    """Let the program answer what these scripts ask."""
    _typer.completion_init()
