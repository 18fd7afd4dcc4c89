"""The options that several commands share, and the detector that they describe."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from patchbank.cli.numbers import LARGEST_SEED, MOST_THREADS
from patchbank.errors import OptionError, notify

if TYPE_CHECKING:
    from patchbank.detector import Detector
    from patchbank.shape import DepthFormat

_LEARNING, _MACHINE, _GEOMETRY = "What is learned", "Machine", "Geometry of the parts"


def _use_threads(count: int | None) -> int | None:
    """The process is the command's: what has no detector's context keeps to the number too."""
    if count is not None:
        from patchbank._system.threads import set_default

        set_default(count)
    return count


Method: TypeAlias = Annotated[str, typer.Option("--method", help="See `patchbank methods`.", rich_help_panel=_LEARNING)]
BackboneName: TypeAlias = Annotated[
    str | None, typer.Option("--backbone", help="See `patchbank backbones`; several: a+b.", rich_help_panel=_LEARNING)
]
Weights: TypeAlias = Annotated[
    str | None, typer.Option(help="A weight file for the backbone, or `random`.", rich_help_panel=_LEARNING)
]
Levels: TypeAlias = Annotated[
    str | None, typer.Option(help="Levels of the backbone, such as 2,3.", rich_help_panel=_LEARNING)
]
Quality: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="fast|balanced|best",
        help="How much time an image may take: several options in one word (docs/start/choosing.md) "
        "\\[default: balanced].",
        rich_help_panel=_LEARNING,
    ),
]
ImageSize: TypeAlias = Annotated[
    int | None,
    typer.Option(min=32, max=4096, help="Most pixels of the shorter inspected side.", rich_help_panel=_LEARNING),
]
GeometryKind: TypeAlias = Annotated[
    str | None,
    typer.Option("--geometry", help="whole: all of the image; paper: central crop.", rich_help_panel=_LEARNING),
]
Coreset: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE|stream",
        help="Share of all patches to keep, or `stream`: in chunks [default: 0.1, at most 10 000 patches].",
        rich_help_panel=_LEARNING,
    ),
]
BankSize: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Number of patches to keep instead.", rich_help_panel=_LEARNING)
]
BankMb: TypeAlias = Annotated[
    float | None, typer.Option(help="Size of the bank in MB instead.", rich_help_panel=_LEARNING)
]
FalseAlarmRate: TypeAlias = Annotated[
    float | None, typer.Option(help="Share of good parts that may be rejected.", rich_help_panel=_LEARNING)
]
GroupBy: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="RULE",
        help="Which images show one part and are left out together: `folder`, a CSV file (image,group) or a regular "
        "expression on names [default: near-copies are looked for].",
        rich_help_panel=_LEARNING,
    ),
]
Roi: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help="What to inspect: a mask image (black: not) or a JSON file with polygons (docs/guides/regions.md)."
    ),
]
Align: TypeAlias = Annotated[
    bool, typer.Option("--align", help="Lay each image over a training image first.", rich_help_panel=_LEARNING)
]
Tile: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=128, help="Inspect images at their own size, in tiles of so many pixels.", rich_help_panel=_LEARNING
    ),
]
Overlap: TypeAlias = Annotated[
    int | None,
    typer.Option(min=0, help="Pixels that neighbouring tiles share [default: 128].", rich_help_panel=_LEARNING),
]
FullScale: TypeAlias = Annotated[
    float | None,
    typer.Option(
        help="Pixel value that means white in images of more than 8 bits, such as 4095 [default: from the images].",
        rich_help_panel=_LEARNING,
    ),
]
Channels: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--channels",
        metavar="NAME,…",
        help="What is inspected of each part: rgb, curvature, normals, height, shading, fpfh, valid, relief "
        "[default: rgb; rgb,curvature,normals,valid where the parts have geometry].",
        rich_help_panel=_GEOMETRY,
    ),
]
Fusion: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="How several channels become one score: map-sum, max, learned or concat.", rich_help_panel=_GEOMETRY
    ),
]
DepthUnit: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--depth-unit",
        help="Unit of depths, heights or points: um, mm, cm, m, in, or a number of mm [default: auto].",
        rich_help_panel=_GEOMETRY,
    ),
]
DepthAxis: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--depth-axis",
        help="depth: numbers grow away from the camera; height: towards it [default: depth].",
        rich_help_panel=_GEOMETRY,
    ),
]
Invalid: TypeAlias = Annotated[
    str | None,
    typer.Option("--invalid", metavar="NUMBER,…", help="Numbers that mean `no point` [default: 0,-32768].",
                 rich_help_panel=_GEOMETRY),
]  # fmt: skip
Camera: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--camera", help="A JSON file with fx, fy, cx, cy, or with the pitch of a height map in mm.",
        rich_help_panel=_GEOMETRY,
    ),
]  # fmt: skip
Shots: TypeAlias = Annotated[
    int | None,
    typer.Option(min=1, help="Learn from so many of the images, drawn by the seed.", rich_help_panel=_LEARNING),
]
Seed: TypeAlias = Annotated[
    int, typer.Option(min=0, max=LARGEST_SEED, help="Of everything random.", rich_help_panel=_LEARNING)
]
Set: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other option of the method.", rich_help_panel=_LEARNING),
]
Device: TypeAlias = Annotated[str, typer.Option(help="auto, cpu or cuda", rich_help_panel=_MACHINE)]
Runtime: TypeAlias = Annotated[str, typer.Option(help="auto, openvino, onnxruntime or torch", rich_help_panel=_MACHINE)]
Threads: TypeAlias = Annotated[
    int | None,
    typer.Option(min=1, max=MOST_THREADS, help="CPU threads to use.", rich_help_panel=_MACHINE, callback=_use_threads),
]
MaxMinutes: TypeAlias = Annotated[
    float | None,
    typer.Option(help="End the training of weights after so long, all epochs done or not.", rich_help_panel=_LEARNING),
]
MemoryBudget: TypeAlias = Annotated[
    str | None, typer.Option(help="Most memory a fit may plan for, such as 4GB.", rich_help_panel=_MACHINE)
]
Layout: TypeAlias = Annotated[str, typer.Option(help="auto, folder, mvtec, mvtec3d, mtd or visa")]
Split: TypeAlias = Annotated[Path | None, typer.Option(help="A JSON file that lists the split (mtd).")]
TrainList: TypeAlias = Annotated[str, typer.Option(help="The list of the split file to train on.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Out: TypeAlias = Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")]


QUALITIES = ("fast", "balanced", "best")


def make_detector(method: str, assignments: list[str] | None, **options: Any) -> Detector:
    """The detector of that method; options that are None keep their default, `--set key=value` come last.

    Raises `OptionError` for unknown methods, keys and values that do not parse.
    """
    detector_class, preset = _find_method(method)
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        if key not in detector_class.parameter_names():
            raise OptionError(f"--{key.replace('_', '-')}: {method} has no such option (`patchbank methods`)")
    if isinstance(given.get("levels"), str):
        given["levels"] = _parse("levels", given["levels"], tuple[int, ...])
    if "memory_budget" in given:
        given["memory_budget"] = parse_bytes(given["memory_budget"])
    if isinstance(given.get("channels"), str):
        given["channels"] = tuple(name.strip() for name in given["channels"].split(","))
    hints = typing.get_type_hints(detector_class)
    if isinstance(given.get("coreset"), str):
        given["coreset"] = _parse("coreset", given["coreset"], hints["coreset"])
    names = detector_class.parameter_names()
    for assignment in assignments or []:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise OptionError(f"--set takes key=value, not {assignment!r}")
        if key not in names:
            raise OptionError(f"--set {key}: {method} has no such option; it has {', '.join(names)}")
        given[key] = parse_bytes(text) if key == "memory_budget" else _parse(key, text, hints[key])
    if "+" in given.get("backbone", ""):
        given["backbone"] = given["backbone"].split("+")
    return detector_class(**(preset | given))


def maker_for(
    methods: Iterable[str], options: Mapping[str, Any], assignments: list[str] | None
) -> Callable[[str, Mapping[str, Any]], Detector]:
    """As `make_detector`, for several methods that were given the same options: one that only some of them take is left
    out for the others, and a warning says so once.

    Raises `OptionError` for unknown methods.
    """
    classes = {method: _find_method(method)[0] for method in methods}
    spelled = {key: f"--{key.replace('_', '-')}" for key, value in options.items() if value is not None}
    spelled |= {_key(assignment): f"--set {_key(assignment)}" for assignment in assignments or []}
    left_out: dict[str, set[str]] = {method: set() for method in classes}
    for key, words in spelled.items():
        without = [method for method, detector in classes.items() if not detector.takes(key)]
        if 0 < len(without) < len(classes):
            notify(f"{words}: left out for {', '.join(without)}, where it has no effect")
            for method in without:
                left_out[method].add(key)

    def make(method: str, given: Mapping[str, Any]) -> Detector:
        passed = {key: value for key, value in given.items() if key not in left_out[method]}
        return make_detector(method, [a for a in assignments or [] if _key(a) not in left_out[method]], **passed)

    return make


TUNED = ("image_size", "sigma", "position_scale")


def check_untouched(by: str, options: Mapping[str, Any], assignments: list[str] | None) -> None:
    """Raise `OptionError` where an option was given that another one, `by`, chooses."""
    for key in TUNED:
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


def _key(assignment: str) -> str:
    return assignment.partition("=")[0]


def _find_method(method: str) -> tuple[type[Detector], dict[str, Any]]:
    from patchbank.methods import find_method

    try:
        return find_method(method)
    except OptionError as error:
        words = str(error)
        raise OptionError(f"--{words}" if words.startswith("method ") else f"--method: {words}") from None


_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parse_bytes(text: str, option: str = "--memory-budget") -> int:
    """ "4GB", "500 MB" or a plain number of bytes → bytes."""
    units = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
    number = text.strip().rstrip("BbKkMmGgIi ")
    unit = text.strip()[len(number) :].strip().lower()
    try:
        count = int(float(number) * units[unit])
        if not 0 <= count < 2**63:
            raise ValueError
        return count
    except (ValueError, KeyError, OverflowError):
        raise OptionError(f"{option} takes a size such as 4GB or 500MB, not {text!r}") from None


def depth_format(unit: str | None, axis: str | None, invalid: str | None, camera: Path | None) -> DepthFormat | None:
    """What the numbers of geometry mean; None where no option says anything. Raises `OptionError`."""
    if all(value is None for value in (unit, axis, invalid, camera)):
        return None
    from patchbank.shape import DepthFormat, read_camera

    given: dict[str, Any] = {}
    if unit is not None:
        given["unit"] = float(unit) if unit.replace(".", "", 1).isdigit() else unit
    if axis is not None:
        given["axis"] = axis
    if invalid is not None:
        try:
            given["invalid"] = tuple(float(number) for number in invalid.split(","))
        except ValueError:
            raise OptionError(f"--invalid takes numbers such as 0 or 0,65535, not {invalid!r}") from None
    if camera is not None:
        given["camera"] = read_camera(camera)
    return DepthFormat(**given)


def range_up_to(full_scale: float | None) -> tuple[float, float] | None:
    """The `value_range` of --full-scale."""
    if full_scale is None:
        return None
    if not (math.isfinite(full_scale) and full_scale > 0):
        raise OptionError(f"--full-scale must be a positive number such as 4095, not {full_scale}")
    return 0.0, full_scale


def parse_seed(text: str) -> int:
    """A seed of a comma-separated list."""
    try:
        if not 0 <= (seed := int(text)) <= LARGEST_SEED:
            raise ValueError
        return seed
    except ValueError:
        raise OptionError(f"--seeds takes whole numbers such as 0,1,2, not {text!r}") from None


def _parse(key: str, text: str, hint: Any) -> Any:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(None) in kinds and text.lower() == "none":
        return None
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            if typing.get_origin(kind) is tuple:
                element = typing.get_args(kind)[0]
                return tuple(element(part) for part in text.split(","))
            return _BOOLEANS[text.lower()] if kind is bool else kind(text)
        except (ValueError, KeyError):
            continue
    wanted = "numbers such as 2,3" if "tuple" in str(hint) else " or ".join(k.__name__ for k in kinds)
    raise OptionError(f"{key} takes {wanted.replace('NoneType', 'none')}, not {text!r}")
