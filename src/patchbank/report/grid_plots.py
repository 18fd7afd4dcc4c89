"""Figures of a grid: accuracy against cost with the Pareto front, and curves over a swept option."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from patchbank.pictures.labels import printable, shortened
from patchbank.pictures.text import font
from patchbank.report.advice import pareto
from patchbank.report.plots import INK, STYLE, as_svg, legend_below

_COLOURS = ("#2080c4", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c")
_MARKERS = "osD^vPX"
_DECADE = 10  # values that span so much are drawn by their logarithm
_TEXT = 8  # points
# Where a label may stand from its point: direction, tried at growing distance.
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_DISTANCES = (7.0, 16.0, 28.0, 42.0)


@dataclass(frozen=True)
class Point:
    """One configuration in a scatter plot; `group` decides colour and marker, `spread` is the error bar's half."""

    label: str
    group: str
    cost: float
    value: float
    spread: float | None = None


def scatter(points: Sequence[Point], groups: Sequence[str], x_label: str, y_label: str) -> str:
    """Value against cost, the Pareto front as a line and its points filled; the place of a point's group in `groups`
    decides its colour. An SVG string."""
    with rc_context(STYLE):
        figure = Figure(figsize=(4.6, 4.2), dpi=72, layout="constrained")
        axes = figure.subplots()
        front = set(pareto([(p.cost, p.value) for p in points]))
        for i, p in enumerate(points):
            colour, marker = _look(groups.index(p.group))
            if p.spread:
                axes.errorbar(p.cost, p.value, p.spread, color=colour, alpha=0.5, linewidth=1.2)
            axes.plot(
                p.cost, p.value, marker, color=colour, markersize=8 if i in front else 6, zorder=4,
                markerfacecolor=colour if i in front else "none", markeredgewidth=1.5,
                markeredgecolor=INK if i in front else colour,
            )  # fmt: skip
        steps = [(points[i].cost, points[i].value) for i in pareto([(p.cost, p.value) for p in points])]
        axes.plot(*zip(*steps, strict=True), color=INK, linewidth=1, linestyle="--", drawstyle="steps-post", zorder=3)
        axes.set(xlabel=x_label, ylabel=y_label)
        _limits(axes, points)
        handles: list[tuple[Artist, str]] = []
        for group in sorted({p.group for p in points}) if len(groups) > 1 else ():
            colour, marker = _look(groups.index(group))
            handles.append((Line2D([], [], color=colour, marker=marker, linestyle=""), group))
        handles.append((Line2D([], [], color=INK, linestyle="--"), "Pareto front"))
        legend_below(figure, handles)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # the axes stay where the labels were placed for
        _write_labels(axes, points, front)
        return as_svg(figure, f"{y_label} against {x_label}")


def _look(number: int) -> tuple[str, str]:
    return _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]


def _limits(axes: Axes, points: Sequence[Point]) -> None:
    """Room around the points, for the labels."""
    costs = [p.cost for p in points]
    if _log_scale(axes.set_xscale, costs):
        _decades(axes.xaxis, costs)
        room = (max(costs) / min(costs)) ** 0.15
        axes.set_xlim(min(costs) / room, max(costs) * room)
    else:
        width = max(max(costs) - min(costs), 0.1 * abs(max(costs)), 1e-9)
        axes.set_xlim(min(costs) - 0.2 * width, max(costs) + 0.2 * width)
    _share_limits(axes, [v for p in points for v in (p.value - (p.spread or 0), p.value + (p.spread or 0))])


def _share_limits(axes: Axes, values: Sequence[float]) -> None:
    """Room above and below shares, no tick above 1."""
    low, high = min(values), max(values)
    room = max(0.12 * (high - low), 0.002)
    axes.set_ylim(low - max(room, 0.01 - (high - low)), high + room)
    axes.ticklabel_format(axis="y", useOffset=False)
    ticks = [tick for tick in axes.get_yticks() if axes.get_ylim()[0] <= tick <= min(1 + 1e-9, axes.get_ylim()[1])]
    axes.yaxis.set_major_locator(FixedLocator(ticks))


