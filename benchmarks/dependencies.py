"""What libraries weigh that could replace code of our own: `python -m benchmarks.dependencies` (docs/contribute/
dependencies.md).

Candidates that are not installed are looked for on PYTHONPATH, where `pip install --target` puts them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

RUNS = 3
CANDIDATES = {  # distribution: the module that would be imported
    "scipy": "scipy.stats", "psutil": "psutil", "httpx": "httpx", "watchdog": "watchdog.observers",
    "watchfiles": "watchfiles", "pydantic": "pydantic", "matplotlib": "matplotlib.figure", "jinja2": "jinja2",
}  # fmt: skip
STARTS = {
    "import patchbank": "import patchbank",
    "import patchbank.methods": "import patchbank.methods",
    "patchbank --help": "import sys; sys.argv = ['patchbank', '--help']\n"
    "from patchbank.cli import main\ntry: main()\nexcept SystemExit: pass",
    "fit and first predict": "import numpy as np; from patchbank import PatchCore\n"
    "images = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), dtype=np.uint8)\n"
    "PatchCore(image_size=64).fit(images).predict(images[0])",
}
_WITHOUT_SCIPY = "import sys; sys.modules['scipy'] = None\n"  # numba imports it where it is installed


def closure(names: Iterable[str]) -> dict[str, metadata.Distribution]:
    """The installed distributions that these requirements bring, by normalised name."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [Requirement(name) for name in names]
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found[name] = metadata.distribution(name)
        waiting += [Requirement(text) for text in found[name].requires or []]
    return found


def megabytes(distributions: Iterable[metadata.Distribution]) -> float:
    """Size of all their files as installed, compiled Python included."""
    files = [Path(str(d.locate_file(file))) for d in distributions for file in d.files or []]
    return sum(path.stat().st_size for path in files if path.is_file()) / 1e6


def cpu_seconds(code: str) -> float:
    """Least CPU time of a fresh process that runs the code."""
    best = float("inf")
    for _ in range(RUNS):
        before = os.times()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        best = min(best, used)
    return best


def import_seconds(module: str, before: str = "") -> float:
    """Least CPU time that importing a module takes beside the methods, which have imported torch and numba."""
    code = f"{before}import time, patchbank.methods\nstart = time.process_time()\nimport {module}\n"
    code += "print(time.process_time() - start)"
    run = [sys.executable, "-c", code]
    return min(float(subprocess.run(run, check=True, capture_output=True, text=True).stdout) for _ in range(RUNS))


def main() -> None:
    base = closure(text for text in metadata.requires("patchbank") or [] if "extra ==" not in text)
    print(f"base install: {megabytes(base.values()):.0f} MB in {len(base)} packages")
    for name, module in CANDIDATES.items():
        try:
            with_all = closure([name])
        except metadata.PackageNotFoundError as error:
            print(f"{name}: not installed ({error})")
            continue
        new = {key: d for key, d in with_all.items() if key not in base}
        own, added = megabytes([with_all[name]]), megabytes(new.values())
        seconds = import_seconds(module, "" if name == "scipy" else _WITHOUT_SCIPY)
        print(f"{name}: {own:.1f} MB, adds {added:.1f} MB in {len(new)} packages; import {seconds:.2f} s of CPU time")
    for what, code in STARTS.items():
        print(f"{what}: {cpu_seconds(_WITHOUT_SCIPY + code):.2f} s of CPU time, with scipy {cpu_seconds(code):.2f} s")


if __name__ == "__main__":
    main()
