"""The report of one evaluation: a single HTML file for someone who has never heard of AUROC.

The file needs nothing but itself: pictures and curves lie inside it, and it loads nothing from anywhere. The
words are in `evaluation.html.j2`; here is what fills them in.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any, TypeGuard

import cv2
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from patchbank._system.files import replacing
from patchbank.evaluation.results import Case, Curve, Evaluation, Panel
from patchbank.pictures.channels import BOTH, PICTURE, SHAPE, in_words, kind_of, seen_by, summary
from patchbank.pictures.heat import Picture
from patchbank.pictures.labels import short_path
from patchbank.report import plots

# All pictures together stay below this many bytes, so that the file can be mailed: the more, the smaller.
_PICTURES_BUDGET = 3_600_000
# (width in pixels, JPEG quality), tried in turn until a picture fits into its share.
_PICTURE_SIZES = ((984, 85), (800, 80), (640, 75), (520, 65), (400, 50))


def write_report(evaluation: Evaluation, path: Path) -> None:
    """Write the report to `path`, replacing an older one in one step.

    The same evaluation gives the same bytes. Raises `OSError` if the file cannot be written; an older report
    then stays as it was.
    """
    page = environment().get_template("evaluation.html.j2").render(_content(evaluation))
    # A file name that is not valid UTF-8 must not cost the report.
    with replacing(path) as temporary:
        temporary.write_bytes(page.encode("utf-8", errors="replace"))


def environment() -> Environment:
    """What turns the templates of this folder into pages."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": number, "short": short_path}
    return made


def verdict(evaluation: Evaluation) -> str:
    """What the model is worth, in one plain sentence."""
    asked: object = evaluation.metrics.get("false_alarm_rate_asked")
    rate = f" (false-alarm rate asked: {100 * asked:g} %)" if _is_finite(asked) else ""
    start = f"At the threshold set from good parts alone{rate}, the model rejects "
    count = _Counts(evaluation.cases)
    defective = f"{count.found} of {count.defective} defective part{'' if count.defective == 1 else 's'}"
    good = f"{count.false_alarms} of {count.good} good "
    if not evaluation.cases:
        return "The test set has no images, so nothing can be said about the model."
    if not count.defective:
        return f"{start}{good}{'part' if count.good == 1 else 'parts'}; there was no defective part to find."
    if not count.good:
        return f"{start}{defective}; there was no good part to test for false alarms."
    return f"{start}{defective} and {good}{'one' if count.good == 1 else 'ones'}."


def found_by(cases: Sequence[Case]) -> str:
    """How many of the defective parts that were found the picture, the shape or both show; "" for a model of one of
    these."""
    seen = [seen_by(case.channels) for case in cases if case.is_defective and case.is_anomalous]
    if not any(seen):
        return ""
    by = {kind: seen.count(kind) for kind in (PICTURE, SHAPE, BOTH)}
    return (
        f"Of the {len(seen)} that it found, the shape alone shows {by[SHAPE]}, the picture alone {by[PICTURE]}, and "
        f"both show {by[BOTH]}."
    )


def number(value: object, kind: str = "plain") -> str:
    """A number for people; "–" for what is missing or not a number.

    `kind` is "share" (0..1, three decimals), "percent" (of a value 0..1), "count", a unit to put behind the
    number ("ms", "s", "MB"), or "plain".
    """
    if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value):
        return "–"
    value = float(value)
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if kind == "share":
        return f"{value:.3f}"
    if kind == "percent":
        return f"{100 * value:.1f} %"
    if kind == "count":
        return f"{value:,.0f}".replace(",", "\u202f")
    digits = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return digits if kind == "plain" else f"{digits} {kind}"


