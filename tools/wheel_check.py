"""`make wheel-test`: build the wheel and the sdist, look into them, and run the demo of the installed wheel offline.

The wheel is installed into a new environment without the sources. `--bare` downloads its dependencies as a user does.
Without it the environment borrows the dependencies of this one, which takes seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_MB = 3  # of the wheel: it holds no data
NEEDED = (
    "patchbank/py.typed",
    "patchbank/report/evaluation.html.j2",
    "patchbank/report/style.css",
    "patchbank/service/page/index.html",
    "patchbank/__main__.py",
)
FOREIGN = ("tests/", "benchmarks/", "docs/", "tools/", "examples/")
COMPILED = (".nbi", ".nbc", ".pyc")


class Broken(Exception):
    """What is wrong with a distribution, in one sentence."""


# ---- build ----


def build(root: Path, output: Path) -> tuple[Path, Path]:
    """The wheel and the sdist of a copy of the tracked and new files, so that no earlier build leaks in."""
    if output.exists() and any(output.iterdir()):
        raise Broken(f"{output} is not empty: name another folder with --output")
    with tempfile.TemporaryDirectory() as copy:
        for name in _source_files(root):
            target = Path(copy) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, target)
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), copy]
        run(command, folder=Path(copy))
    (wheel,), (sdist,) = output.glob("*.whl"), output.glob("*.tar.gz")
    return wheel, sdist


def _source_files(root: Path) -> list[str]:
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], folder=root)
    return [name for name in listed.split("\0") if name and (root / name).is_file()]


# ---- look into it ----


def check_wheel(wheel: Path, root: Path) -> None:
    """Raises `Broken` unless every module and data file is there and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = root / "src" / "patchbank"
    page = {f"patchbank/service/page/{path.name}" for path in (package / "service/page").iterdir() if path.is_file()}
    modules = {f"patchbank/{path.relative_to(package).as_posix()}" for path in package.rglob("*.py")}
    _refuse(sorted(({*NEEDED} | page | modules) - names), f"{wheel.name} lacks")
    foreign = [name for name in names if not name.startswith(("patchbank/", "patchbank-")) or name.endswith(COMPILED)]
    _refuse(sorted(foreign), f"{wheel.name} must not hold")
    for licence in ("LICENSE", "NOTICE"):
        if not any(name.endswith(f"/licenses/{licence}") for name in names):
            raise Broken(f"{wheel.name} lacks {licence}: name it in license-files of pyproject.toml")
    if wheel.stat().st_size > MOST_MB * 1e6:
        raise Broken(f"{wheel.name} has {wheel.stat().st_size / 1e6:.1f} MB, more than {MOST_MB}: leave data out")


def check_sdist(sdist: Path) -> None:
    """Raises `Broken` unless the sources and metadata are there without tests and data."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"pyproject.toml", "README.md", "LICENSE", "NOTICE", *(f"src/{name}" for name in NEEDED)}
    _refuse(sorted(needed - names), f"{sdist.name} lacks")
    _refuse(sorted(name for name in names if name.startswith(FOREIGN)), f"{sdist.name} must not hold")


def _refuse(names: Sequence[str], what: str) -> None:
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise Broken(f"{what} {', '.join(names[:3])}{more}: correct MANIFEST.in or package-data of pyproject.toml")


# ---- install it and run it ----


def install(wheel: Path, folder: Path, *, bare: bool) -> Path:
    """A new environment with the wheel; its `patchbank` command."""
    environment = cleared()
    run([sys.executable, "-m", "venv", str(folder)], wheel.parent, environment)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    python = str(scripts / "python")
    options = ["--constraint", str(ROOT / "constraints.txt")] if bare and sys.version_info >= (3, 11) else []
    if not bare:
        options = ["--no-deps", "--no-index"]
        site = Path(
            run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder=folder).strip()
        )
        # a folder that a .pth file names is searched, but its own .pth files, which know the sources, are not read
        (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    run([python, "-m", "pip", "install", "--quiet", *options, str(wheel)], folder, environment)
    return scripts / "patchbank"


def smoke(command: Path, folder: Path, version: str) -> float:
    """Run the demo as a new user without a network; its seconds. Raises `Broken`."""
    folder.mkdir()
    offline = blocked(folder)
    environment = cleared() | {"HOME": str(folder), "USERPROFILE": str(folder)} | offline[1]
    python = str(command.with_name("python"))
    where = run([*offline[0], python, "-c", "import patchbank; print(patchbank.__file__)"], folder, environment).strip()
    if not Path(where).resolve().is_relative_to(command.parents[1].resolve()):
        raise Broken(f"the environment imports {where}: the sources were installed, not the wheel")
    said = run([*offline[0], str(command), "--version"], folder, environment).strip()
    if said != f"patchbank {version}":
        raise Broken(f"the wheel prints {said!r}, not 'patchbank {version}'")
    started = time.perf_counter()
    run([*offline[0], str(command), "demo", "--quick", "-O", "out"], folder, environment)
    seconds = time.perf_counter() - started
    reports = [path for path in (folder / "out").rglob("report.html") if path.stat().st_size > 10_000]
    metrics = [json.loads(path.read_text(encoding="utf-8")) for path in (folder / "out").rglob("metrics.json")]
    if len(reports) != 1 or len(metrics) != 1 or metrics[0]["image_auroc"] < 0.9:
        raise Broken("the demo of the wheel wrote no report, or found no defects")
    return seconds


def cleared() -> dict[str, str]:
    """The environment variables without those that lead to the sources or to an earlier run."""
    ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "NUMBA_CACHE_DIR")
    return {key: value for key, value in os.environ.items() if key not in ours}


def blocked(folder: Path) -> tuple[list[str], dict[str, str]]:
    """What to put before a command so that it has no network, and variables that send it to a port without a server."""
    nowhere = "http://127.0.0.1:9"
    variables = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"), nowhere)
    variables |= {"NO_PROXY": "", "no_proxy": "", "HF_HUB_OFFLINE": "1"}
    apart = ["unshare", "--map-root-user", "--net"]
    try:
        subprocess.run([*apart, "true"], cwd=folder, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return [], variables
    return apart, variables


def run(command: Sequence[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise Broken(f"`{' '.join(map(str, command))}` fails with {done.returncode}:\n{last}")
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the wheel, look into it, install it and run its demo offline.")
    parser.add_argument("--bare", action="store_true", help="download the dependencies, as a user does")
    parser.add_argument("--wheel", type=Path, help="take this wheel instead of building one")
    parser.add_argument("--output", type=Path, help="keep the wheel and the sdist in this folder")
    given = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as name:
            check(Path(name), bare=given.bare, wheel=given.wheel, output=given.output)
    except Broken as error:
        print(f"wheel-test: {error}", file=sys.stderr)
        return 1
    return 0


def check(folder: Path, *, bare: bool, wheel: Path | None = None, output: Path | None = None) -> None:
    """Every step in a folder, and a line on each."""
    if wheel is None:
        distributions = output or folder / "dist"
        wheel, sdist = build(ROOT, distributions)
        check_sdist(sdist)
        print(f"built {wheel.name} and {sdist.name}")
    wheel = wheel.resolve()
    check_wheel(wheel, ROOT)
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, every module, template and page file is there")
    started = time.perf_counter()
    command = install(wheel, folder / "environment", bare=bare)
    how = "with its dependencies" if bare else "beside the dependencies of this environment"
    print(f"installed {how} in {time.perf_counter() - started:.0f} s")
    seconds = smoke(command, folder / "elsewhere", wheel.name.split("-")[1])
    print(f"`patchbank demo --quick` offline: {seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
