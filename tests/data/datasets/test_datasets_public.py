"""The table of public datasets: what it says of a layout is what the reader takes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchbank import PatchCore, cli
from patchbank.data.datasets import LAYOUTS, open_dataset, open_datasets, read_mask
from patchbank.data.datasets.public import PUBLIC, TREES, PublicDataset
from patchbank.evaluation.evaluate import evaluate
from tests.data.datasets.test_datasets_layouts import TABLE, write


def test_every_layout_is_described() -> None:
    assert set(TREES) == set(LAYOUTS)
    assert len({dataset.name for dataset in PUBLIC}) == len(PUBLIC) == 9


@pytest.mark.parametrize("dataset", PUBLIC, ids=lambda d: d.name)
def test_a_tree_of_the_table_is_read(dataset: PublicDataset, tmp_path: Path) -> None:
    """Written down as the table says, with what the table does not name beside it."""
    write(tmp_path, *dataset.tree)
    if dataset.layout == "visa":
        rows = [
            f"candle,{split},{label},candle/Data/Images/{image}.JPG,{mask}"
            for split, label, image, mask in (
                ("train", "normal", "Normal/0000", ""),
                ("test", "normal", "Normal/0001", ""),
                ("test", "anomaly", "Anomaly/000", "candle/Data/Masks/Anomaly/000.png"),
            )
        ]
        (tmp_path / "split_csv/1cls.csv").write_text("\n".join([TABLE.splitlines()[0], *rows]) + "\n")
    write(tmp_path, "readme.txt", "license.txt")
    (read,) = open_datasets(tmp_path)
    assert read.layout == dataset.layout
    assert read.train
    assert {sample.defect == "good" for sample in read.test} == {True, False}
    for sample in read.test:
        assert (sample.mask is None) == (sample.defect == "good")
        assert sample.mask is None or sample.mask.exists()


def test_private_and_validation_images_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "train/good/0.png", "validation/good/1.png", "test_private/2.png", "test_private_mixed/3.png")
    write(tmp_path, "test_public/good/4.png", "test_public/stray.png", "test_public/bad/notes.txt", "extra.png")
    read = open_dataset(tmp_path)
    assert [path.name for path in read.train] == ["0.png"]
    assert [sample.path.name for sample in read.test] == ["4.png"]


def test_upper_case_endings_and_several_masks(tmp_path: Path) -> None:
    write(tmp_path, "train/OK/0.BMP", "test/Ok/0.BMP", "test/KO/0.BMP")
    (tmp_path / "ground_truth/KO/0").mkdir(parents=True)
    for name, corner in (("a.PNG", (0, 0)), ("b.png", (3, 5))):
        mask = np.zeros((4, 6), np.uint8)
        mask[corner] = 255
        Image.fromarray(mask).save(tmp_path / "ground_truth/KO/0" / name)
    read = open_dataset(tmp_path)
    (bad,) = (sample for sample in read.test if sample.defect != "good")
    mask_of_both = read_mask(bad, read.mask_above, (8, 12))  # of another size than the image
    assert mask_of_both is not None
    assert mask_of_both.sum() == 8
    assert mask_of_both[:2, :2].all()
    assert mask_of_both[6:, 10:].all()


@pytest.mark.parametrize(("kept", "missing"), [("good", "defect"), ("spot", "good")])
def test_one_class_only_gives_reasons(parts: Path, fitted: PatchCore, tmp_path: Path, kept: str, missing: str) -> None:
    for folder in ("train/good", f"test/{kept}", "ground_truth/spot"):
        (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / folder).symlink_to(parts / folder)
    result = evaluate(fitted, open_dataset(tmp_path), pictures=False).metrics
    assert result["image_auroc"] is None
    assert result["notes"]["image_auroc"]
    rate = "recall_at_threshold" if missing == "defect" else "false_alarm_rate"
    assert result[rate] is None
    assert missing in result["notes"][rate]


def test_the_command_lists_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["patchbank", "datasets", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert not stopped.value.code
        return capsys.readouterr().out

    words = run()
    listed = json.loads(run("--json"))
    assert set(listed["layouts"]) == set(LAYOUTS)
    for dataset in listed["datasets"]:
        assert f"{dataset['name']} ({dataset['layout']} layout): {dataset['source']}" in words
        assert dataset["terms"] in words
