"""Equations as MathML, made while the site is built, so that a reader's browser fetches nothing for them.

A block is fenced with ```math, as on GitHub; within a line an equation stands as $`x^2`$.
"""

from __future__ import annotations

import logging
import re
from typing import Any
from xml.etree import ElementTree

from latex2mathml.converter import convert
from markdown import Extension, Markdown
from markdown.inlinepatterns import InlineProcessor
from markdown.util import AtomicString

_COMMAND = re.compile(r"\\[a-zA-Z]+")
_NAMESPACE = ' xmlns="http://www.w3.org/1998/Math/MathML"'
_log = logging.getLogger("mkdocs.plugins.patchbank")


def mathml(source: str, display: str = "inline") -> str:
    """MathML of an equation. A command that the converter does not know, and would print, is a warning: with `--strict`
    the build fails."""
    made = str(convert(source, display=display))
    if unknown := _COMMAND.findall(made):
        _log.warning("the equation %r has commands that are not known: %s", source, ", ".join(unknown))
    return made


def block(source: str, *_: Any, **__: Any) -> str:
    """What the fence ```math becomes: a block that scrolls where the page is narrower than the equation."""
    return f'<div class="equation">{mathml(source.strip(), "block")}</div>'


class _Inline(InlineProcessor):
    def handleMatch(self, m: Any, data: str) -> tuple[ElementTree.Element, int, int]:  # type: ignore[override]
        root = ElementTree.fromstring(mathml(m.group(1)).replace(_NAMESPACE, ""))
        for part in root.iter():
            if part.text:
                part.text = AtomicString(part.text)
        return root, m.start(0), m.end(0)


class Equations(Extension):
    """The inline form, before backticks are taken for code."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.inlinePatterns.register(_Inline(r"\$`(.+?)`\$", md), "equation", 195)
