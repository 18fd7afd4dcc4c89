"""Which configuration of a grid to take, and why, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from patchbank.evaluation.finished import Configuration, Grid, Summary

# What decides, in this order; only where it cannot tell configurations apart is the next one asked.
MEASURES = {"image_auroc": "image AUROC", "aupro": "AUPRO", "pixel_auroc": "pixel AUROC"}
_NAMED_AT_THE_END = {"image_auroc": "image AUROC", "recall_at_threshold": "recall at the threshold"}
COST = "latency_ms_p50"
_AS_FAST = 1.25  # times the latency of the fastest still counts as fast


@dataclass(frozen=True)
class Advice:
    """The sentences for the top of a report; `take`: the configuration they name; `complete`: those that have results
    on every dataset, which alone can be compared on the average."""

    sentence: str
    more: tuple[str, ...]
    take: Configuration | None
    complete: tuple[Configuration, ...]


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (cost, value) that no other beats, by rising cost: none costs no more and is worth no less, and
    is better in one of the two."""
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front


def advise(grid: Grid) -> Advice:
    """What to take on these data: the most accurate; of those that accuracy does not tell apart the one that localizes
    best; of those that are still level the fastest."""
    complete = tuple(c for c in grid.configurations if set(grid.datasets) <= c.cells.keys())
    measures = [key for key in MEASURES if any(c.over(grid.datasets, key) for c in complete)][:2]
    if not measures:
        sentence = (
            f"No configuration has results on all {len(grid.datasets)} datasets: compare them dataset by dataset."
        )
        if complete:
            sentence = "No accuracy could be computed on these data; the reports of the cells say why."
        return Advice(sentence, (), None, complete)
    take, equal = _choose(complete, grid.datasets, measures)
    first = measures[0]
    if len(grid.configurations) == 1:
        sentence = f"Only one configuration was run: {_named(take)}, with {_reached(take, grid, first)}."
        return Advice(sentence, tuple(filter(None, [_means(take, grid)])), take, complete)
    why = _why(take, equal, grid, measures)
    sentence = f"Take {_named(take)}: {why}."
    others = [c for c in equal[0] if c is not take]
    more = [_faster(take, complete, grid, first), _level(others, grid, first), _missing(grid, complete)]
    return Advice(sentence, tuple(filter(None, [*more, _means(take, grid)])), take, complete)


def winners(grid: Grid) -> str:
    """One line that names the best by image AUROC and by recall at the threshold; "" without a choice to make."""
    complete = [c for c in grid.configurations if set(grid.datasets) <= c.cells.keys()]
    mean = "mean " if len(grid.datasets) > 1 else ""
    found = []
    for key, name in _NAMED_AT_THE_END.items():
        level = [c for c in level_with_best(complete, grid.datasets, key) if c.over(grid.datasets, key)]
        if len(complete) < 2 or not level:
            continue
        if len(level) == 1:
            reached = number_words(_value(level[0], grid, key)) + _false_alarms(level[0], grid, key)
            found.append(f"Best by {mean}{name}: {level[0].label} ({reached}).")
            continue
        names = (
            [c.label for c in level] if len(level) <= 4 else [*(c.label for c in level[:4]), f"{len(level) - 4} more"]
        )
        labels = f"{', '.join(names[:-1])} and {names[-1]}"
        top = max(_value(c, grid, key).mean for c in level)
        found.append(f"No clear winner by {mean}{name}: {labels} are level at {top:.3f}.")
    return " ".join(found)


def _false_alarms(configuration: Configuration, grid: Grid, key: str) -> str:
    """A recall says little without the good parts that were rejected for it."""
    rate = configuration.over(grid.datasets, "false_alarm_rate")
    return f" with {rate.mean:.1%} false alarms".replace("%", " %") if key == "recall_at_threshold" and rate else ""


def best_on(grid: Grid, dataset: str) -> Configuration:
    """The configuration to take for one dataset alone."""
    there = [c for c in grid.configurations if dataset in c.cells]
    return _choose(there, [dataset], list(MEASURES)[:2])[0]


def level_with_best(configurations: Sequence[Configuration], datasets: Sequence[str], key: str) -> list[Configuration]:
    """Those that a measure does not tell from the best one; all of them where it was not computed for any."""
    values = [(c, value) for c in configurations if (value := c.over(datasets, key)) is not None]
    if not values:
        return list(configurations)
    top = max((value for _, value in values), key=lambda value: value.mean)
    return [c for c, value in values if value.ties_with(top)]


def _choose(
    configurations: Sequence[Configuration], datasets: Sequence[str], measures: Sequence[str]
) -> tuple[Configuration, list[list[Configuration]]]:
    """The one to take, and who was still level after each measure."""
    left, equal = list(configurations), []
    for key in measures:
        left = level_with_best(left, datasets, key)
        equal.append(left)

    def cost(configuration: Configuration) -> tuple[float, str]:
        latency = configuration.over(datasets, COST)
        return (latency.mean if latency else float("inf"), configuration.label)

    return min(left, key=cost), equal


