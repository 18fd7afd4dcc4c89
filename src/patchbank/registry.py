"""The methods by name. A method registers itself with a decorator; its presets are its name with a dot."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any, TypeVar

from patchbank.errors import OptionError, did_you_mean

if TYPE_CHECKING:
    from patchbank.detector import Detector

METHODS: dict[str, type[Detector]] = {}
COMBINATIONS: dict[str, type[Detector]] = {}  # of methods, which model files may hold too
Registered = TypeVar("Registered", bound="type[Detector]")


def register(detector: Registered) -> Registered:
    """Class decorator: make a method known by its `method` name, in files, on the command line and in benchmarks."""
    METHODS[detector.method] = detector
    return detector


def register_combination(detector: Registered) -> Registered:
    """Class decorator: of several methods, which no option names."""
    COMBINATIONS[detector.method] = detector
    return detector


def list_methods(pattern: str = "*") -> list[str]:
    """Names of methods and presets that match a pattern such as "patch*", sorted."""
    names = [name for method in METHODS.values() for name in (method.method, *_presets_of(method))]
    return sorted(name for name in names if fnmatch(name, pattern))


def find_method(name: str) -> tuple[type[Detector], dict[str, Any]]:
    """The class of a method or preset, and the options of the preset. Raises `OptionError` for unknown names."""
    method, _, preset = name.partition(".")
    found = METHODS.get(method)
    if found is None:
        advice = did_you_mean(method, METHODS)
        raise OptionError(f"method must be one of {', '.join(METHODS)}, not {name!r}{advice and f'; {advice}'}")
    if preset and preset not in found.presets:
        known = ", ".join(_presets_of(found)) or "none"
        raise OptionError(f"{method} has no preset {preset!r} (it has {known})")
    return found, dict(found.presets[preset]) if preset else {}


def create(name: str, **options: Any) -> Detector:
    """A detector by the name of its method or preset, such as "patchcore" or "patchcore.paper"; options that are given
    win over those of the preset."""
    detector, preset = find_method(name)
    return detector(**(preset | options))


def _presets_of(method: type[Detector]) -> list[str]:
    return [f"{method.method}.{preset}" for preset in method.presets]
