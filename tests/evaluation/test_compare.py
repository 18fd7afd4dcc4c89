"""Two results of the same images: which pairs, which numbers, and which differences are called real."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from patchbank.cli import app
from patchbank.errors import DatasetError
from patchbank.evaluation.compare import CHANCE, EQUAL, REAL, UNTESTABLE, UNTESTED, compare, pairs
from patchbank.evaluation.results import Case, Evaluation
from patchbank.evaluation.scores import read_results, write_scores
from patchbank.metrics import PixelMetrics
from patchbank.metrics.paired import delong
from patchbank.metrics.pieces import PieceCollector


def write_result(
    folder, method="patchcore", better=0.0, images=range(60), seed=0, dataset="tyre", roi=False, **changes
):
    """An evaluation of small made-up maps: even images are good; `better` raises defects of this method."""
    root = Path("/data") / dataset
    cases, collector, pixels = [], PieceCollector(), PixelMetrics(1.0)
    own = np.random.default_rng(sum(map(ord, method)))
    for i in images:
        common = np.random.default_rng(i)
        mask = np.zeros((24, 32), bool)
        if i % 2:
            mask[4:9, 5:12] = True
        anomaly = common.standard_normal(mask.shape) + (0.8 + better) * mask + 0.4 * own.standard_normal(mask.shape)
        if roi:
            anomaly[:, :2] = np.nan
        score = float(common.standard_normal() + (1.0 + better) * mask.any() + 0.3 * own.standard_normal())
        kind = "crack" if i % 2 else "good"
        aupimo = float(np.clip(0.4 + 0.2 * better + 0.1 * own.standard_normal(), 0, 1)) if i % 2 else None
        cases.append(Case(str(root / "test" / kind / f"{i:03}.png"), kind, score, 0.1, score > 1.2, aupimo))
        collector.update(anomaly, mask)
        pixels.update(anomaly, mask)
    result = pixels.compute()
    labels, scores = [c.is_defective for c in cases], [c.score for c in cases]
    metrics = {"dataset": dataset, "method": method, "backbone": "net", "seed": seed, "latency_ms_p50": 12.34}
    metrics |= {"image_auroc": roc_auc_score(labels, scores), "pixel_auroc": result.auroc, "aupro": result.aupro}
    metrics |= {"pixel_ap": result.average_precision, "iou_at_threshold": result.at_threshold.iou}
    evaluation = Evaluation(metrics, cases, 1.2, np.zeros(0), {}, root=root, pieces=collector.pieces())
    write_scores(evaluation, folder)
    (folder / "metrics.json").write_text(json.dumps(evaluation.metrics))
    return folder


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Three methods on one dataset and seed; the second is much better at everything."""
    folder = tmp_path_factory.mktemp("grid")
    for method, better in (("fapm", 0.0), ("padim", 1.5), ("spade", 0.02)):
        write_result(folder / method, method, better)
    write_result(folder / "other", "spade", dataset="nut")
    return folder


def by_metric(rows):
    return {row.metric: row for row in rows}


def test_a_real_difference_and_one_of_chance(grid):
    (good,), (weak,) = read_results(grid / "padim"), read_results(grid / "fapm")
    rows = by_metric(compare([(good, weak)]))
    for metric in ("image_auroc", "pixel_auroc", "pixel_ap", "aupro", "aupimo", "recall_at_threshold"):
        row = rows[metric]
        assert row.verdict == REAL, metric
        assert row.difference_low > 0
        assert row.difference == pytest.approx(row.value_a - row.value_b)
        assert row.difference_low < row.difference < row.difference_high
        assert row.p_value <= row.p_value_holm <= 0.05
    assert rows["latency_ms_p50"].verdict == EQUAL
    assert (rows["iou_at_threshold"].verdict, rows["iou_at_threshold"].p_value) == (UNTESTED, None)
    labels = [kind != "good" for kind in good.defects]
    expected = delong(labels, good.scores, weak.scores)
    assert rows["image_auroc"].value_a == pytest.approx(good.metrics["image_auroc"])
    assert rows["image_auroc"].p_value == expected.p_value
    assert (rows["aupro"].value_a, rows["aupro"].value_b) == (good.metrics["aupro"], weak.metrics["aupro"])
    (close,) = read_results(grid / "spade")
    assert by_metric(compare([(close, weak)]))["image_auroc"].verdict == CHANCE


