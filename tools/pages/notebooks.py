"""Notebooks as pages: their text, their code and the outputs that are stored in them."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

_TERMINAL = re.compile(r"\x1b\[[0-9;]*m")
_MOST = 60  # lines of one output


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """Markdown of a notebook, and its pictures by their file names."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code" and source.strip():
            parts.append(f"```python\n{source}\n```")
            for output in cell.get("outputs", ()):
                parts += _shown(output, f"{path.stem}-{number}", pictures)
    parts.append(f"[This page as a notebook]({path.name})")
    return "\n\n".join(parts) + "\n", pictures


def _shown(output: dict[str, Any], name: str, pictures: dict[str, bytes]) -> list[str]:
    """One output of a cell: a picture, or text as it was printed."""
    data = output.get("data", {})
    for kind in ("png", "jpeg"):
        if f"image/{kind}" in data:
            file = f"{name}-{len(pictures)}.{kind}"
            pictures[file] = base64.b64decode("".join(data[f"image/{kind}"]))
            return [f"![Output of the code above]({file})"]
    text = "".join(output.get("text", data.get("text/plain", ())))
    lines = _TERMINAL.sub("", text).rstrip().split("\n")
    if lines == [""]:
        return []
    if len(lines) > _MOST:
        lines = [*lines[:_MOST], f"… {len(lines) - _MOST} more lines"]
    return ["``` {.text .output}\n" + "\n".join(lines) + "\n```"]
