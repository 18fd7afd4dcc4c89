"""The `patchbank` command, also as `python -m patchbank`."""

from __future__ import annotations

import sys


def start() -> None:
    """Run the command line. Where one of its packages is missing, as on a small machine, say so in one sentence."""
    try:
        from patchbank.cli import main
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "patchbank":
            raise
        sys.exit(_without(error.name))
    main()


def _without(package: str) -> int:
    print(
        f"patchbank: the command line needs {package}: `pip install patchbank` brings it, and exported models run "
        "without it by `python -m patchbank.edge.runtime`",
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    start()