def test_the_other_way_round_is_the_negative(grid):
    (a,), (b,) = read_results(grid / "padim"), read_results(grid / "fapm")
    forth, back = by_metric(compare([(a, b)])), by_metric(compare([(b, a)]))
    for metric, row in forth.items():
        assert row.difference == pytest.approx(-back[metric].difference)
        if row.p_value is not None:
            assert row.p_value == pytest.approx(back[metric].p_value, rel=1e-3)
            assert row.difference_low == pytest.approx(-back[metric].difference_high, abs=1e-6)


def test_holm_counts_the_rows_of_all_pairs(grid):
    results = {each.metrics["method"]: each for each in read_results(grid) if each.metrics["dataset"] == "tyre"}
    one = by_metric(compare([(results["padim"], results["fapm"])]))
    chosen = pairs(list(results.values()), list(results.values()))
    assert len(chosen) == 3
    rows = compare(chosen)
    many = by_metric([row for row in rows if {row.a, row.b} == {"padim", "fapm"}])
    assert many["aupro"].p_value == pytest.approx(one["aupro"].p_value, rel=1e-3)
    assert many["aupro"].p_value_holm > one["aupro"].p_value_holm


def test_which_results_belong_together(grid, tmp_path):
    whole = read_results(grid)
    names = [(a.folder.name, b.folder.name) for a, b in pairs(whole, whole)]
    assert names == [("fapm", "padim"), ("fapm", "spade"), ("padim", "spade")]
    write_result(tmp_path / "x", "padim", 1.0)
    write_result(tmp_path / "y", "spade", 1.0, seed=1)
    others = read_results(tmp_path)
    assert [(a.folder.name, b.folder.name) for a, b in pairs(others, whole)] == [("x", "padim")]  # the same cell
    assert [b.folder.name for _, b in pairs(read_results(grid / "fapm"), whole)] == ["padim", "spade"]  # not itself
    with pytest.raises(DatasetError, match="no two different results"):
        pairs(others[1:], whole)
    with pytest.raises(DatasetError, match="no two different results"):
        pairs(others[:1], others[:1])
    assert len(pairs(others[:1], others[1:])) == 1  # one and one: the images decide


def test_pairs_that_would_be_called_the_same_are_told_apart(tmp_path):
    for seed in (0, 1):
        for method in ("padim", "spade"):
            write_result(tmp_path / f"{method}{seed}", method, images=range(8), seed=seed)
    results = read_results(tmp_path)
    named = {(row.a, row.b) for row in compare(pairs(results, results))}
    assert named == {(f"padim (padim{seed})", f"spade (spade{seed})") for seed in (0, 1)}


def test_only_common_images_count(grid, tmp_path):
    (whole,), (part,) = (
        read_results(grid / "padim"),
        read_results(write_result(tmp_path / "part", "spade", images=range(20, 90))),
    )
    rows = by_metric(compare([(whole, part)]))
    assert {row.images for row in rows.values()} == {40}
    common = [i for i, path in enumerate(whole.paths) if path in part.paths]
    labels = [whole.defects[i] != "good" for i in common]
    assert rows["image_auroc"].value_a == pytest.approx(roc_auc_score(labels, whole.scores[common]))
    assert "iou_at_threshold" not in rows  # known for all images of each only
    values = whole.pieces.of(np.array(common)).metrics(np.ones((1, 40), np.float32))
    assert rows["aupro"].value_a == pytest.approx(values["aupro"][0])


