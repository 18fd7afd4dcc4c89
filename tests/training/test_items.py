"""What batches are drawn from."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from patchbank.errors import DatasetError
from patchbank.features import storage
from patchbank.features.storage import is_mapped
from patchbank.features.store import FeatureStore
from patchbank.sample import SampleRef
from patchbank.training.items import Patches, Pictures

GRIDS = [(2, 3), (2, 3), (4, 2), (2, 3), (4, 2), (2, 3), (1, 1)]
DIMENSION = 5


def store(on_disk: bool = False, parts: int = 1, images: int = len(GRIDS)) -> FeatureStore:
    """Features that hold the number of their image, their cell, and their dimension."""
    grids = (GRIDS * images)[:images]
    rows = sum(h * w for h, w in grids)
    features = FeatureStore.allocated(rows, [DIMENSION] * parts, torch.device("cpu"), on_disk)
    for i, (h, w) in enumerate(grids):
        start = len(features)
        for part in features._all_parts:
            part[start : start + h * w] = 1000 * i + torch.arange(h * w)[:, None] + torch.arange(DIMENSION) / 10
        features.refs.append(SampleRef(f"{i}", (h, w), (h, w)))
        features.starts.append(start + h * w)
    return features


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [1, 4, 7, 1000])
def test_each_patch_comes_once(size: int) -> None:
    patches = Patches.of(store(images=40))
    batches = list(patches.batches(size, range(40), drawn()))
    assert sorted(torch.cat(batches).tolist()) == list(range(len(patches.vectors)))
    assert max(len(batch) for batch in batches) <= size
    assert abs(len(batches) - patches.steps(size, range(40))) <= 3  # images differ in size
    again = list(patches.batches(size, range(40), drawn()))
    assert all(torch.equal(one, two) for one, two in zip(batches, again, strict=True))
    other = torch.cat(list(patches.batches(size, range(40), drawn(1))))
    assert not torch.equal(torch.cat(batches), other)


def test_patches_of_some_images_alone() -> None:
    patches = Patches.of(store())
    numbers = torch.cat(list(patches.batches(4, [1, 4], drawn())))
    assert set((patches.rows(numbers)[:, 0] // 1000).tolist()) == {1, 4}


def test_patches_of_several_images_are_mixed() -> None:
    patches = Patches.of(store())
    first = next(patches.batches(20, range(7), drawn()))
    assert len(set((patches.rows(first)[:, 0] // 1000).tolist())) > 3


@pytest.mark.parametrize("size", [1, 2, 100])
def test_each_picture_comes_once_with_those_of_its_grid(size: int) -> None:
    pictures = Pictures(store())
    batches = list(pictures.batches(size, range(7), drawn()))
    assert sorted(torch.cat(batches).tolist()) == list(range(7))
    assert len(batches) == pictures.steps(size, range(7))
    for batch in batches:
        assert len({GRIDS[i] for i in batch.tolist()}) == 1
        assert pictures.grid(batch) == GRIDS[int(batch[0])]
        vectors = pictures.vectors(batch)
        assert vectors.shape == (len(batch), np.prod(pictures.grid(batch)), DIMENSION)
        assert torch.equal(vectors[:, 0, 0], 1000.0 * batch)
        assert torch.equal(vectors[0, :, 0] - vectors[0, 0, 0], torch.arange(vectors.shape[1]).float())


def test_grids_take_turns() -> None:
    pictures = Pictures(store(images=42))
    order = [pictures.grid(batch) for batch in pictures.batches(4, range(42), drawn())]
    assert order != sorted(order)
    assert [pictures.grid(batch) for batch in pictures.batches(4, range(42), drawn(1))] != order


@pytest.mark.parametrize("kind", [Patches.of, Pictures])
def test_features_on_disk_give_the_same_batches(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "SCATTERED", 4)
    memory, disk = kind(store()), kind(store(on_disk=True))
    read = "rows" if kind == Patches.of else "vectors"
    for one, other in zip(memory.batches(5, range(7), drawn()), disk.batches(5, range(7), drawn()), strict=True):
        assert torch.equal(one, other)
        found = getattr(disk, read)(other)
        assert torch.equal(getattr(memory, read)(one), found)
        assert not is_mapped(found)


def test_several_channels_of_one_place() -> None:
    features = store(parts=2)
    assert Pictures(features).vectors(torch.tensor([2])).shape == (1, 8, 2 * DIMENSION)
    assert Patches(features.parts[1], features.starts).rows(torch.tensor([3])).shape == (1, DIMENSION)


def test_half_precision_becomes_single() -> None:
    features = store()
    features.vectors = features.stored.half()
    assert Patches.of(features).rows(torch.tensor([1])).dtype == torch.float32
    assert Pictures(features).vectors(torch.tensor([1])).dtype == torch.float32


def test_images_without_a_patch() -> None:
    """Such as those whose region of interest is empty."""
    features = store()
    features.starts = [0, 6, 6, 14]
    patches = Patches.of(features)
    assert len(torch.cat(list(patches.batches(4, range(3), drawn())))) == 14
    with pytest.raises(DatasetError, match="no image has a patch to learn from: look at the region of interest"):
        Patches(torch.empty(0, 5), [0, 0])


_RESIDENT = """
import torch
from patchbank._system.ram import peak_rss_mb, reset_peak
from patchbank.features import storage
from patchbank.features.store import FeatureStore
from patchbank.sample import SampleRef
from patchbank.training.items import Patches, Pictures
storage._MANY = 100_000_000
features = FeatureStore.allocated(200_000, [400], torch.device("cpu"), on_disk=True)
features.refs = [SampleRef(str(i), (50, 40), (50, 40)) for i in range(100)]
features.starts = [2000 * i for i in range(101)]
drawn = torch.Generator().manual_seed(0)
for items, read, size in ((Patches.of(features), "rows", 2048), (Pictures(features), "vectors", 4)):
    before = reset_peak()
    for numbers in items.batches(size, range(100), drawn):
        getattr(items, read)(numbers)
    print(peak_rss_mb() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pages are given back with MADV_DONTNEED")
def test_an_epoch_does_not_bring_all_features_into_memory() -> None:
    done = subprocess.run([sys.executable, "-c", _RESIDENT], capture_output=True, text=True, check=True)
    grown = [float(line) for line in done.stdout.splitlines()]
    assert len(grown) == 2
    assert max(grown) < 200, grown  # of 320 MB
