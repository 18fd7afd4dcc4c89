"""The printed numbers agree with themselves, every preset makes cells, and a table says how far ours is from theirs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from patchbank.cli.detectors import make_detector
from patchbank.data.datasets import Dataset, open_dataset
from patchbank.errors import OptionError, WeightsError
from patchbank.evaluation import grid
from patchbank.evaluation import published as p
from patchbank.evaluation.beside_paper import METRICS, as_rows, compare, over_seeds, table
from patchbank.evaluation.grid import Wanted, of_options, of_preset
from patchbank.evaluation.presets import PRESETS, get_preset
from patchbank.evaluation.published import ALL, MVTEC


def wanted(parts: Path, **more: Any) -> Wanted:
    def opened(seed: int) -> list[Dataset]:
        return [open_dataset(parts)]

    def make(method: str, options: Mapping[str, Any]) -> Any:
        return make_detector(method, None, **options)

    return Wanted(opened, make, **{"options": {}, "backbones": ("efficientnet_lite0",), **more})


@pytest.mark.parametrize("share", [0.25, 0.1, 0.01])
@pytest.mark.parametrize("metric", ["image_auroc", "pixel_auroc", "aupro"])
def test_the_categories_of_patchcore_have_the_printed_mean(share: float, metric: str) -> None:
    values = p.PATCHCORE[share][metric]
    assert fmean(values[name].mean for name in MVTEC) == pytest.approx(values[ALL].mean, abs=0.11)


@pytest.mark.parametrize("published", [p.FAPM, p.LMF])
@pytest.mark.parametrize("metric", ["image_auroc", "pixel_auroc"])
def test_the_categories_of_the_others_too(published: Mapping[str, Any], metric: str) -> None:
    values = published[metric]
    assert set(values) == {ALL, *MVTEC}
    assert fmean(values[name].mean for name in MVTEC) == pytest.approx(values[ALL].mean, abs=0.11)


def test_tables_of_one_paper_agree() -> None:
    for share, name in ((0.1, "PatchCore-10"), (0.01, "PatchCore-1")):  # Table 4 repeats Tables 1 to 3
        for metric in ("image_auroc", "pixel_auroc", "aupro"):
            assert p.SPEED[name][metric][ALL] == p.PATCHCORE[share][metric][ALL]
    assert p.FAPM_ABLATION["E"]["images_per_second"] == p.FAPM["images_per_second"]
    assert p.low_shot("patchcore 0.25", 16)["aupro"][ALL] == (91.7, 0.1)
    assert p.low_shot("spade", 1)["image_auroc"][ALL] == (71.6, 0.7)
    for method in p._LOW_SHOT:  # more images are never worse
        for metric in ("image_auroc", "pixel_auroc", "aupro"):
            means = [p.low_shot(method, shots)[metric][ALL].mean for shots in p.SHOTS]
            assert means == sorted(means) or method.startswith("patchcore")


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_every_preset_makes_cells_and_names_what_is_published(preset: Any, parts: Path) -> None:
    said: list[str] = []
    cells = of_preset(preset, wanted(parts), said.append)
    assert cells
    assert len({(cell.name, cell.label) for cell in cells}) == len(cells)
    for cell in cells:
        cell.detector.check()
        assert "{" not in str(cell.label)
        assert cell.detector.backbone == "efficientnet_lite0"
    assert set(preset.metrics) <= set(METRICS)
    for variant in preset.variants:
        assert set(variant.published) <= set(preset.metrics)
        assert all(ALL in values for values in variant.published.values())
    own = [v.label_with(v.options_with({})) for v in preset.variants]
    assert len(set(own)) == len(own)
    figures = ("neighbourhood", "levels", "resolution")
    assert any(v.published for v in preset.variants) != preset.name.endswith(figures)


def test_the_protocol_is_the_papers_unless_something_else_is_given(parts: Path) -> None:
    variants = get_preset("patchcore-table1").variants
    options = variants[1].options_with({"seed": 3, "coreset": None})
    assert options == {"backbone": "wide_resnet50", "geometry": "paper", "coreset": 0.1, "seed": 3}
    given = variants[1].options_with({"bank_size": 50, "geometry": "whole"})
    assert given == {"backbone": "wide_resnet50", "geometry": "whole", "bank_size": 50}


def test_options_that_make_variants_one_leave_one_and_take_its_published_numbers_away(parts: Path) -> None:
    backbones = get_preset("patchcore-backbones")
    cells = of_preset(backbones, wanted(parts), print)
    assert [cell.label for cell in cells] == ["efficientnet_lite0, 10 %", "efficientnet_lite0, 1 %"]
    assert backbones.published("efficientnet_lite0, 10 %") == {}
    assert backbones.published("resnet101, 1 %")["aupro"][ALL].mean == 92.2
    subsampling = get_preset("patchcore-subsampling")
    cells = of_preset(subsampling, wanted(parts, options={"bank_size": 50}), print)
    labels = [cell.label for cell in cells]
    assert labels == [
        "none, 100 %", "greedy, 50 patches", "random, 50 patches", "proxies, 50 patches", "stride 2, 100 %",
        "stride 3, 100 %",
    ]  # fmt: skip
    sizes = of_preset(get_preset("patchcore-resolution"), wanted(parts, options={"image_size": 96}), print)
    assert [cell.label for cell in sizes] == [f"S = 96, P = {size}" for size in (3, 5, 7, 9)]


def test_shots_are_drawn_and_too_many_are_left_out(parts: Path) -> None:
    said: list[str] = []
    cells = of_preset(get_preset("patchcore-lowshot"), wanted(parts, methods=("patchcore",), seeds=(0, 1)), said.append)
    assert sorted({len(cell.dataset.train) for cell in cells}) == [1, 2, 5]
    assert len(cells) == 2 * 2 * 3
    assert said == [f"parts0 has 8 training images: {shots} are left out" for shots in (10, 16, 20, 50)]
    with pytest.raises(OptionError, match="draws its own"):
        of_preset(get_preset("patchcore-lowshot"), wanted(parts, shots=3), print)
    some = of_preset(get_preset("lmf-table4"), wanted(parts, shots=3), print)
    assert len(some[0].dataset.train) == 3


def test_what_is_not_there_is_said(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="--preset list"):
        get_preset("patchcore-table9")
    with pytest.raises(OptionError, match="the preset lmf-table4 has lmf"):
        of_preset(get_preset("lmf-table4"), wanted(parts, methods=("padim",)), print)

    class Nowhere:
        name = "wide_resnet50"
        weights: Any = None

        def fetch(self, name: str) -> Path:
            raise WeightsError(f"the weights of {name} are not on this machine")

    nowhere = Nowhere()
    nowhere.weights = nowhere
    monkeypatch.setattr(grid, "list_backbones", lambda: [nowhere])
    with pytest.raises(WeightsError, match=r"wide_resnet50 are not .* --backbones efficientnet_lite0"):
        of_preset(get_preset("lmf-table4"), wanted(parts, backbones=()), print)
    # with a file, or random ones, nothing has to be fetched
    assert of_preset(get_preset("lmf-table4"), wanted(parts, backbones=(), options={"weights": "random"}), print)


def test_a_plain_grid(parts: Path) -> None:
    cells = of_options(wanted(parts, methods=("patchcore", "padim"), seeds=(0, 1), shots=2))
    assert [(c.detector.method, c.detector.seed) for c in cells] == [
        ("patchcore", 0), ("padim", 0), ("patchcore", 1), ("padim", 1),
    ]  # fmt: skip
    assert cells[0].dataset.train != cells[2].dataset.train


def test_every_frame_of_each_kind_is_by_name(parts: Path) -> None:
    dataset = open_dataset(parts)
    thinned = dataset.with_every(3)
    assert [path.name for path in thinned.train] == ["000.png", "003.png", "006.png"]
    assert [s.path.parent.name + s.path.stem for s in thinned.test] == ["good000", "good003", "spot000", "spot003"]
    assert dataset.with_every(1) is dataset


def test_an_ensemble_in_a_preset_is_labelled_by_its_options(parts: Path) -> None:
    pair = wanted(parts, backbones=("efficientnet_lite0+resnet18",), options={"weights": "random"})
    labels = {cell.label for cell in of_preset(get_preset("patchcore-backbones"), pair, print)}
    assert labels == {"efficientnet_lite0+resnet18, 10 %", "efficientnet_lite0+resnet18, 1 %"}
    assert "PatchCore-1 %" in {cell.label for cell in of_preset(get_preset("patchcore-table1"), pair, print)}


def row(dataset: str, label: str, seed: int, image: float | None, **more: Any) -> dict[str, Any]:
    base = {"dataset": dataset, "label": label, "seed": seed, "image_auroc": image, "pixel_auroc": None, "aupro": 0.5}
    base |= {
        "root": "/data",
        "layout": "mvtec",
        "method": "patchcore",
        "backbone": "lite",
        "misclassified": 2,
        "bank_mb": 1.0,
    }
    base |= {"false_alarm_rate": 0.0, "recall_at_threshold": 1.0}
    return base | more


def test_differences_are_to_the_same_data_only() -> None:
    preset = get_preset("patchcore-table1")
    label = "PatchCore-10 %"
    rows = [row(name, label, seed, 0.9 + 0.01 * seed) for seed in (0, 1) for name in MVTEC]
    lines = compare(preset, rows)
    mean, bottle = lines[0], lines[1]
    assert (mean.data, mean.seeds) == ("MVTec AD, all 15", 2)
    assert mean.ours["image_auroc"] == (pytest.approx(90.5), pytest.approx(stdev([90, 91])))
    assert mean.difference("image_auroc") == pytest.approx(90.5 - 99.0)
    assert mean.ours["misclassified"].mean == 30  # of all categories together
    assert mean.difference("misclassified") == 30 - 47
    assert "pixel_auroc" not in mean.ours
    assert bottle.difference("image_auroc") == pytest.approx(90.5 - 100)
    page = table(preset, lines, "`--seeds 0,1`")
    assert "| MVTec AD, all 15 | PatchCore-10 % | lite" in page
    assert "| 90.5 ± 0.7     | 99.0      | -8.5 " in page
    assert "Run with `--seeds 0,1`." in page
    assert len({len(line) for line in page.splitlines() if line.startswith("|")}) == 1
    written = as_rows(preset, lines)
    assert len(written) == 16 * 4
    assert written[0]["published"] == 99.0

    some = compare(preset, rows[:3])
    assert some[0].data == "3 of 15"
    assert some[0].published == {}  # a mean of others
    assert some[1].difference("image_auroc") == pytest.approx(90 - 100)

    other = compare(preset, [row("screws of ours", label, 0, 0.5)])
    assert len(other) == 1
    assert other[0].published["image_auroc"].mean == 99.0
    assert other[0].difference("image_auroc") is None
    page = table(preset, other)
    assert "no difference is taken to other data" in page
    assert "difference |" not in page


def test_magnetic_tiles_are_told_by_their_layout() -> None:
    preset = get_preset("patchcore-mtd")
    (line,) = compare(preset, [row("tiles", "PatchCore-10 %", 0, 0.9, layout="mtd")])
    assert line.difference("image_auroc") == pytest.approx(90 - 97.9)
    (line,) = compare(preset, [row("tiles", "PatchCore-10 %", 0, 0.9, layout="mtd")], whole_sets=False)
    assert line.difference("image_auroc") is None  # every so many-th of them
    assert line.published
    (line,) = compare(preset, [row("tiles", "PatchCore-10 %", 0, 0.9, layout="mvtec")])
    assert line.difference("image_auroc") is None


def test_numbers_are_shown_as_they_are_printed() -> None:
    preset = get_preset("lmf-ablation")
    page = table(preset, compare(preset, [row("x", "+ RP-Coreset (full)", 0, 0.5, bank_vectors=1234)]))
    assert "96.29 ± 0.25" in page
    assert "| 17.1 " in page
    assert "| 1.2 " in page


def test_means_over_seeds() -> None:
    rows = [row("a", "x", seed, value) for seed, value in enumerate((0.8, 0.9, 1.0))] + [row("b", "x", 0, None)]
    text = over_seeds(rows)
    assert "| a       | x       | patchcore | lite     | 3     | 0.900 ± 0.100 |" in text
    assert "| b       | x       | patchcore | lite     | 1     | –             |" in text
    assert over_seeds(rows[2:]) == ""


def test_datasets_of_one_name_are_not_thrown_together() -> None:
    rows = [
        row("bottle", "PatchCore-10 %", 0, 0.8 + i / 10, root=f"/data/{place}/bottle") for i, place in enumerate("ab")
    ]
    lines = compare(get_preset("patchcore-table1"), rows)
    assert [(line.data, line.seeds) for line in lines if "of 15" not in line.data] == [("a/bottle", 1), ("b/bottle", 1)]
    assert over_seeds(rows) == ""
    page = over_seeds([*rows, *(one | {"seed": 1} for one in rows)])
    assert "| a/bottle | PatchCore-10 %" in page
    assert "| b/bottle | PatchCore-10 %" in page
