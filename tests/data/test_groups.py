"""Which images show one part: by a rule, and found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from patchbank.data import Sample
from patchbank.data.groups import find_near_copies, labels_by
from patchbank.errors import OptionError, PatchbankWarning


def sources(*names: str) -> list[Sample]:
    return [Sample.of(name, Path(name)) for name in names]


def test_a_regular_expression_labels_by_its_group_or_by_all_that_matches() -> None:
    images = sources("good/part1_a.png", "good/part1_b.png", "good/part2_a.png")
    assert labels_by(r"part(\d+)_", images) == ["1", "1", "2"]
    assert labels_by(r"part\d+", images) == ["part1", "part1", "part2"]


def test_the_folder_labels() -> None:
    assert labels_by("folder", sources("a/1.png", "a/2.png", "b/1.png")) == ["a", "a", "b"]


def test_a_table_labels_by_name_or_end_of_the_path(tmp_path: Path) -> None:
    table = tmp_path / "parts.csv"
    table.write_text("image,group\n1.png,x\nb/2.png,y\nabs/c/2.png,z\n", encoding="utf-8")
    assert labels_by(str(table), sources("/abs/a/1.png", "/abs/b/2.png", "/abs/c/2.png")) == ["x", "y", "z"]
    with pytest.raises(OptionError, match=r"parts\.csv: has no group for 1 of 2 images, such as 9\.png"):
        labels_by(str(table), sources("1.png", "9.png"))
    table.write_text("1.png\n", encoding="utf-8")
    with pytest.raises(OptionError, match="each row must have an image and its group"):
        labels_by(str(table), sources("1.png"))
    with pytest.raises(OptionError, match=r"nothing\.csv: cannot be read"):
        labels_by("nothing.csv", sources("1.png"))


@pytest.mark.parametrize(
    ("rule", "message"),
    [("(", "must be a regular expression"), ("camera", "matches none of the 2"), ("png", "all 2 images in one group")],
)
def test_rules_that_cannot_be_used(rule: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        labels_by(rule, sources("1.png", "2.png"))


def test_images_that_a_pattern_does_not_match_are_parts_of_their_own_and_said() -> None:
    with pytest.warns(PatchbankWarning, match=r"does not match 2 of 4 images, such as x\.png"):
        labels = labels_by(r"part\d", sources("part1a.png", "part1b.png", "x.png", "y.png"))
    assert labels[0] == labels[1]
    assert len(set(labels)) == 3


def bursts(parts: int, pictures: int, apart: float, seed: int = 0) -> list[np.ndarray]:
    """Descriptors of pictures of each of some parts; parts are `apart` times as different as pictures of one."""
    rng = np.random.default_rng(seed)
    return [
        (apart * part + rng.normal(size=200)).astype(np.float16)
        for part in rng.normal(size=(parts, 200))
        for _ in range(pictures)
    ]


@pytest.mark.parametrize(("parts", "pictures"), [(12, 5), (20, 3), (10, 2)])
def test_bursts_are_found(parts: int, pictures: int) -> None:
    found = find_near_copies(bursts(parts, pictures, 4.0))
    assert found is not None
    assert found.labels == tuple(np.repeat(np.arange(parts) * pictures, pictures).tolist())
    assert (found.groups, found.with_twin) == (parts, parts * pictures)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("count", [8, 12, 30, 100])
def test_independent_images_are_parts_of_their_own(count: int, seed: int) -> None:
    assert find_near_copies(bursts(count, 1, 1.0, seed)) is None


def test_a_few_copies_among_many_images_are_found() -> None:
    images = bursts(24, 1, 4.0)
    found = find_near_copies([*images, *(image + np.float16(0.01) for image in images[:6])])
    assert found is not None
    assert found.groups == 24
    assert found.labels[24:] == found.labels[:6]


def test_two_kinds_of_parts_are_not_two_groups() -> None:
    """A gap alone says nothing: a line may make two kinds of parts."""
    rng = np.random.default_rng(0)
    kinds = [30 * (i % 2) + rng.normal(size=200).astype(np.float16) for i in range(40)]
    assert find_near_copies(kinds) is None