def test_few_images_are_not_tested(tmp_path):
    kinds = (("a", 0.0), ("b", 2.0))
    a, b = (read_results(write_result(tmp_path / m, m, better, images=range(8)))[0] for m, better in kinds)
    rows = by_metric(compare([(a, b)]))
    for metric in ("image_auroc", "aupro", "aupimo"):
        assert (rows[metric].test, rows[metric].verdict, rows[metric].p_value) == (UNTESTABLE, UNTESTED, None)


def test_maps_of_other_pixels_are_not_tested(grid, tmp_path):
    (a,), (b,) = read_results(grid / "padim"), read_results(write_result(tmp_path / "roi", "roi", roi=True))
    rows = by_metric(compare([(a, b)]))
    assert rows["aupro"].test == "none: other pixels inspected"
    assert rows["aupro"].p_value is None
    assert rows["image_auroc"].p_value is not None


def test_bins_that_are_too_coarse_are_not_tested(grid):
    (a,), (b,) = read_results(grid / "padim"), read_results(grid / "fapm")
    off = replace(a, metrics=a.metrics | {"aupro": a.metrics["aupro"] - 0.1})
    rows = by_metric(compare([(off, b)]))
    assert (rows["aupro"].test, rows["aupro"].verdict) == ("none: bins too coarse", UNTESTED)
    assert rows["pixel_auroc"].test == "bootstrap"


def test_what_cannot_be_compared_is_one_clear_error(grid, tmp_path):
    (a,) = read_results(grid / "padim")
    (other,) = read_results(grid / "other")
    with pytest.raises(DatasetError, match="the same images only"):
        compare([(a, other)])
    (apart,) = read_results(write_result(tmp_path / "apart", images=range(100, 120)))
    with pytest.raises(DatasetError, match="no test image in common"):
        compare([(a, apart)])
    with pytest.raises(DatasetError, match="no such folder"):
        read_results(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no metrics"):
        read_results(tmp_path / "empty")
    old = write_result(tmp_path / "old")
    (old / "pixels.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_results(old)
    (old / "pixels.npz").unlink()
    assert read_results(old)[0].pieces is None
    (old / "scores.csv").write_text("path,score\na,1\n")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_results(old)
    (old / "scores.csv").unlink()
    with pytest.raises(DatasetError, match="evaluate again"):
        read_results(old)


def test_scores_of_images_without_maps_or_root(tmp_path):
    cases = [Case("elsewhere/1.png", "good", 1.5, 0.2, True), Case("elsewhere/2.png", "cut", 2.5, 0.1, True, np.nan)]
    metrics = {"dataset": "x", "method": "mahalanobis", "backbone": "net", "seed": 0}
    write_scores(Evaluation(metrics, cases, 1.0, np.zeros(0), {}, root=Path("/data")), tmp_path)
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    (result,) = read_results(tmp_path)
    assert result.paths == ["elsewhere/1.png", "elsewhere/2.png"]
    assert result.pieces is None
    assert np.isnan(result.aupimo).all()
    assert result.is_anomalous.tolist() == [True, True]


def test_the_command_writes_tables_that_agree(grid, tmp_path):
    done = CliRunner().invoke(app, ["compare", str(grid / "padim"), str(grid / "fapm"), "-O", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "tyre, 60 images: A = padim, B = fapm" in done.output
    assert "real" in done.output
    rows = list(csv.DictReader((tmp_path / "compare.csv").open()))
    shown = CliRunner().invoke(app, ["compare", str(grid / "padim"), str(grid / "fapm"), "--json"])
    document = json.loads(shown.stdout)["rows"]
    assert [row["metric"] for row in rows] == [row["metric"] for row in document]
    assert float(rows[0]["p_value"]) == document[0]["p_value"]
    assert (tmp_path / "compare.md").read_text().count("\n") == len(rows) + 2
    assert r"image\_auroc" in (tmp_path / "compare.tex").read_text()


def test_the_command_compares_the_cells_of_one_grid(grid):
    done = CliRunner().invoke(app, ["compare", str(grid)])
    assert done.exit_code == 0
    assert done.stdout.count("60 images") == 3
    assert "left out: other" in done.stderr
