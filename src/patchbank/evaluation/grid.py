"""Which cells a grid has: datasets × methods × backbones × seeds, or the variants of a preset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from patchbank.data.datasets import Dataset
from patchbank.detector import Detector
from patchbank.errors import OptionError, WeightsError
from patchbank.evaluation.benchmark import Cell
from patchbank.evaluation.presets import DEFAULT_BACKBONE, Preset
from patchbank.features.backbones import list_backbones


@dataclass(frozen=True)
class Wanted:
    """What a user asked for. `opened(seed)`: the datasets; `make(method, options)`: a detector, options that are None
    left at their defaults; `options`: those that were given. Empty tuples mean the defaults."""

    opened: Callable[[int], list[Dataset]]
    make: Callable[[str, Mapping[str, Any]], Detector]
    options: Mapping[str, Any]
    methods: tuple[str, ...] = ()
    backbones: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    shots: int | None = None


def of_options(wanted: Wanted) -> list[Cell]:
    """The plain grid."""
    cells = []
    for seed in wanted.seeds or (0,):
        datasets = [dataset.with_shots(wanted.shots, seed) for dataset in wanted.opened(seed)]
        for dataset, method, backbone in product(
            datasets, wanted.methods or ("patchcore",), wanted.backbones or (None,)
        ):
            detector = wanted.make(method, {"backbone": backbone, **wanted.options, "seed": seed})
            cells.append(Cell(dataset, detector))
    return cells


def of_preset(preset: Preset, wanted: Wanted, say: Callable[[str], object]) -> list[Cell]:
    """The preset's cells; what was given is used instead of the paper's. `say` hears of what a dataset is too small
    for. Raises `WeightsError` where the weights of a backbone cannot be had."""
    variants = [v for v in preset.variants if not wanted.methods or v.method in wanted.methods]
    if not variants:
        there = ", ".join(sorted({v.method for v in preset.variants}))
        raise OptionError(f"--methods {','.join(wanted.methods)}: the preset {preset.name} has {there}")
    cells: dict[tuple[str, str], Cell] = {}
    too_small = set()
    for seed in wanted.seeds or preset.seeds:
        datasets = wanted.opened(seed)
        for variant, backbone, dataset in product(variants, wanted.backbones or (None,), datasets):
            if variant.shots and variant.shots > len(dataset.train):
                too_small.add(f"{dataset.name} has {len(dataset.train)} training images: {variant.shots} are left out")
                continue
            if variant.shots and wanted.shots:
                raise OptionError(f"--shots does not go with the preset {preset.name}, which draws its own")
            options = variant.options_with({**wanted.options, "backbone": backbone, "seed": seed})
            detector = wanted.make(variant.method, options)
            part = detector.parts()[0]  # the members of an ensemble differ in their backbones only
            values = {name: getattr(part, name) for name in part.parameter_names()} | {"backbone": detector.backbone}
            label = variant.label_with(values)
            cell = Cell(dataset.with_shots(variant.shots or wanted.shots, seed), detector, label)
            cells.setdefault((cell.name, label), cell)  # options that were given can make two variants one
    for words in sorted(too_small):
        say(words)
    _check_weights(preset, cells.values())
    return list(cells.values())


def _check_weights(preset: Preset, cells: Iterable[Cell]) -> None:
    specs = {spec.name: spec for spec in list_backbones()}
    names = {part.backbone for cell in cells for part in cell.detector.parts() if part.weights is None}
    for name in sorted(names & set(specs)):
        try:
            specs[name].weights.fetch(name)
        except WeightsError as error:
            raise WeightsError(
                f"{error}; or run the preset {preset.name} with the network that is installed: --backbones "
                f"{DEFAULT_BACKBONE}"
            ) from error
