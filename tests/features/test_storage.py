"""Features in a file behave as features in memory, and give their pages back."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from patchbank.features.storage import allocate, in_blocks, release

CPU = torch.device("cpu")


@pytest.mark.parametrize("on_disk", [False, True])
def test_blocks_cover_everything_once(on_disk: bool) -> None:
    vectors = allocate(1000, 3, CPU, on_disk)
    vectors[:] = torch.arange(3000.0).reshape(1000, 3)
    release(vectors)
    seen = [block.clone() for _, block in in_blocks(vectors, rows=7)]
    assert torch.equal(torch.cat(seen), torch.arange(3000.0).reshape(1000, 3))
    for rows, block in in_blocks(vectors, rows=64):
        assert block.data_ptr() == vectors[rows].data_ptr()


def test_the_file_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    vectors = allocate(10, 10, CPU, on_disk=True)
    vectors.fill_(1)
    assert list(tmp_path.iterdir()) == []


_RESIDENT = """
import torch
from patchbank._system.ram import peak_rss_mb, reset_peak
from patchbank.features.storage import allocate, in_blocks
vectors = allocate(400_000, 150, torch.device("cpu"), on_disk=True)
before = reset_peak()
for _, block in in_blocks(vectors):
    block.fill_(1)
print(peak_rss_mb() - before, sum(float(block.sum()) for _, block in in_blocks(vectors)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pages are given back with MADV_DONTNEED")
def test_pages_are_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", _RESIDENT], capture_output=True, text=True, check=True)
    grown, total = map(float, done.stdout.split())
    assert grown < 150  # of 240 MB
    assert total == 400_000 * 150
