"""Features from the cache are those that would be computed, whatever happened to the files; and it keeps its size."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from patchbank import FAPM, PatchCore
from patchbank._system.threads import RuntimeContext
from patchbank.data import gather
from patchbank.data.roi import RegionOfInterest
from patchbank.features.cache import FeatureCache, no_cache
from patchbank.features.extractor import Extractor
from patchbank.features.loading import Inputs
from tests.conftest import good_image

LARGE = 10**9


def extractor(cache: FeatureCache | None, **options: object) -> Extractor:
    model = PatchCore(**{"image_size": 96, "threads": 1, "weights": "random", **options})  # type: ignore[arg-type]
    model.feature_cache = cache
    return model.extractor


def features(cache: FeatureCache | None, images: Path, **options: object) -> torch.Tensor:
    return torch.cat([item.vectors for item in extractor(cache, **options).stream(gather(images))])


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(4):
        Image.fromarray(good_image(i)).save(folder / f"{i}.png")
    return folder


OPTIONS = [
    {},
    {"levels": (2,)},
    {"patch_size": 5},
    {"aggregation": "reference"},
    {"geometry": "paper"},
    {"image_size": 64},
    {"stride": 2},
    {"runtime": "torch"},
    {"seed": 1},  # other random weights
    {"tile": 128, "overlap": 64},
]


def test_every_option_that_changes_features_has_entries_of_its_own(images: Path, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache", LARGE)
    for turn in range(2):
        for options in OPTIONS:
            assert torch.equal(features(cache, images, **options), features(None, images, **options)), options
        assert (cache.hits, cache.misses) == (turn * 4 * len(OPTIONS), 4 * len(OPTIONS))


def test_what_comes_after_the_features_is_not_in_the_key(images: Path, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache", LARGE)
    region = RegionOfInterest(include=(((0, 0), (60, 0), (60, 96), (0, 96)),))
    features(cache, images)
    with RuntimeContext(1).active():  # the key has the number of threads, which `extractor` sets too
        only = replace(extractor(cache), inputs=Inputs(roi=region))
        painted = replace(only, inputs=Inputs(roi=region, painted=region))  # which changes the pixels
        vectors = torch.cat([item.vectors for item in only.stream(gather(images))])
    plain = torch.cat([item.vectors for item in replace(only, cache=None).stream(gather(images))])
    assert torch.equal(vectors, plain)
    assert cache.hits == 4
    vectors = torch.cat([item.vectors for item in painted.stream(gather(images))])
    assert torch.equal(vectors, torch.cat([i.vectors for i in replace(painted, cache=None).stream(gather(images))]))
    assert cache.hits == 4


def test_methods_that_see_the_same_features_share_them(images: Path, tmp_path: Path) -> None:
    """PatchCore and another of its banks do; FAPM, which arranges levels otherwise, does not."""
    cache = FeatureCache(tmp_path / "cache", LARGE)
    for detector in (PatchCore(sampler="random"), PatchCore(coreset=0.02, seed=0), FAPM()):
        detector.feature_cache, detector.image_size, detector.threads = cache, 96, 1
        detector.fit(images)
    assert cache.misses == 8
    assert cache.hits >= 4


def test_an_image_is_known_by_its_content(images: Path, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache", LARGE)
    features(cache, images)
    shutil.copytree(images, tmp_path / "elsewhere")
    assert torch.equal(features(cache, tmp_path / "elsewhere"), features(None, images))
    assert cache.hits == 4
    Image.fromarray(good_image(9)).save(images / "0.png")  # another picture under the same name
    assert torch.equal(features(cache, images), features(None, images))
    assert (cache.hits, cache.misses) == (7, 5)


@pytest.mark.parametrize("damage", ["cut", "empty", "other bytes", "not a file"])
def test_a_damaged_entry_is_computed_again(damage: str, images: Path, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache", LARGE)
    expected = features(cache, images)
    entries = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(entries) == 4
    for entry in entries:
        data = bytearray(entry.read_bytes())
        if damage == "cut":
            entry.write_bytes(data[: len(data) // 2])
        elif damage == "empty":
            entry.write_bytes(b"")
        elif damage == "other bytes":
            data[-1000] ^= 1
            entry.write_bytes(data)
        else:
            entry.write_text("no features")
    assert torch.equal(features(cache, images), expected)
    assert cache.misses == 8
    assert torch.equal(features(cache, images), expected)  # and they are whole again
    assert cache.hits == 4


def test_the_longest_unused_go_first_and_the_size_is_kept(tmp_path: Path) -> None:
    entry = torch.ones(1000, 25)  # 100 kB
    cache = FeatureCache(tmp_path, 1_000_000)
    for i in range(9):
        cache.put(str(i), "how", entry)
        os.utime(cache._path(str(i), "how"), ns=(i * 10**9, i * 10**9))
    assert cache.get("0", "how") is not None  # used just now
    for i in range(9, 14):
        cache.put(str(i), "how", entry)
        assert sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) <= 1_000_000
    there = [i for i in range(14) if cache.get(str(i), "how") is not None]
    assert 0 in there
    assert 13 in there
    assert not {1, 2, 3, 4} & set(there)
    cache.put("huge", "how", torch.ones(10**6))
    assert cache.get("huge", "how") is None


def test_another_process_fills_it_too(tmp_path: Path) -> None:
    first, second = FeatureCache(tmp_path, 10**6), FeatureCache(tmp_path, 10**6)
    for i in range(30):
        (first, second)[i % 2].put(str(i), "how", torch.ones(1000, 25))
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) <= 1.2e6


def test_half_written_entries_of_dead_runs_are_swept(tmp_path: Path) -> None:
    (tmp_path / "aa").mkdir()
    old, new = tmp_path / "aa" / ".x.tmp", tmp_path / "aa" / ".y.tmp"
    old.write_text("half")
    new.write_text("half, being written")
    os.utime(old, (1, 1))
    FeatureCache(tmp_path, LARGE).put("0", "how", torch.ones(10))
    assert not old.exists()
    assert new.exists()


def test_a_disk_that_cannot_be_written_ends_the_cache_not_the_work(images: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    cache = FeatureCache(tmp_path / "cache", LARGE)
    with pytest.warns(UserWarning, match="no features can be kept"):
        found = features(cache, images)
    assert torch.equal(found, features(None, images))
    assert not cache.active


def test_arrays_are_not_cached_and_bad_files_are_still_named(images: Path, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache", LARGE)
    list(extractor(cache).stream(gather([np.asarray(good_image(0))])))
    assert (cache.hits, cache.misses) == (0, 0)
    (images / "broken.png").write_text("no image")
    named: list[str] = []
    for _ in range(2):
        found = list(extractor(cache).stream(gather(images), lambda name, error: named.append(Path(name).name)))
        assert len(found) == 4
    assert named == ["broken.png"] * 2


def test_no_cache_computes_and_puts_it_back(images: Path, tmp_path: Path) -> None:
    model = PatchCore(image_size=96, threads=1, weights="random")
    model.feature_cache = FeatureCache(tmp_path / "cache", LARGE)
    model.fit(images)
    before = model.feature_cache.hits + model.feature_cache.misses
    with no_cache(model) as was_cached:
        score = model.predict(images / "0.png").score
    assert was_cached
    assert model.feature_cache.hits + model.feature_cache.misses == before
    assert model.predict(images / "0.png").score == score
    assert model.feature_cache.hits > 0
    assert model.feature_cache.active