def _why(take: Configuration, equal: list[list[Configuration]], grid: Grid, measures: Sequence[str]) -> str:
    reached = _reached(take, grid, measures[0])
    if len(equal[0]) == 1:
        return f"its {reached} is the highest"
    chance = "the spread of the seeds" if _seeds(take, grid) > 1 else "three decimals"
    words = [f"its {reached} is the best, level with {_count(len(equal[0]) - 1, 'other')} to within {chance}"]
    if len(equal) > 1 and len(equal[1]) < len(equal[0]):
        rank = (
            "is the highest"
            if len(equal[1]) == 1
            else f"is the highest, level with {_count(len(equal[1]) - 1, 'other')}"
        )
        words.append(f"of these, its {_reached(take, grid, measures[1])} {rank}")
    if len(equal[-1]) > 1 and (latency := take.over(grid.datasets, COST)):
        words.append(f"of the {len(equal[-1])} still level it is the fastest, {latency.mean:.3g} ms for one image")
    return "; ".join(words)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _faster(take: Configuration, complete: Sequence[Configuration], grid: Grid, key: str) -> str:
    """The best within the fastest."""
    costs = {c: cost for c in complete if (cost := c.over(grid.datasets, COST))}
    own = costs.get(take)
    if own is None:
        return ""
    least = min(costs.values(), key=lambda cost: cost.mean)
    fast = [c for c, cost in costs.items() if cost.mean <= _AS_FAST * least.mean or cost.ties_with(least)]
    if take in fast:
        return f"It is also among the fastest: {own.mean:.3g} ms for one image."
    best = max((c for c in fast if c.over(grid.datasets, key)), key=lambda c: _value(c, grid, key).mean, default=None)
    if best is None:
        return ""
    return (
        f"If speed counts more: {_named(best)} takes {costs[best].mean:.3g} ms for one image instead of "
        f"{own.mean:.3g} ms, with {_reached(best, grid, key)}."
    )


def _level(others: Sequence[Configuration], grid: Grid, key: str) -> str:
    if not others:
        return ""
    listed = [f"{c.label} ({number_words(_value(c, grid, key))})" for c in others[:4]]
    rest = f" and {len(others) - 4} more" if len(others) > 4 else ""
    return f"Not to be told from it by {MEASURES[key]}: {', '.join(listed)}{rest}."


def _missing(grid: Grid, complete: Sequence[Configuration]) -> str:
    parts = []
    for c in grid.configurations:
        if c not in complete:
            absent = [dataset for dataset in grid.datasets if dataset not in c.cells]
            parts.append(f"{c.label} has no results on {', '.join(absent[:3])}{' and others' if absent[3:] else ''}")
    more = f", and so for {len(parts) - 3} more" if len(parts) > 3 else ""
    return f"Left out of this comparison: {'; '.join(parts[:3])}{more}." if parts else ""


def _means(take: Configuration, grid: Grid) -> str:
    """What the numbers are averages of."""
    seeds = _seeds(take, grid)
    of = [f"{len(grid.datasets)} datasets"] if len(grid.datasets) > 1 else []
    of += [f"{seeds} seeds (±: their standard deviation)"] if seeds > 1 else []
    chance = "" if seeds > 1 else "Only one seed was run: which small differences are chance cannot be said."
    tested = [
        (good, bad) for cell in grid.cells if (good := cell.number("n_good")) and (bad := cell.number("n_anomalous"))
    ]
    size = ""
    if tested:
        good, bad = min(tested, key=lambda counts: counts[0] * counts[1])
        smallest = "smallest test set" if len(set(tested)) > 1 else "test set"
        size = (
            f"The {smallest} has {good:.0f} good and {bad:.0f} defective images; which images these are is chance, too."
        )
    words = [f"Numbers are means of {' and '.join(of)}." if of else "", chance, size]
    return " ".join(filter(None, words))


def _seeds(configuration: Configuration, grid: Grid) -> int:
    return max((value.seeds for key in MEASURES if (value := configuration.over(grid.datasets, key))), default=0)


def _named(configuration: Configuration) -> str:
    """The label, with the method and the backbone where it does not name them."""
    words = configuration.label
    if not words.startswith(configuration.method):
        words = f"{configuration.method}, {words}"
    return words if configuration.backbone in words else f"{words}, with {configuration.backbone}"


def _reached(configuration: Configuration, grid: Grid, key: str) -> str:
    mean = "mean " if len(grid.datasets) > 1 else ""
    return f"{mean}{MEASURES[key]} of {number_words(_value(configuration, grid, key))}"


def _value(configuration: Configuration, grid: Grid, key: str) -> Summary:
    value = configuration.over(grid.datasets, key)
    assert value is not None, key
    return value


def number_words(value: Summary) -> str:
    """A share with its spread over the seeds."""
    return f"{value.mean:.3f}" + (f" ± {value.spread:.3f}" if value.spread is not None else "")
