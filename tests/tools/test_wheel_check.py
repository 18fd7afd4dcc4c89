"""The wheel holds what it must, runs offline, and a wheel with a fault is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from tools.release_check import ROOT, project_version
from tools.wheel_check import NEEDED, Broken, blocked, build, check, check_sdist, check_wheel, run


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    pytest.importorskip("build")
    if not (ROOT / ".git").exists():
        pytest.skip("the sources are no git repository")
    return build(ROOT, tmp_path_factory.mktemp("dist"))


def changed(wheel: Path, folder: Path, *, without: str = "", extra: str = "", size: int = 1) -> Path:
    """A copy of a wheel without what ends so, or with a file more."""
    target = folder / wheel.name
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if not (without and name.endswith(without)):
                new.writestr(name, old.read(name))
        if extra:
            new.writestr(extra, os.urandom(size))
    return target


@pytest.mark.slow
def test_the_distributions_are_whole(built: tuple[Path, Path]) -> None:
    wheel, sdist = built
    check_wheel(wheel, ROOT)
    check_sdist(sdist)
    assert wheel.name.startswith(f"patchbank-{project_version(ROOT)}-py3-none-any")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"without": "py.typed"}, "lacks patchbank/py.typed"),
        ({"without": "service/page/line.js"}, "lacks patchbank/service/page/line.js"),
        ({"without": "methods/spade.py"}, "lacks patchbank/methods/spade.py"),
        ({"without": "NOTICE"}, "lacks NOTICE"),
        ({"extra": "tests/test_options.py"}, "must not hold tests/test_options.py"),
        ({"extra": "patchbank/memory/tile.nbi"}, "must not hold patchbank/memory/tile.nbi"),
        ({"extra": "patchbank/data/parts.bin", "size": 4_000_000}, "leave data out"),
    ],
)
def test_a_wheel_with_a_fault_is_refused(
    fault: dict[str, object], reason: str, built: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(Broken, match=reason):
        check_wheel(changed(built[0], tmp_path, **fault), ROOT)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("left_out", "added", "reason"),
    [
        ("src/patchbank/py.typed", "", "lacks src/patchbank/py.typed"),
        ("", "tests/test_a.py", "must not hold tests/test_a"),
    ],
)
def test_an_sdist_with_a_fault_is_refused(left_out: str, added: str, reason: str, tmp_path: Path) -> None:
    path, empty = tmp_path / "patchbank-1.0.0.tar.gz", tmp_path / "empty"
    empty.touch()
    whole = {"pyproject.toml", "README.md", "LICENSE", "NOTICE", *(f"src/{name}" for name in NEEDED)}
    with tarfile.open(path, "w:gz") as archive:
        for name in (whole | {added}) - {left_out, ""}:
            archive.add(empty, f"patchbank-1.0.0/{name}")
    with pytest.raises(Broken, match=reason):
        check_sdist(path)


def test_a_folder_with_older_wheels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "patchbank-0.0.1-py3-none-any.whl").touch()
    with pytest.raises(Broken, match="name another folder"):
        build(ROOT, tmp_path)


def test_the_network_is_blocked(tmp_path: Path) -> None:
    before, variables = blocked(tmp_path)
    code = "import urllib.request as r; r.urlopen('http://198.51.100.1/', timeout=5)"
    done = subprocess.run(
        [*before, sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "refused" in done.stderr or "unreachable" in done.stderr


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(Broken, match="fails with 3:\nno luck"):
        run([sys.executable, "-c", "import sys; print('no luck', file=sys.stderr); sys.exit(3)"], tmp_path)


@pytest.mark.slow
def test_the_installed_wheel_runs_its_demo_offline(
    built: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(tmp_path, bare=False, wheel=built[0])
    assert "`patchbank demo --quick` offline" in capsys.readouterr().out
