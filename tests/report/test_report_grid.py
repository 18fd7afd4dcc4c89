"""The report of a grid: its advice, its tables, its size, and that it needs nothing but itself."""

from __future__ import annotations

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from patchbank.evaluation.finished import read_grid
from patchbank.report import gallery, grid, grid_plots, grid_tables
from patchbank.report.advice import advise, pareto, winners
from patchbank.report.gallery import read_gallery, write_gallery
from patchbank.report.grid import write_grid_report
from tests.finished_cells import write_cell


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets, two methods, two seeds, a sweep, pictures, a failed cell, a second machine, published numbers."""
    tmp_path = tmp_path_factory.mktemp("mixed")
    for dataset in ("gear", "weave"):
        for seed in (0, 1):
            shift = 0.004 * seed
            write_cell(tmp_path, dataset, "padim", seed, image_auroc=0.8 + shift, latency_ms_p50=9.0, pictures=1)
            for coreset, value in ((0.01, 0.90), (0.03, 0.93), (0.1, 0.96)):
                write_cell(
                    tmp_path, dataset, seed=seed, options={"coreset": coreset}, image_auroc=value + shift, pictures=2,
                    latency_ms_p50=200 * coreset + 20, bank_mb=60 * coreset,
                    environment={"processor": "made up" if seed else "another", "python": "3.12.1"},
                )  # fmt: skip
    (tmp_path / "errors.csv").write_text("path,error\nweave-spade,no <room>\n")
    (tmp_path / "preset.csv").write_text("label,ours,published,difference\nPatchCore-10%,0.9612345,0.99,-0.0287655\n")
    return tmp_path


@pytest.fixture(scope="module")
def page(mixed: Path) -> str:
    """The report of `mixed`, written once."""
    return write_grid_report(mixed).read_text(encoding="utf-8")


def section(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">(.*?)</section>', page, re.DOTALL)
    assert found, name
    return found[1]


def test_pareto_against_the_definition() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 5, 40):
        for _ in range(20):
            points = [(float(c), float(v)) for c, v in rng.integers(0, 6, (size, 2))]

            def beaten(a: tuple[float, float], points: list[tuple[float, float]] = points) -> bool:
                return any(b[0] <= a[0] and b[1] >= a[1] and b != a for b in points)

            front = pareto(points)
            assert sorted(front) == [i for i, p in enumerate(points) if not beaten(p)]
            assert all(points[a][0] <= points[b][0] for a, b in pairwise(front))


def test_the_most_accurate_is_taken_and_the_fastest_named(mixed: Path) -> None:
    advice = advise(read_grid(mixed))
    assert advice.sentence == (
        "Take patchcore, coreset 0.1, with efficientnet_lite0: its mean image AUROC of 0.962 ± 0.003 is the highest."
    )
    assert advice.more[0].startswith("If speed counts more: padim, with efficientnet_lite0 takes 9 ms for one image ")
    assert "instead of 40 ms, with mean image AUROC of 0.802 ± 0.003" in advice.more[0]
    assert "means of 2 datasets and 2 seeds" in advice.more[-1]
    assert "12 good and 25 defective" in advice.more[-1]


def test_within_the_spread_of_the_seeds_localization_decides_and_then_speed(tmp_path: Path) -> None:
    numbers = {
        "padim": (0.95, 0.80, 30.0),
        "lmf": (0.96, 0.85, 20.0),
        "fapm": (0.955, 0.85, 10.0),
        "spade": (0.7, 0.9, 1.0),
    }
    for method, (image, aupro, latency) in numbers.items():
        for seed, shift in enumerate((-0.01, 0.01)):
            write_cell(tmp_path, "a", method, seed, image_auroc=image + shift, aupro=aupro, latency_ms_p50=latency)
    advice = advise(read_grid(tmp_path))
    assert advice.take.method == "fapm"
    assert "its image AUROC of 0.955 ± 0.014 is the best, level with 2 others to within the spread" in advice.sentence
    assert "its AUPRO of 0.850 ± 0.000 is the highest, level with 1 other" in advice.sentence
    assert "of the 2 still level it is the fastest, 10 ms for one image" in advice.sentence
    assert "If speed counts more: spade" in advice.more[0]
    assert "lmf (0.960 ± 0.014), padim (0.950 ± 0.014)" in advice.more[1]


def test_one_seed_ties_only_what_three_decimals_do_not_show(tmp_path: Path) -> None:
    write_cell(tmp_path, "a", "padim", image_auroc=0.95, aupro=None)
    write_cell(tmp_path, "a", "lmf", image_auroc=0.952, aupro=None)
    advice = advise(read_grid(tmp_path))
    assert "lmf" in advice.sentence
    assert "is the highest" in advice.sentence
    assert "Only one seed" in advice.more[-1]


def test_the_best_in_one_line(tmp_path: Path) -> None:
    write_cell(tmp_path, "a", "padim", image_auroc=0.95, recall_at_threshold=0.8)
    assert winners(read_grid(tmp_path)) == ""  # nothing to choose from
    write_cell(tmp_path, "a", "lmf", image_auroc=0.96, recall_at_threshold=0.8)
    write_cell(tmp_path, "a", "spade", image_auroc=0.5, recall_at_threshold=0.7)
    assert winners(read_grid(tmp_path)) == (
        "Best by image AUROC: lmf (0.960). "
        "No clear winner by recall at the threshold: lmf and padim are level at 0.800."
    )
    for method in ("padim", "lmf", "spade"):
        write_cell(tmp_path, "b", method, image_auroc=None, recall_at_threshold=0.9)
    assert winners(read_grid(tmp_path)) == (
        "No clear winner by mean recall at the threshold: lmf and padim are level at 0.850."
    )


def test_the_best_recall_is_said_with_its_false_alarms(tmp_path: Path) -> None:
    write_cell(tmp_path, "a", "padim", image_auroc=0.95, recall_at_threshold=0.8, false_alarm_rate=0.0)
    write_cell(tmp_path, "a", "spade", image_auroc=0.5, recall_at_threshold=0.9, false_alarm_rate=0.214)
    assert "Best by recall at the threshold: spade (0.900 with 21.4 % false alarms)." in winners(read_grid(tmp_path))


def test_advice_for_a_single_one_for_gaps_and_for_nothing_measured(tmp_path: Path) -> None:
    write_cell(tmp_path / "one", image_auroc=0.9)
    assert advise(read_grid(tmp_path / "one")).sentence.startswith(
        "Only one configuration was run: patchcore, with eff"
    )
    write_cell(tmp_path / "gaps", "a", "padim")
    write_cell(tmp_path / "gaps", "b", "lmf")
    assert "dataset by dataset" in advise(read_grid(tmp_path / "gaps")).sentence
    write_grid_report(tmp_path / "gaps")
    write_cell(tmp_path / "gaps", "b", "padim")
    advice = advise(read_grid(tmp_path / "gaps"))
    assert "Take padim" in advice.sentence
    assert any("lmf has no results on a" in sentence for sentence in advice.more)
    write_cell(tmp_path / "none", image_auroc=None, pixel_auroc=None, aupro=None, latency_ms_p50=None, per_defect={})
    assert "No accuracy" in advise(read_grid(tmp_path / "none")).sentence
    write_grid_report(tmp_path / "none")


def test_the_page_has_every_part(page: str) -> None:
    numbers = section(page, "numbers")
    assert "0.962" in numbers
    assert "±&nbsp;0.003" in numbers
    assert numbers.count('<tr class="seed">') == (4 + 8) * 2
    assert section(page, "cost").count("<svg") == 4 + 2 * 2
    assert section(page, "sweeps").count("<svg") == 4
    assert "coreset (logarithmic)" in section(page, "sweeps")
    heat = section(page, "heat")
    assert heat.count('class="n heat') == 2 * 2 * 4 + 2 * 2 * 4
    assert "crack" in heat
    # padim leads nowhere: the pictures are those of the configuration to take, two of each kind
    assert section(page, "pictures").count("<img ") == 2 * 3 * 2
    assert "no &lt;room&gt;" in section(page, "failed")
    published = section(page, "published")
    assert "-0.0288" in published
    assert "0.9612" in published
    where = section(page, "environment")
    assert "another" in where
    assert "Not all was measured on the same machine" in page


def test_where_cells_ran_side_by_side_times_do_not_compare(tmp_path: Path) -> None:
    for seed, jobs in enumerate((1, 1, 2)):
        write_cell(tmp_path, seed=seed, jobs=jobs)
    found = grid._environments(read_grid(tmp_path).cells)
    assert found["machines"]
    ((key, groups),) = found["differing"]
    assert (key, [(value, len(names)) for value, names in groups]) == ("jobs", [("1", 2), ("2", 1)])
    assert found["common"]["processor"] == "made up"


def test_it_loads_nothing_and_stays_the_same(mixed: Path, page: str, tmp_path: Path) -> None:
    bare = re.sub(r"base64,[\w+/=]+", "", page)
    assert not re.search(r"https?:|//\w|@import|<link|<iframe", bare)
    assert all(source.startswith("data:image/jpeg") for source in re.findall(r'src="([^"]+)', page))
    copy = tmp_path / "copy"
    shutil.copytree(mixed, copy, ignore=shutil.ignore_patterns("report.html"))
    assert write_grid_report(copy).read_text(encoding="utf-8") == page


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    for method in (evil, "b"):
        write_cell(tmp_path / "x", "a<b>$x_1$", method.replace("/", ""), environment={evil: evil})
    assert "<script>alert" not in write_grid_report(tmp_path / "x").read_text()


@pytest.mark.parametrize("budget", [400_000, 160_000, 60_000, 0, -5])
def test_the_pictures_share_what_the_rest_leaves(mixed: Path, budget: int) -> None:
    found, left_out = grid._galleries(read_grid(mixed), budget)
    pictures = [figure for each in found for figures in each["figures"].values() for figure in figures]
    assert sum(len(picture["source"]) for picture in pictures) <= max(0, budget)
    assert len(pictures) == {400_000: 12, 160_000: 6, 60_000: 3}.get(budget, 0)
    assert left_out == 12 - len(pictures)


def test_the_whole_file_stays_below_the_limit(mixed: Path, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without = len(re.sub(r"base64,[\w+/=]+", "", page))
    assert len(page) > without + 150_000
    monkeypatch.setattr(grid, "_LIMIT", without + 150_000)
    assert len(write_grid_report(mixed).read_bytes()) <= without + 150_000


def test_many_cells_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_tables, "_MOST_ROWS", 30)
    monkeypatch.setattr(grid, "_POINTS", (12, 5))
    for i in range(40):
        write_cell(tmp_path, options={"coreset": 0.001 * (i + 1)}, image_auroc=0.5 + 0.01 * i, latency_ms_p50=10.0 + i)
    page = write_grid_report(tmp_path).read_text()
    assert section(page, "numbers").count("<tbody>") == 30
    assert "10 more are not shown" in page
    assert "0.890" in section(page, "numbers")  # the best stay


def test_every_cut_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for dataset in "abc":
        for i in range(6):
            options = {"image_size": 96 + 32 * (i % 3), "sigma": 2 * (i % 3), "tile": i // 3 or None}
            write_cell(tmp_path, dataset, options=options, image_auroc=0.9 - i / 100, latency_ms_p50=10.0 + i)
    for setting, value in (("_POINTS", (2, 1)), ("_SETS", 2), ("_CELLS", 40), ("_FOLDERS", 1)):
        monkeypatch.setattr(grid, setting, value)
    for name in ("x", "y", "z"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text("{}")
    for sigma in (1, 2, 3):
        write_cell(tmp_path, "a", "fapm", options={"sigma": sigma})
        write_cell(tmp_path, "a", "lmf", options={"image_size": 100 * sigma})
    monkeypatch.setattr(grid, "_OPTIONS", 1)
    page = write_grid_report(tmp_path).read_text(encoding="utf-8")
    assert "4 less accurate configurations not drawn" in page
    assert "1 more dataset without plots" in page
    assert "Also tried, but not drawn: sigma." in page
    assert "Not shown, to keep this file small: c." in page
    assert "2 more are left out." in page
    monkeypatch.setattr(grid_tables, "_MOST_ROWS", 24)
    assert "more row" in section(write_grid_report(tmp_path).read_text(encoding="utf-8"), "heat")


def test_labels_of_a_scatter_plot_keep_apart() -> None:
    rng = np.random.default_rng(1)
    points = [
        grid_plots.Point(f"configuration {i}", "abc"[i % 3], float(c), float(0.9 + 0.01 * v), 0.001)
        for i, (c, v) in enumerate(rng.random((14, 2)))
    ]
    svg = ElementTree.fromstring(grid_plots.scatter(points, "abc", "cost", "value"))
    boxes = []
    for text in svg.iter("text"):
        if (text.text or "").startswith("configuration"):
            numbers = re.findall(r"-?[\d.]+", text.get("transform") or "")
            x, y = (float(text.get("x") or numbers[-3]), float(text.get("y") or numbers[-2]))
            boxes.append((x, y, 5 * len(text.text)))
    assert len(boxes) >= 10
    for i, (x, y, width) in enumerate(boxes):
        assert not any(abs(y - v) < 8 and x < u + w and u < x + width for u, v, w in boxes[i + 1 :])


def test_heat_colours_grow_lighter_and_letters_stand_out() -> None:
    def lightness(colour: str) -> float:
        red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return 0.299 * red + 0.587 * green + 0.114 * blue

    cells = [grid_tables._coloured(v, 0.5) for v in np.linspace(0.5, 1, 20)]
    shades = [lightness(cell["colour"]) for cell in cells]
    assert (np.diff(shades) > 0).all()
    for shade, cell in zip(shades, cells, strict=True):
        assert abs(shade - (1.0 if cell["ink"] == "#fff" else 0.0)) >= 0.49


def test_a_gallery_comes_back(make_evaluation, tmp_path: Path) -> None:
    evaluation = make_evaluation()
    write_gallery(evaluation, tmp_path)
    shots = read_gallery(tmp_path)
    assert [shot.kind for shot in shots] == ["found"] * 2 + ["missed"] * min(3, len(evaluation.misses)) + [
        "false alarm"
    ] * len(evaluation.false_alarms)
    assert shots[0].score >= shots[1].score
    assert all((tmp_path / shot.file).stat().st_size < 150_000 for shot in shots)
    assert shots[0].ratio == pytest.approx(shots[0].score / evaluation.threshold)
    assert gallery.embedded(tmp_path / shots[0].file, 500_000)["source"].startswith("data:image/jpeg")
    assert gallery.embedded(tmp_path / shots[0].file, 100) is None
    (tmp_path / shots[0].file).write_bytes(b"no picture")
    assert gallery.embedded(tmp_path / shots[0].file, 500_000) is None
    (tmp_path / "gallery" / "gallery.json").write_text(json.dumps([{"file": "a"}]))
    assert read_gallery(tmp_path) == []


def test_odd_csv_files(tmp_path: Path) -> None:
    assert grid_tables.found_table(tmp_path / "absent.csv", 5) is None
    (tmp_path / "empty.csv").write_text("")
    assert grid_tables.found_table(tmp_path / "empty.csv", 5) is None
    (tmp_path / "short.csv").write_text("a,b,c\n1,x\n0.123456,y,z\n3,w,v\n")
    table = grid_tables.found_table(tmp_path / "short.csv", 2)
    assert table["head"] == [("a", True), ("b", False), ("c", False)]
    assert table["rows"] == [["1", "x", ""], ["0.1235", "y", "z"]]
    assert table["left_out"] == 1
