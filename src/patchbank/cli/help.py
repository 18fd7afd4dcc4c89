"""Help texts as they are written: square brackets are no mark-up."""

from __future__ import annotations

import copy
from typing import Any

from typer.core import TyperCommand


class PlainHelp(TyperCommand):
    """A command whose help shows `[default: …]`, which rich takes for a style and drops."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        shown = self
        if self.rich_markup_mode is not None:
            shown = _escaped(self)
            shown.params = [_escaped(parameter) for parameter in self.params]
        TyperCommand.format_help(shown, ctx, formatter)


def _escaped(helped: Any) -> Any:
    """A copy of a command or parameter whose help text is no mark-up."""
    from rich.markup import escape

    helped = copy.copy(helped)
    helped.help = escape(getattr(helped, "help", None) or "") or None
    return helped
