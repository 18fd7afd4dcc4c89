"""The detector that the options of a command describe."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from patchbank._system.former_names import GONE_IN
from patchbank.cli.choices import QUALITIES
from patchbank.cli.values import parse_as, parse_bytes
from patchbank.errors import OptionError, did_you_mean, notify

if TYPE_CHECKING:
    from patchbank.detector import Detector

TUNED = ("image_size", "sigma", "position_scale")
# options of detectors whose name on the command line is another one
_SPELLED = {
    "coreset": "--coreset-ratio", "bank_mb": "--bank-memory", "runtime": "--engine", "max_minutes": "--max-seconds",
    "value_range": "--full-scale", "depth": "--depth-unit",
}  # fmt: skip


def spelled(key: str, value: Any = None) -> str:
    """An option of a detector as the command line names it."""
    return "--streaming" if value == "stream" else _SPELLED.get(key, f"--{key.replace('_', '-')}")


def make_detector(method: str, assignments: list[str] | None, **options: Any) -> Detector:
    """The detector of that method; options that are None keep their default, `--set key=value` come last.

    Raises `OptionError` for unknown methods, keys and values that do not parse.
    """
    detector_class, preset = _find_method(method)
    given = {key: value for key, value in options.items() if value is not None}
    for key, value in given.items():
        if key not in detector_class.parameter_names():
            raise OptionError(f"{spelled(key, value)}: {method} has no such option (`patchbank methods`)")
    if isinstance(given.get("levels"), str):
        given["levels"] = parse_as("--levels", given["levels"], tuple[int, ...])
    if isinstance(given.get("memory_budget"), str):
        given["memory_budget"] = parse_bytes(given["memory_budget"])
    if isinstance(given.get("channels"), str):
        given["channels"] = tuple(name.strip() for name in given["channels"].split(","))
    hints = typing.get_type_hints(detector_class)
    names = detector_class.parameter_names()
    for assignment in _of_today(assignments, detector_class.former):
        key, equals, text = assignment.partition("=")
        if not equals:
            raise OptionError(f"--set takes key=value, not {assignment!r}")
        if key not in names:
            advice = did_you_mean(key, names) or f"it has {', '.join(names)}"
            raise OptionError(f"--set {key}: {method} has no such option; {advice}")
        given[key] = parse_bytes(text, bare=True) if key == "memory_budget" else parse_as(key, text, hints[key])
    if "+" in given.get("backbone", ""):
        given["backbone"] = given["backbone"].split("+")
    return detector_class(**(preset | given))


def maker_for(
    methods: Iterable[str], options: Mapping[str, Any], assignments: list[str] | None
) -> Callable[[str, Mapping[str, Any]], Detector]:
    """As `make_detector`, for several methods with the same options, those of `--methods`.

    An option that only some of the methods take is left out for the others, and a warning says so once.

    Raises `OptionError` for unknown methods.
    """
    classes = {method: _find_method(method, "--methods")[0] for method in methods}
    assignments = _of_today(assignments, {old: new for kind in classes.values() for old, new in kind.former.items()})
    words_of = {key: spelled(key, value) for key, value in options.items() if value is not None}
    words_of |= {_key(assignment): f"--set {_key(assignment)}" for assignment in assignments}
    left_out: dict[str, set[str]] = {method: set() for method in classes}
    for key, words in words_of.items():
        without = [method for method, detector in classes.items() if not detector.takes(key)]
        if 0 < len(without) < len(classes):
            notify(f"{words}: left out for {', '.join(without)}, where it has no effect")
            for method in without:
                left_out[method].add(key)

    def make(method: str, given: Mapping[str, Any]) -> Detector:
        passed = {key: value for key, value in given.items() if key not in left_out[method]}
        return make_detector(method, [a for a in assignments if _key(a) not in left_out[method]], **passed)

    return make


def check_untouched(
    by: str, options: Mapping[str, Any], assignments: list[str] | None, chosen: Iterable[str] = TUNED
) -> None:
    """Raise `OptionError` where an option was given that another one, `by`, has `chosen`."""
    for key in chosen:
        if options.get(key) is not None or key in map(_key, assignments or []):
            raise OptionError(f"{by} chooses {key}: leave one of them out")


def at_quality(method: str, quality: str | None) -> str:
    """The name of a method, or of its preset for a quality. Raises `OptionError` for a quality that it does not
    have."""
    if quality in (None, "balanced"):
        return method
    if quality not in QUALITIES:
        raise OptionError(f"--quality must be one of {', '.join(QUALITIES)}, not {quality!r}")
    found, preset = _find_method(method)
    if preset or quality not in found.presets:
        raise OptionError(f"--quality {quality} is for patchcore: leave it out for {method}, and give its own options")
    return f"{method}.{quality}"


def chosen_by(preset: str) -> list[str]:
    """What a preset says of the network and its images."""
    _, options = _find_method(preset)
    found = {key for each in options.get("members", [options]) for key in each}
    return [key for key in ("image_size", "backbone") if key in found]


def _of_today(assignments: list[str] | None, former: Mapping[str, str]) -> list[str]:
    """The assignments of `--set` under the names that options have now; a note says what was renamed."""
    found = []
    for assignment in assignments or []:
        old, equals, text = assignment.partition("=")
        if old in former:
            notify(f"--set {old} is now --set {former[old]}; the old name works until {GONE_IN}")
        found.append(f"{former.get(old, old)}{equals}{text}")
    return found


def _key(assignment: str) -> str:
    return assignment.partition("=")[0]


def _find_method(method: str, option: str = "--method") -> tuple[type[Detector], dict[str, Any]]:
    from patchbank.methods import find_method

    try:
        return find_method(method)
    except OptionError as error:
        words = str(error)
        rest = words.removeprefix("method ")
        raise OptionError(f"{option}: {words}" if rest == words else f"{option} {rest}") from None
