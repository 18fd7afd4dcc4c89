"""The report: one safe file with every block, whatever the evaluation lacks."""

from __future__ import annotations

import math
import os
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from patchbank.evaluation.results import Case, Evaluation, Panel
from patchbank.report.html import number, verdict, write_report

SECTIONS = ["numbers", "decisions", "scores", "curves", "defects", "misses", "false-alarms", "cases", "how"]


class Page(HTMLParser):
    """Tags, and the text by section."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.sections, self.open = [], {}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self.sections.append(dict(attrs)["id"])
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            where = self.sections[-1] if self.sections else "head"
            self.texts[where] = self.texts.get(where, "") + " " + data

    def text(self, section):
        return " ".join(self.texts[section].split())


@pytest.fixture(scope="module")
def render(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"

    def run(evaluation):
        write_report(evaluation, path)
        return path.read_text(encoding="utf-8")

    return run


@pytest.fixture(scope="module")
def usual(make_evaluation, render):
    """The page of the usual evaluation, written once."""
    return render(make_evaluation())


def test_every_block_is_there_in_order(usual):
    page = Page(usual)
    assert [s for s in page.sections if s != "examples"] == SECTIONS
    assert "examples" in page.sections
    assert page.open == []
    numbers = page.text("numbers")
    shares = ("0.951", "0.942", "0.933", "0.924", "0.415", "0.457", "0.806", "0.338", "0.219", "0.771 to 0.840")
    for shown in (*shares, "90.0 %", "2.5 %", "76.7 %", "14.2 ms", "32 s"):
        assert shown in numbers
    assert "15\u202f680" in page.texts["numbers"]
    assert "features 21 s, memory 8 s, calibration 3 s" in numbers
    assert "PatchCore" in page.text("how")
    assert "torch 2.5" in page.text("how")
    assert sum(tag == "svg" for tag, _ in page.tags) == 4


def test_the_verdict_counts_the_cases(make_evaluation, usual):
    evaluation = make_evaluation()
    found = sum(case.is_defective and case.is_anomalous for case in evaluation.cases)
    alarms = sum(case.is_false_alarm for case in evaluation.cases)
    expected = (
        "At the threshold set from good parts alone (false-alarm rate asked: 1 %), the model rejects "
        f"{found} of 30 defective parts and {alarms} of 40 good ones."
    )
    assert verdict(evaluation) == expected
    page = Page(usual)
    assert expected in page.text("head")
    assert f"defective parts ✖ {30 - found} missed ✔ {found} 30" in page.text("decisions")


def test_the_rate_asked_is_left_out_when_unknown(make_evaluation):
    assert "asked" not in verdict(make_evaluation(false_alarm_rate_asked=None))


def test_it_loads_nothing_from_anywhere(usual):
    page = Page(usual)
    assert not re.search(r"https?:|//\w|@import", re.sub(r"base64,[\w+/=]+", "", usual))
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed")
        assert attributes.get("src", "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
        assert attributes.get("href", "#").startswith("#")
    assert sum(tag == "img" for tag, _ in page.tags) > 3


def test_names_are_escaped(make_evaluation, render):
    evil = '<script>alert("1")</script>&'
    evaluation = make_evaluation(
        notes={"aupro": evil}, aupro=None, environment={evil: evil}, per_defect={evil: {"n": 1}}
    )
    case = Case(f"test/{evil}.png", evil, 30.0, 0.1, True)
    panel = Panel(case, np.zeros((20, 30, 3), np.uint8))
    text = render(replace(evaluation, cases=[*evaluation.cases, case], misses=[panel], how={evil: evil}, curves={}))
    page = Page(text)
    assert "<script>alert" not in text
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert evil in page.texts["defects"]
    assert evil in page.texts["how"]


def test_no_id_comes_twice(usual):
    ids = re.findall(r'\bid="([^"]+)"', usual)
    assert len(ids) == len(set(ids))


def test_the_same_evaluation_gives_the_same_bytes(make_evaluation, render, usual):
    assert render(make_evaluation()) == usual


def test_missing_numbers_show_a_dash_and_the_reason(make_evaluation, render):
    reason = "the test set has no masks"
    keys = ("pixel_auroc", "pixel_ap", "aupro")
    page = Page(
        render(
            make_evaluation(
                curves=False,
                notes=dict.fromkeys(keys, reason),
                **dict.fromkeys(keys),
                image_auroc=math.nan,
                fit_seconds=None,
                environment=None,
                per_defect=None,
            )
        )
    )
    assert page.text("numbers").count(reason) == 3
    assert page.text("numbers").count("–") == 7  # the three, image AUROC, fit, and two the fixture lacks
    assert reason in page.text("curves")
    assert "not available" in page.text("defects")


def test_bins_are_mentioned(make_evaluation, render):
    page = Page(render(make_evaluation(curves=False, notes={"pixel_bounds": "the pixels come from bins"})))
    assert "the pixels come from bins." in page.text("numbers")


def test_nothing_missed_and_nothing_rejected(make_evaluation, render):
    page = Page(render(make_evaluation(shift=60.0, curves=False)))
    assert "No defective part was missed." in page.text("misses")
    evaluation = make_evaluation(curves=False)
    passed = [case for case in evaluation.cases if not case.is_false_alarm]
    page = Page(render(replace(evaluation, cases=passed)))
    assert "No good part was rejected." in page.text("false-alarms")


@pytest.mark.parametrize(
    ("good", "defective", "sentence"),
    [
        (0, 5, "there was no good part to test for false alarms."),
        (5, 0, "there was no defective part to find."),
        (1, 1, "of 1 defective part and "),
        (0, 0, "The test set has no images"),
    ],
)
def test_one_sided_test_sets(make_evaluation, render, good, defective, sentence):
    evaluation = make_evaluation(n_good=good, n_defective=defective, curves=False)
    page = Page(render(evaluation))
    assert sentence in page.text("head")
    assert page.open == []


@pytest.mark.parametrize("threshold", [math.inf, 0.0, math.nan])
def test_odd_thresholds(make_evaluation, render, threshold):
    evaluation = replace(make_evaluation(curves=False), threshold=threshold, calibration_scores=np.empty(0))
    assert Page(render(evaluation)).open == []


def test_odd_cases(make_evaluation, render):
    odd = [
        Case("bad\udce9/a.png", "bad\udce9", math.nan, math.nan, False),
        Case("b.png", "划痕", math.inf, 0.0, True),
    ]
    page = Page(render(Evaluation({}, odd, 18.0, np.empty(0), {})))
    assert "划痕" in page.text("cases")
    assert "1 missed, but no picture was kept." in page.text("misses")


def test_forty_noisy_pictures_stay_below_five_megabytes(make_evaluation, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (500, 984, 3)).astype(np.uint8)
    evaluation = make_evaluation(curves=False)
    panels = [Panel(case, noise) for case in evaluation.cases[:40]]
    write_report(replace(evaluation, examples=panels, misses=[], false_alarms=[]), tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 5_000_000


def test_a_failed_write_keeps_the_old_report(make_evaluation, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(make_evaluation(curves=False), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (None, "share", "–"),
        (math.nan, "ms", "–"),
        (True, "plain", "–"),
        ("text", "plain", "–"),
        (math.inf, "plain", "∞"),
        (-math.inf, "plain", "-∞"),
        (0.95149, "share", "0.951"),
        (np.float32(0.5), "percent", "50.0 %"),
        (np.int64(1234567), "count", "1\u202f234\u202f567"),
        (12345.6, "MB", "12346 MB"),
        (0.01234, "s", "0.0123 s"),
    ],
)
def test_number(value, kind, expected):
    assert number(value, kind) == expected