class _Counts:
    """How many test parts are what, and what became of them."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.defective = sum(case.is_defective for case in cases)
        self.good = len(cases) - self.defective
        self.missed = sum(case.is_miss for case in cases)
        self.found = self.defective - self.missed
        self.false_alarms = sum(case.is_false_alarm for case in cases)
        self.passed = self.good - self.false_alarms


def _content(evaluation: Evaluation) -> dict[str, Any]:
    """All that the template names."""
    count = _Counts(evaluation.cases)
    galleries = (evaluation.misses, evaluation.false_alarms, evaluation.examples)
    share = _PICTURES_BUDGET // max(1, sum(map(len, galleries)))
    misses, false_alarms, examples = (
        [_figure(panel, share, evaluation.threshold) for panel in panels] for panels in galleries
    )
    metrics = evaluation.metrics
    fit = metrics.get("fit_seconds") or {}
    return {
        "verdict": verdict(evaluation),
        "found_by": found_by(evaluation.cases),
        "looks_at": _looks_at(evaluation.channels),
        "metrics": metrics,
        "notes": metrics.get("notes") or {},
        "per_defect": _worst_first(metrics.get("per_defect") or {}),
        "environment": {key: plain(value) for key, value in (metrics.get("environment") or {}).items()},
        "how": evaluation.how,
        "fit_total": fit.get("total"),
        "fit_parts": ", ".join(f"{key} {number(value, 's')}" for key, value in fit.items() if key != "total"),
        "count": count,
        "threshold": evaluation.threshold,
        "calibration_count": evaluation.calibration_scores.size,
        "plots": _plots(evaluation, count),
        "misses": misses,
        "false_alarms": false_alarms,
        "examples": examples,
        "tiling": None if evaluation.tiling is None else inline(evaluation.tiling, _PICTURES_BUDGET // 10),
        "cases": sorted(evaluation.cases, key=_by_score),
    }


def _looks_at(channels: Sequence[str]) -> str:
    """What the channels of a model show: `PICTURE`, `SHAPE` or `BOTH`."""
    kinds = {kind_of(name) for name in channels}
    return BOTH if len(kinds) == 2 else next(iter(kinds), PICTURE)


def _plots(evaluation: Evaluation, count: _Counts) -> dict[str, Markup]:
    """The figures by name, empty if they cannot be drawn.

    They go into the page as trusted markup: matplotlib escapes the text in them.
    """
    metrics, curves = evaluation.metrics, evaluation.curves
    figures = dict.fromkeys(("histogram", "roc", "pr", "pro"), "")
    if evaluation.cases:
        figures["histogram"] = plots.score_histogram(
            evaluation.cases, evaluation.threshold, evaluation.calibration_scores
        )
    recall = count.found / count.defective if count.defective else math.nan
    false_alarm_rate = count.false_alarms / count.good if count.good else math.nan
    rejected = count.found + count.false_alarms
    precision = count.found / rejected if rejected else math.nan

    def lines(name: str, measure: str) -> dict[str, tuple[Curve, float | None]]:
        pairs = (("image", name, f"image_{measure}"), ("pixel", f"pixel_{name}", f"pixel_{measure}"))
        return {level: (curves[curve], metrics.get(key)) for level, curve, key in pairs if curve in curves}

    if roc := lines("roc", "auroc"):
        figures["roc"] = plots.roc_plot(roc, (false_alarm_rate, recall))
    if pr := lines("pr", "ap"):
        figures["pr"] = plots.pr_plot(pr, (recall, precision))
    if "pro" in curves:
        figures["pro"] = plots.pro_plot(curves["pro"], metrics.get("aupro"))
    return {name: Markup(svg) for name, svg in figures.items()}


def _figure(panel: Panel, budget: int, threshold: float) -> dict[str, Any]:
    """A panel and its picture, of at most `budget` characters where the smallest size allows it."""
    usable = 0 < threshold < math.inf and math.isfinite(panel.case.score)
    ratio = f"{panel.case.score / threshold:.2f}× threshold" if usable else ""
    sentences = (in_words(panel.case.channels), summary(panel.case.channels, panel.case.is_anomalous))
    channels = ". ".join(filter(None, sentences))
    words = {"ratio": ratio, "channels": channels}
    return {"case": panel.case, "place": panel.place, **words, **inline(panel.picture, budget)}


def inline(picture: Picture, budget: int) -> dict[str, Any]:
    """A picture as a JPEG data URI of at most `budget` characters where the smallest size allows it."""
    for width, quality in _PICTURE_SIZES:
        small = narrowed(picture, width)
        data = jpeg(small, quality)
        if len(data) * 4 / 3 <= budget:
            break
    return data_uri(data, small.shape[1], small.shape[0])


def data_uri(data: bytes, width: int, height: int) -> dict[str, Any]:
    """A JPEG as the attributes of an `<img>`."""
    text = base64.b64encode(data).decode("ascii")
    return {"source": f"data:image/jpeg;base64,{text}", "width": width, "height": height}


def jpeg(picture: Picture, quality: int) -> bytes:
    """The picture as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def narrowed(picture: Picture, width: int) -> Picture:
    """The picture at most `width` pixels wide."""
    if picture.shape[1] <= width:
        return picture
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    small: Picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return small


def _worst_first(per_defect: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Kinds of defect by falling share of misses; those without a number last."""

    def key(item: tuple[str, dict[str, Any]]) -> tuple[float, str]:
        recall: object = item[1].get("recall_at_threshold")
        return (recall if _is_finite(recall) else math.inf, item[0])

    return sorted(per_defect.items(), key=key)


def _by_score(case: Case) -> tuple[float, str]:
    """Highest score first; NaN, which compares with nothing, as the highest."""
    return (-math.inf if math.isnan(case.score) else -case.score, case.path)


def _is_finite(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and math.isfinite(value)


def plain(value: object) -> str:
    """A value of metrics["environment"] in words."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(plain, value))
    return "–" if value is None else str(value)
