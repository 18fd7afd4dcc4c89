"""Score histogram and curves as SVG text to put straight into a page.

Axes and letters are drawn in `currentColor`, the background is transparent: the page's own colours, light or
dark, apply. Text stays text. The same input gives the same bytes.
"""

from __future__ import annotations

import hashlib
import html
import io
import math
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from patchbank.evaluation.results import Case, Curve
from patchbank.pictures.labels import printable, shortened

# Stands for `currentColor`, which matplotlib does not know; a shade that nothing else uses.
INK = "#010203"
# Okabe and Ito's colours, told apart with every kind of colour blindness (the blue a little lighter, for dark
# pages); blue is kept for good parts.
_GOOD = "#2080c4"
_DEFECTS = ("#e69f00", "#d55e00", "#cc79a7", "#009e73", "#f0e442", "#56b4e9")
_OTHER = "#8c8c8c"
LINES = ("#2080c4", "#d55e00", "#009e73")
DASHES = ("-", "--", "-.")

# The type of the keys differs between matplotlib's versions.
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "patchbank",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "legend.frameon": False,
}


def score_histogram(
    cases: Sequence[Case], threshold: float, calibration_scores: NDArray[np.float64] | None = None
) -> str:
    """How the image scores of good (above) and defective parts (below, by kind of defect) are spread.

    The calibration parts are outlined over the good test parts, scaled to the same total. Scores that are not
    finite are left out; the axis is logarithmic if they span more than a factor of 50. Returns an SVG string.
    """
    good = _finite([case.score for case in cases if not case.is_defective])
    calibration = _finite(calibration_scores if calibration_scores is not None else [])
    kinds = _by_kind([case for case in cases if case.is_defective])
    everything = np.concatenate([good, calibration, *kinds.values()])
    bins, logarithmic = _bins(everything, threshold)

    with rc_context(STYLE):
        figure = Figure(figsize=(5.4, 3.9), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        handles: list[tuple[Artist, str]] = []
        above.hist(good, bins, histtype="stepfilled", color=_GOOD)
        handles.append((Patch(color=_GOOD), "good (test)"))
        if calibration.size:
            share = (good.size or calibration.size) / calibration.size
            weights = np.full(calibration.size, share)
            above.hist(calibration, bins, weights=weights, histtype="step", color=INK)
            handles.append((Patch(fill=False, edgecolor=INK), "good (calibration, scaled)"))
        colours = [*_DEFECTS[: len(kinds)], _OTHER][: len(kinds)]
        if kinds:
            below.hist(list(kinds.values()), bins, histtype="stepfilled", stacked=True, color=colours)
        handles += [(Patch(color=c), kind) for kind, c in zip(kinds, colours, strict=True)]
        for axes, title in ((above, "good parts"), (below, "defective parts")):
            axes.set_ylabel(title)
            axes.yaxis.get_major_locator().set_params(integer=True)
            if math.isfinite(threshold):
                axes.axvline(threshold, color=INK, linestyle="--", linewidth=1.4)
        if math.isfinite(threshold):
            above.annotate(
                "threshold",
                (threshold, 1),
                (3, 2),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
            )
        if logarithmic:
            below.set_xscale("log")
            below.xaxis.set_major_formatter("{x:g}")
        below.set_xlabel("image score" + (" (logarithmic)" if logarithmic else ""))
        legend_below(figure, handles)
        return as_svg(figure, "Histogram of the image scores of good and of defective test parts")


def roc_plot(lines: Mapping[str, tuple[Curve, float | None]], at: tuple[float, float] | None = None) -> str:
    """ROC curves, name → ((false alarm rate, recall), area); `at` marks the working point. An SVG string."""
    with rc_context(STYLE):
        figure, axes = _square("false alarm rate", "recall")
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
        _draw_lines(figure, axes, lines, "AUROC", at)
        return as_svg(figure, "ROC curve: share of defects found against share of false alarms")


def pr_plot(lines: Mapping[str, tuple[Curve, float | None]], at: tuple[float, float] | None = None) -> str:
    """Precision-recall curves, name → ((recall, precision), average precision), as `roc_plot`."""
    with rc_context(STYLE):
        figure, axes = _square("recall", "precision")
        _draw_lines(figure, axes, lines, "AP", at)
        return as_svg(figure, "Precision-recall curve")


def pro_plot(curve: Curve, area: float | None, *, limit: float = 0.3) -> str:
    """Per-region overlap against the pixel false alarm rate, the part that counts (up to `limit`) shaded."""
    with rc_context(STYLE):
        figure, axes = _square("false alarm rate of pixels", "mean share of each defect covered")
        x, y = (np.asarray(values, np.float64) for values in curve)
        inside = np.append(x[x < limit], limit)
        axes.fill_between(inside, np.interp(inside, x, y), color=LINES[0], alpha=0.2, linewidth=0)
        axes.axvline(limit, color=INK, linewidth=0.8, linestyle=":")
        _draw_lines(figure, axes, {f"up to {limit:g}": (curve, area)}, "AUPRO", None)
        return as_svg(figure, f"Per-region overlap curve, counted up to a false alarm rate of {limit:g}")


def _square(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """A figure with one axis from 0 to 1 each way."""
    figure = Figure(figsize=(3.5, 4.05), layout="constrained")
    axes = figure.subplots()
    # A square box at the top: equally large in every figure, however many lines the legend has.
    axes.set(box_aspect=1, anchor="N")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x_label, ylabel=y_label)
    return figure, axes


def _draw_lines(
    figure: Figure,
    axes: Axes,
    lines: Mapping[str, tuple[Curve, float | None]],
    measure: str,
    at: tuple[float, float] | None,
) -> None:
    handles: list[tuple[Artist, str]] = []
    for number, (name, ((x, y), area)) in enumerate(lines.items()):
        colour, style = LINES[number % 3], DASHES[number % 3]
        label = f"{name}: {measure} {area:.3f}" if area is not None and math.isfinite(area) else name
        handles.append((axes.plot(x, y, color=colour, linestyle=style, linewidth=1.8)[0], label))
    if at is not None and all(map(math.isfinite, at)):
        dot = axes.plot(*at, "o", color=LINES[0], markersize=7, markeredgecolor=INK, clip_on=False, zorder=5)
        handles.append((dot[0], "at the threshold"))
    legend_below(figure, handles)


def legend_below(figure: Figure, handles: Sequence[tuple[Artist, str]]) -> None:
    columns = 1 if len(handles) < 4 else 2
    # The names are set afterwards: a legend skips labels that begin with "_" and reads "$" as mathematics.
    numbers = [str(number) for number in range(len(handles))]
    legend = figure.legend([handle for handle, _ in handles], numbers, loc="outside lower center", ncols=columns)
    for text, (_, name) in zip(legend.get_texts(), handles, strict=True):
        text.set_parse_math(False)
        text.set_text(shortened(printable(name), 32))


def _by_kind(defective: Sequence[Case]) -> dict[str, NDArray[np.float64]]:
    """Scores by kind of defect, commonest first; kinds beyond the number of colours go together."""
    names = [name for name, _ in sorted(Counter(c.defect for c in defective).items(), key=lambda i: (-i[1], i[0]))]
    shown = names if len(names) <= len(_DEFECTS) else names[: len(_DEFECTS)]
    kinds = {name: _finite([c.score for c in defective if c.defect == name]) for name in shown}
    if len(names) > len(shown):
        rest = _finite([c.score for c in defective if c.defect not in shown])
        kinds[f"{len(names) - len(shown)} other kinds"] = rest
    return kinds


def _finite(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64).ravel()
    return array[np.isfinite(array)]


def _bins(values: NDArray[np.float64], threshold: float) -> tuple[NDArray[np.float64], bool]:
    """Edges of about 40 bins over values and threshold, and whether they are spaced by factors.

    The threshold is an edge, so that no bar stands on both sides of it.
    """
    ends = np.append(values, _finite([threshold]))
    low, high = (float(ends.min()), float(ends.max())) if ends.size else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    logarithmic = low > 0 and high > 50 * low
    # A score equal to the threshold is accepted: its bin is the one below.
    edge = np.nextafter(threshold, np.inf) if math.isfinite(threshold) else low
    if logarithmic:
        low, high, edge = np.log(low), np.log(high), np.log(edge)
    width = (high - low) / 40
    edges = edge + width * np.arange(np.floor((low - edge) / width), np.ceil((high - edge) / width) + 1)
    return np.exp(edges) if logarithmic else edges, logarithmic


def as_svg(figure: Figure, title: str) -> str:
    """The figure as an `<svg>` element that scales with the page and shares no id with another one."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # matplotlib measures with its own font; the page's browser has the letters that it lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL).replace("xlink:href", "href")
    # matplotlib's style rule would reach beyond its own figure; two attributes on the root do the same.
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", body, flags=re.DOTALL)
    key = hashlib.sha1(body.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()[:8]
    body = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>s{key}-", body).replace(INK, "currentColor")
    width, height = (f"{72 * inches:g}" for inches in figure.get_size_inches())
    root = f'<svg viewBox="0 0 {width} {height}" role="img" stroke-linejoin="round" stroke-linecap="butt">'
    return f"{root}<title>{html.escape(title)}</title>{body.strip()}"
