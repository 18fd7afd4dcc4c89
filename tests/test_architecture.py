"""The house stands as docs say: no cycles, short files, one way through for one prediction."""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import patchbank
from patchbank.detector import Detector
from patchbank.methods import METHODS
from patchbank.registry import COMBINATIONS
from tests.conftest import bad_image, good_image

ROOT = Path(patchbank.__file__).parent
MODULES = {
    ".".join(("patchbank", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def imports(node: ast.AST) -> Iterator[ast.ImportFrom | ast.Import]:
    """Also those inside functions; not those for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if isinstance(child, ast.ImportFrom | ast.Import):
            yield child
        yield from imports(child)


def arrows() -> dict[str, set[str]]:
    """Of each module those that it imports."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, path in MODULES.items():
        for node in imports(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names if alias.name.startswith("patchbank")}
            elif node.module and node.module.startswith("patchbank"):
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                found[name] |= {each if each in MODULES else node.module for each in whole}
    return found


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """The names on a way that comes back to where it began, if there is one."""
    done: set[str] = set()

    def search(name: str, way: list[str]) -> list[str]:
        if name in way:
            return way[way.index(name) :]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            if found := search(other, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := search(name, []))), [])


def test_a_cycle_is_found() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {name: others - {"patchbank"} for name, others in arrows().items()}
    assert cycle(graph) == []


def test_no_folder_imports_itself_by_way_of_others() -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for name, others in arrows().items():
        for other in others - {"patchbank"}:
            one, two = name.split(".")[1:2], other.split(".")[1:2]
            if one and two and one != two:
                graph[one[0]] |= {two[0]}
    assert cycle(graph) == []


def test_few_modules_at_the_top() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 14


def test_class_variables_have_a_type() -> None:
    """Python 3.10 cannot read the hints of a class with a bare ClassVar: no option of it could be checked."""
    bare = re.compile(r"^\s+\w+: ClassVar(?!\[)", re.MULTILINE)
    assert bare.search("    method: ClassVar = 1")
    assert [module for module, path in MODULES.items() if bare.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("path", sorted((ROOT / "methods").glob("*.py")), ids=lambda path: path.stem)
def test_a_method_is_a_short_file(path: Path) -> None:
    assert len(path.read_text().splitlines()) < (200 if path.stem == "patchcore" else 300)


@pytest.mark.parametrize("method", [*METHODS.values(), *COMBINATIONS.values()], ids=lambda kind: kind.method)
def test_composition_over_inheritance(method: type[Detector]) -> None:
    ours = [kind for kind in method.__mro__ if kind.__module__.startswith("patchbank")]
    assert len(ours) <= 3 or method.method == "anomalydino"  # PatchCore with another distance


def test_one_prediction_goes_forward_only() -> None:
    """It crosses few files, and comes to the detector once."""
    model = patchbank.PatchCore(image_size=64).fit([good_image(i) for i in range(4)])
    model.predict(bad_image(0))
    files: set[str] = set()
    entered: list[str] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        name = frame.f_code.co_filename
        if event != "call" or not name.startswith(str(ROOT)):
            return
        files.add(name)
        caller = frame.f_back
        if name.endswith("patchbank/detector.py") and caller and not _within_package(caller):
            entered.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        model.predict(bad_image(1))
    finally:
        sys.setprofile(None)
    assert entered == ["predict"]
    assert len(files) <= 30, sorted(files)


def _within_package(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(str(ROOT))