def _decades(axis: Axis, values: Sequence[float]) -> None:
    """Ticks of a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(values) < 60 * min(values) else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def _log_scale(set_scale: Callable[[str], None], values: Sequence[float]) -> bool:
    if min(values) <= 0 or max(values) < _DECADE * min(values):
        return False
    set_scale("log")
    return True


def _write_labels(axes: Axes, points: Sequence[Point], front: set[int]) -> None:
    """Each label where it covers no point, no line and no other label, nor leaves the axes; those of the front first.
    One that fits nowhere is left out: the tables have all names."""
    inside = axes.get_window_extent()
    centres = [tuple(map(float, axes.transData.transform((p.cost, p.value)))) for p in points]
    taken = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in centres]
    steps = [centres[i] for i in sorted(front, key=lambda i: points[i].cost)]
    for (x0, y0), (x1, y1) in pairwise(steps):  # the line of the front, across and up
        taken += [Bbox.from_extents(x0, y0 - 1, x1, y0 + 1), Bbox.from_extents(x1 - 1, y0, x1 + 1, y1)]
    for i in sorted(range(len(points)), key=lambda i: (i not in front, -points[i].value, points[i].cost)):
        words = shortened(printable(points[i].label), 30)
        places = [
            (_beside(centres[i], font(_TEXT).getlength(words), direction, distance), distance)
            for distance in _DISTANCES
            for direction in _DIRECTIONS
        ]
        free = next(((box, far) for box, far in places if _free(box, taken, inside)), None)
        if free is None:
            continue
        box, far = free
        taken.append(box)
        offset = (box.x0 - centres[i][0], box.y0 + 2 - centres[i][1])
        place = (points[i].cost, points[i].value)
        note = axes.annotate("", place, offset, textcoords="offset points", fontsize=_TEXT, zorder=6, va="baseline")
        note.set_parse_math(False)
        note.set_text(words)
        if far > _DISTANCES[0]:
            edge = (min(max(centres[i][0], box.x0), box.x1), min(max(centres[i][1], box.y0), box.y1))
            x, y = axes.transData.inverted().transform(edge)
            axes.plot([place[0], x], [place[1], y], color=INK, linewidth=0.5, zorder=5)


def _beside(centre: tuple[float, ...], width: float, direction: tuple[int, int], distance: float) -> Bbox:
    """The box of a label of that width, to one side of a point."""
    x, y = centre
    height = 1.25 * _TEXT
    left = x - width / 2 + direction[0] * (distance + width / 2)
    bottom = y - height / 2 + direction[1] * (distance + height / 2)
    return Bbox.from_bounds(left, bottom, width, height)


def _free(box: Bbox, taken: Sequence[Bbox], inside: Bbox) -> bool:
    fits = box.x0 >= inside.x0 and box.x1 <= inside.x1 and box.y0 >= inside.y0 and box.y1 <= inside.y1
    return fits and not any(box.overlaps(other) for other in taken)


Line = Sequence[tuple[float, float, "float | None"]]


def curves(lines: Mapping[str, Line], x_label: str, y_label: str, *, shares: bool) -> str:
    """A measure over a swept option, name → (x, mean, spread over the seeds); logarithmic axes where the values span
    decades. `shares`: the measure lies in 0..1. An SVG string."""
    with rc_context(STYLE):
        figure = Figure(figsize=(4.4, 3.1), dpi=72, layout="constrained")
        axes = figure.subplots()
        handles: list[tuple[Artist, str]] = []
        for number, (name, line) in enumerate(lines.items()):
            colour, marker = _look(number)
            x, mean, spread = zip(*line, strict=True)
            drawn = axes.errorbar(
                x, mean, [s or 0 for s in spread], color=colour, marker=marker, markersize=5, capsize=2, linewidth=1.6
            )
            handles.append((drawn.lines[0], name))
        x_values = sorted({x for line in lines.values() for x, _, _ in line})
        if _log_scale(axes.set_xscale, x_values):
            x_label += " (logarithmic)"
        means = [mean for line in lines.values() for _, mean, _ in line]
        if not shares and _log_scale(axes.set_yscale, means):
            _decades(axes.yaxis, means)
        elif shares:
            _share_limits(
                axes, [v for line in lines.values() for _, m, s in line for v in (m - (s or 0), m + (s or 0))]
            )
        else:
            axes.set_ylim(0, 1.1 * max(m + (s or 0) for line in lines.values() for _, m, s in line) or 1)
        axes.xaxis.set_major_locator(FixedLocator(_apart(x_values)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set(xlabel=printable(x_label), ylabel=y_label)
        if len(handles) > 1:
            legend_below(figure, handles)
        return as_svg(figure, f"{y_label} over {x_label}")


def _apart(values: Sequence[float]) -> list[float]:
    """Values to write on an axis: those that leave each other room."""
    logarithmic = values[0] > 0 and values[-1] >= _DECADE * values[0]
    places = [math.log(v) if logarithmic else v for v in values]
    least = 0.11 * (places[-1] - places[0])
    kept = [0]
    for i in range(1, len(values)):
        if places[i] - places[kept[-1]] >= least:
            kept.append(i)
    return [values[i] for i in kept]
