"""A training set looked over before it is learned from."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchbank import PaDiM, PatchCore, cli
from patchbank.audit import audit, near_duplicates, robust_deviations
from patchbank.data import gather
from patchbank.errors import OptionError
from tests.conftest import bad_image, good_image, small_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 good images, a defect, a copy, another size, and a file that is none."""
    root = tmp_path_factory.mktemp("good")
    for i in range(12):
        Image.fromarray(good_image(i)).save(root / f"{i:02}.png")
    Image.fromarray(bad_image(70)).save(root / "planted.png")
    Image.fromarray(good_image(3)).save(root / "again.jpg", quality=85)
    Image.fromarray(good_image(90, (80, 128))).save(root / "small.png")
    (root / "broken.png").write_bytes(b"nothing")
    return root


def test_what_does_not_belong_is_found(folder: Path) -> None:
    heard: list[str] = []
    found = audit(folder, small_model(), on_error=lambda name, error: heard.append(name))
    assert Path(found.ranked[0].image).name == "planted.png"
    assert "planted.png" in {Path(s.image).name for s in found.suspicious}
    assert [{Path(a).name, Path(b).name} for a, b, _ in found.duplicates] == [{"03.png", "again.jpg"}]
    assert [(Path(name).name, size) for name, size in found.odd_sizes] == [("small.png", (80, 128))]
    assert found.usual_size == (96, 128)
    assert [Path(name).name for name, _ in found.unreadable] == ["broken.png"] == [Path(name).name for name in heard]
    assert len(found.ranked) == 15
    assert json.loads(json.dumps(found.to_dict()))["images"] == 15


def test_duplicates_are_pictures_of_one_scene_only() -> None:
    rng = np.random.default_rng(0)
    images = [good_image(i) for i in range(5)]
    noisy = np.clip(images[1] + rng.normal(0, 1, images[1].shape), 0, 255).astype(np.uint8)
    assert [pair[:2] for pair in near_duplicates(gather([*images, noisy, images[4]]))] == [
        ("image 4", "image 6"),
        ("image 1", "image 5"),
    ]
    plain = [np.full((40, 40, 3), 100 + i, np.uint8) for i in range(4)]
    assert near_duplicates(gather(plain)) == ()  # all as alike as all the others
    assert near_duplicates(gather(plain[:1])) == ()


def test_parts_in_a_fixture_are_no_duplicates() -> None:
    """All much alike: the usual difference decides."""
    rng = np.random.default_rng(1)
    base = rng.integers(60, 200, (64, 64, 1)).repeat(3, axis=2)
    parts = [np.clip(base + rng.normal(0, 2, (64, 64, 1)), 0, 255).astype(np.uint8) for _ in range(40)]
    assert near_duplicates(gather(parts)) == ()
    assert [pair[:2] for pair in near_duplicates(gather([*parts, parts[7]]))] == [("image 7", "image 40")]


def test_robust_deviations() -> None:
    scores = np.array([1.0, 2, 3, 4, 100])
    assert robust_deviations(scores)[2] == 0
    assert robust_deviations(scores)[4] == pytest.approx(97 / 1.4826)
    assert robust_deviations(np.array([1.0, 1, 1, 5])).tolist() == pytest.approx([0, 0, 0, 4 / 1.2533], rel=1e-3)
    assert robust_deviations(np.ones(3)).tolist() == [0, 0, 0]


def test_what_cannot_be_audited(folder: Path) -> None:
    with pytest.raises(OptionError, match="takes a patchcore"):
        audit(folder, PaDiM())
    with pytest.raises(OptionError, match="at least three, not 2"):
        audit([good_image(0), good_image(1)], small_model())


def test_the_commands(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["patchbank", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0)

    assert run("audit", folder, "-O", tmp_path, "--image-size", 96, "--top", 3) == 1  # an image could not be read
    rows = (tmp_path / "audit.csv").read_text().splitlines()
    assert rows[0] == "rank,image,score,deviation,suspicious"
    assert rows[1].startswith("1,")
    assert "planted.png" in rows[1]
    page = (tmp_path / "report.html").read_text()
    assert page.count("<figure>") == 3 + 1
    assert "planted.png" in page
    assert "http" not in page.replace("http-equiv", "")
    model = tmp_path / "m.patchbank"
    assert run("fit", folder, "-o", model, "--image-size", 96, "--bank-size", 100, "--drop-suspicious") == 1
    from patchbank import load

    learned = load(model)
    assert isinstance(learned, PatchCore)
    assert not any("planted" in image.name for image in learned.bank_.refs)
    assert learned.training_["images"] <= 14
