"""The drawn parts: the same from the same seed, and masks that are exactly what the defect changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from patchbank.data.datasets import open_dataset, read_mask
from patchbank.demo.drawing import blob, smooth_noise
from patchbank.demo.synthetic import KINDS, defects, draw, write_dataset
from patchbank.errors import DatasetError, OptionError

DEFECTS = [(kind, defect) for kind in KINDS for defect in defects(kind)]


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_good_part(kind: str) -> None:
    image, mask = draw(kind, None, rng(0))
    assert image.dtype == np.uint8
    assert image.shape == (*mask.shape, 3)
    assert mask.dtype == bool
    assert not mask.any()
    assert 40 < image.mean() < 200
    np.testing.assert_array_equal(image, draw(kind, None, rng(0))[0])
    assert np.any(image != draw(kind, None, rng(1))[0])


@pytest.mark.parametrize(("kind", "defect"), DEFECTS)
def test_mask_is_what_the_defect_changed(kind: str, defect: str) -> None:
    for seed in range(8):
        image, mask = draw(kind, defect, rng(seed))
        good, _ = draw(kind, None, rng(seed))
        changed = np.any(image != good, axis=2)
        assert not changed[~mask].any()
        assert changed.sum() > 0.8 * mask.sum()  # what closing adds are pinholes
        assert 10 < mask.sum() < 0.15 * mask.size
        difference = np.abs(image.astype(int) - good)[mask]
        assert difference.max() >= 12, "a defect that nobody can see"
    np.testing.assert_array_equal(mask, draw(kind, defect, rng(seed))[1])


@pytest.mark.parametrize("kind", KINDS)
def test_at_least_four_defects_that_differ(kind: str) -> None:
    assert len(set(defects(kind))) == len(defects(kind)) >= 4
    images = [draw(kind, defect, rng(3))[0].tobytes() for defect in defects(kind)]
    assert len(set(images)) == len(images)


def test_unknown_kind_and_defect() -> None:
    with pytest.raises(OptionError, match="'bolt'; choose one of " + ", ".join(KINDS)):
        defects("bolt")
    with pytest.raises(OptionError, match="gear has no defect 'stain'"):
        draw("gear", "stain", rng(0))


@pytest.mark.parametrize("kind", KINDS)
def test_written_dataset_opens(tmp_path: Path, kind: str) -> None:
    folder = write_dataset(tmp_path, kind, n_train=3, n_test_good=2, n_per_defect=1)
    dataset = open_dataset(folder)
    assert (dataset.name, dataset.layout, len(dataset.train)) == (kind, "mvtec", 3)
    assert sorted(sample.defect for sample in dataset.test) == sorted(["good", "good", *defects(kind)])
    for sample in dataset.test:
        mask = read_mask(sample, dataset.mask_above, draw(kind, None, rng(0))[1].shape)
        assert mask is not None
        assert mask.any() == (sample.defect != "good")


def test_seed_decides_and_counts_do_not(tmp_path: Path) -> None:
    few = files_of(write_dataset(tmp_path / "few", "weave", n_train=2, n_test_good=1, n_per_defect=1))
    more = files_of(write_dataset(tmp_path / "more", "weave", n_train=3, n_test_good=2, n_per_defect=2))
    other = files_of(write_dataset(tmp_path / "other", "weave", seed=1, n_train=2, n_test_good=1, n_per_defect=1))
    assert few.items() <= more.items()
    assert few.keys() == other.keys()
    assert all(few[name] != other[name] for name in few)
    assert few["train/good/000.png"] != few["test/good/000.png"]


def test_a_used_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "gear").mkdir()
    (tmp_path / "gear" / "mine.txt").write_text("mine")
    with pytest.raises(DatasetError, match="is not empty"):
        write_dataset(tmp_path, "gear", n_train=1, n_test_good=0, n_per_defect=0)
    assert files_of(tmp_path / "gear") == {"mine.txt": b"mine"}


def test_smooth_noise_has_unit_variance_everywhere() -> None:
    fields = np.stack([smooth_noise(rng(i), (24, 32), (3, 5)) for i in range(2000)])
    assert fields.dtype == np.float32
    np.testing.assert_allclose(fields.mean(axis=0), 0, atol=0.12)
    np.testing.assert_allclose(fields.std(axis=0), 1, atol=0.12)


def test_blob_is_compact() -> None:
    spot = blob(rng(0), (64, 64), (30.0, 34.0), 8.0, softness=3)
    assert spot[34, 30] == 1
    assert np.all(spot[:12] == 0)
    assert 0.5 < spot.sum() / (np.pi * 8**2) < 2
