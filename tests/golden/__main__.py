"""`python -m tests.golden`: make the golden file with the code as it is now; with names, only these cases of it.

It is made before a change that must not move a number, never after one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.golden.cases import CASES, record
from tests.golden.machine import machine

FILE = Path(__file__).parent / "golden.json"


def main(names: list[str]) -> None:
    before = json.loads(FILE.read_text()) if names and FILE.exists() else {"machine": machine(), "cases": {}}
    for name in names or CASES:
        print(name, flush=True)
        before["cases"][name] = record(name)
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in before["cases"].items()]
    text = ",\n".join(lines)
    FILE.write_text(f'{{"machine": {json.dumps(before["machine"])},\n "cases": {{\n{text}\n}}}}\n')


if __name__ == "__main__":
    main(sys.argv[1:])
