"""The figures: fit to lie in one page, with every kind of input."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from patchbank.evaluation.results import Case
from patchbank.report import plots

X = np.linspace(0, 1, 50)


def cases(good=(), **defects):
    made = [Case(f"g{i}", "good", float(score), 0.5, False) for i, score in enumerate(good)]
    for kind, scores in defects.items():
        made += [Case(f"{kind}{i}", kind, float(score), 0.5, True) for i, score in enumerate(scores)]
    return made


def draw_all():
    return [
        plots.score_histogram(cases([10, 11, 12], crack=[20, 22]), 15.0, np.array([9.0, 10, 11])),
        plots.roc_plot({"image": ((X, X**0.1), 0.9), "pixel": ((X, X**0.5), None)}, (0.1, 0.8)),
        plots.pr_plot({"image": ((X, 1 - X**4), 0.93)}, (0.8, math.nan)),
        plots.pro_plot((X, X**0.2), 0.8123),
    ]


@pytest.fixture(scope="module")
def figures():
    return draw_all()


def words(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter("text")]


@pytest.mark.parametrize("number", range(4))
def test_each_is_a_bare_svg_element_with_real_text(figures, number):
    svg = figures[number]
    assert svg.startswith("<svg ")
    assert svg.endswith("</svg>")
    assert "http" not in svg
    assert "<style" not in svg
    assert "currentColor" in svg
    assert words(svg)


def test_no_id_is_shared_between_figures_and_every_reference_has_its_target(figures):
    seen = set()
    for svg in figures:
        ids = re.findall(r'\bid="([^"]+)"', svg)
        assert len(ids) == len(set(ids))
        assert not seen & set(ids)
        seen |= set(ids)
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)) <= set(ids)


def test_the_same_input_gives_the_same_bytes_and_leaves_the_settings_alone(figures):
    before = dict(matplotlib.rcParams)
    assert draw_all() == figures
    assert dict(matplotlib.rcParams) == before


def test_areas_are_in_the_labels(figures):
    _, roc, pr, pro = map(words, figures)
    assert "image: AUROC 0.900" in roc
    assert "pixel" in roc
    assert "at the threshold" in roc
    assert "image: AP 0.930" in pr
    assert "at the threshold" not in pr
    assert "up to 0.3: AUPRO 0.812" in pro


def test_pro_is_shaded_up_to_the_limit_only():
    shaded = ElementTree.fromstring(plots.pro_plot((np.array([0.0, 0.25, 1]), np.array([0, 0.5, 1.0])), 0.5))
    full = ElementTree.fromstring(plots.pro_plot((np.array([0.0, 0.25, 1]), np.array([0, 0.5, 1.0])), 0.5, limit=1))

    def width(svg):
        area = next(g for g in svg.iter("g") if "FillBetween" in g.get("id") or "PolyCollection" in g.get("id"))
        numbers = re.findall(r"[ML] ([\d.]+) ", next(area.iter("path")).get("d"))
        return np.ptp([float(value) for value in numbers])

    assert width(shaded) == pytest.approx(0.3 * width(full), rel=0.01)


def test_names_of_defects_are_taken_literally():
    odd = {"_hidden": [20.0], "<b>&$x_1$": [21.0], "x" * 80: [22.0], "划痕": [23.0], "bad\udce9": [24.0]}
    svg = plots.score_histogram(cases([10], **odd), 15.0)
    assert "<b>" not in svg
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert "_hidden" in labels
    assert "&lt;b&gt;&amp;$x_1$" in labels
    assert "划痕" in labels
    assert max(map(len, labels)) < 60


def test_many_kinds_of_defect_are_gathered():
    svg = plots.score_histogram(cases([10], **{f"kind{i}": [20.0] * (12 - i) for i in range(12)}), 15.0)
    assert "kind5" in words(svg)
    assert "6 other kinds" in words(svg)


@pytest.mark.parametrize(
    ("made", "threshold"),
    [
        ([], 15.0),
        (cases([10, 11]), 15.0),
        (cases(crack=[20, 21]), 15.0),
        (cases([10, math.inf, math.nan], crack=[math.inf]), 15.0),
        (cases([10, 11], crack=[20]), math.inf),
        (cases([10, 11], crack=[20]), math.nan),
        (cases([0, 0], crack=[0]), 0.0),
        (cases([-3, -2], crack=[5e9]), 1.0),
    ],
)
def test_odd_scores(made, threshold):
    assert ("threshold" in words(plots.score_histogram(made, threshold))) == math.isfinite(threshold)


def test_widely_spread_scores_get_a_logarithmic_axis():
    assert any("logarithmic" in w for w in words(plots.score_histogram(cases([1, 2], crack=[5000]), 4.0)) if w)


def test_no_bar_stands_across_the_threshold():
    for scores, threshold in (([1.0, 9.0, 30.0], 7.3), ([0.1, 80.0], 7.3)):
        edges, _ = plots._bins(np.array(scores), threshold)
        assert np.min(np.abs(edges - threshold)) < 1e-9
        assert edges[0] <= min(scores)
        assert edges[-1] >= max(scores)
        assert (np.diff(edges) > 0).all()
