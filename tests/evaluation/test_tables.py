"""Tables for people, papers and pandas."""

from __future__ import annotations

from patchbank.evaluation.benchmark import COLUMNS
from patchbank.evaluation.tables import SHOWN, aligned, cell, escaped, flat, latex, markdown

ROW = dict.fromkeys(COLUMNS) | {"image_auroc": 0.98765, "dataset": "mtd_2|x", "fit_seconds": 12.34, "seed": 0}


def test_markdown_table() -> None:
    lines = markdown([ROW]).splitlines()
    assert len(lines) == 3
    assert r"| mtd_2\|x |" in lines[2]
    assert "| 0.988 |" in lines[2]
    assert "| 12.3 |" in lines[2]
    assert "| – |" in lines[2]


def test_latex_table() -> None:
    lines = latex([ROW, ROW | {"dataset": "50 % & {more}\\"}]).splitlines()
    assert lines[0].startswith(r"\begin{tabular}{lllr")
    assert lines[0].count("l") + lines[0].count("r") - len("tabular") + 5 == len(SHOWN) - 1  # no row has a variant
    assert [lines[1], lines[3], *lines[-2:]] == [r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}"]
    assert r"mtd\_2\textbar{}x & -- & -- & 0 & -- & 0.988" in lines[4]
    assert r"50 \% \& \{more\}\textbackslash{}" in lines[5]
    assert all(line.count(" & ") == len(SHOWN) - 2 for line in lines if line.endswith(r"\\"))


def test_latex_minus() -> None:
    assert "$-$0.250" in latex([{"difference": -0.25}], {"difference": "A − B"})
    assert escaped("A − B ± 1 _~^") == r"A $-$ B $\pm$ 1 \_\textasciitilde{}\textasciicircum{}"


def test_aligned_columns() -> None:
    lines = aligned([{"a": "long name", "b": 1.0}, {"a": "x", "b": -20.5}], {"a": "what", "b": "n"}).splitlines()
    assert lines == ["what             n", "long name    1.000", "x          -20.500"]


def test_cells() -> None:
    assert cell({"p_value_holm": 0.0004}, "p_value_holm") == "< 0.001"
    assert cell({"p_value_holm": 0.04}, "p_value_holm") == "0.040"
    assert cell({"metric": "latency_ms_p50", "value_a": 12.345}, "value_a") == "12.3"
    assert cell({"x": float("nan")}, "x") == "–"


def test_flat_rows() -> None:
    document = {
        "aupro": 0.5,
        "aupro_interval": [0.4, 0.6],
        "image_auroc_interval": None,
        "fit_seconds": {"features": 1.0, "total": 2.0},
        "pixel_bounds": {"aupro": [0.49, 0.51]},
        "notes": {"a": "b"},
        "per_defect": {"spot": {"n": 1}},
        "unreadable": ["a.png", "b.png"],
    }
    assert flat(document) == {
        "aupro": 0.5,
        "aupro_interval_low": 0.4,
        "aupro_interval_high": 0.6,
        "image_auroc_interval": None,
        "fit_seconds_features": 1.0,
        "fit_seconds_total": 2.0,
        "pixel_bounds_aupro_low": 0.49,
        "pixel_bounds_aupro_high": 0.51,
    }
    assert all(name == name.lower() and name.isidentifier() for name in COLUMNS)
    assert len(set(COLUMNS)) == len(COLUMNS)
