"""Which images show the same part: given by a rule, or found where pictures are nearly copies of each other.

Pictures of one part are not independent draws. Leave-one-out must leave all of them out, folds must keep them together,
and the promise of a threshold counts parts, not pictures (Lee, Barber and Willett, "Distribution-free inference with
hierarchical data", 2023).
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from patchbank._system.remote import located
from patchbank.errors import OptionError, notify
from patchbank.sample import Sample

FOLDER = "folder"
FOUND = "like "  # begins the label of a group that was found, before the name of its first image
BLOCK = 2000  # images compared with each other at once; pictures of one part follow each other in any naming scheme
_LEAST_IMAGES = 8
_MOST_OF_ALL = 1 / 3  # of the images may be one group: a larger one says that all parts look alike
# A group is isolated if the nearest other image is this many times as far away as its own two farthest images.
# Measured on seven sets of pictures, as they are and as bursts (docs/guides/thresholds.md).
_CLEARLY = 1.5  # chance groups are rarely so clear
_BARELY, _MANY, _MANY_OF_FEW = 1.15, 0.7, 0.85  # but where most images belong to such groups, these are no chance
_LOOSELY = 1.05  # and then their looser companions are groups too
_FEW = 20
_LEAST_SHARE = 0.1  # of the images must have a twin: fewer hardly move a threshold


@dataclass(frozen=True)
class NearCopies:
    """Groups found among N images: `labels`, the number of the first image of each image's group."""

    labels: tuple[int, ...]

    @property
    def groups(self) -> int:
        return len(set(self.labels))

    @property
    def with_twin(self) -> int:
        """Images that share their group with another."""
        return sum(count for count in Counter(self.labels).values() if count > 1)


def labelled(sources: list[Sample], groups: Sequence[object] | None, rule: str | None) -> list[Sample]:
    """The sources with the labels of their parts, as far as these are given: `groups`, or the rule of `labels_by`."""
    if any(source.group for source in sources):  # labelled already
        return sources
    if groups is not None:
        labels = ["" if label is None else str(label) for label in groups]
        if len(labels) != len(sources):
            raise OptionError(f"groups has {len(labels)} labels for {len(sources)} images: give one for each")
        check_labels(labels, "groups")
    elif rule is not None:
        labels = labels_by(rule, sources)
    else:
        return sources
    return [replace(source, group=label) for source, label in zip(sources, labels, strict=True)]


def labels_by(rule: str, sources: Sequence[Sample]) -> list[str]:
    """One group label per image. `rule`: "folder" for the folder of each file; a CSV file with the columns image and
    group; or a regular expression, whose first group (or whole match) in the image's name is the label.

    Raises `OptionError` for a rule that cannot be read, that leaves images out, or that puts all images in one group.
    """
    names = [source.name for source in sources]
    if rule == FOLDER:
        labels = [str(located(name).parent) for name in names]
    elif rule.lower().endswith(".csv"):
        labels = _from_table(Path(rule), names)
    else:
        labels = _from_pattern(rule, names)
    check_labels(labels, f"group_by={rule!r}")
    return labels


def check_labels(labels: Sequence[str], what: str) -> None:
    """Raise `OptionError` where all of two or more images are in one group."""
    if len(labels) > 1 and len(set(labels)) == 1:
        raise OptionError(
            f"{what} puts all {len(labels)} images in one group: a threshold takes pictures of at least two parts"
        )


def _from_table(path: Path, names: Sequence[str]) -> list[str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise OptionError(f"{path}: cannot be read as a table of images and groups ({error})") from None
    if any(len(row) < 2 for row in rows):
        raise OptionError(f"{path}: each row must have an image and its group, such as part17_2.png,part17")
    table = {PurePath(image.strip()).as_posix(): group.strip() for image, group, *_ in rows}
    labels, missing = [], []
    for name in names:
        parts = PurePath(name).parts
        ends = ("/".join(parts[i:]).removeprefix("//") for i in range(len(parts)))  # the longest end of the path first
        label = next((table[end] for end in ends if end in table), None)
        labels.append(label or "")
        if not label:
            missing.append(name)
    if missing:
        raise OptionError(f"{path}: has no group for {len(missing)} of {len(names)} images, such as {missing[0]}")
    return labels


def _from_pattern(rule: str, names: Sequence[str]) -> list[str]:
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise OptionError(
            f"group_by must be a regular expression, 'folder' or a .csv file, and {rule!r} is none ({error})"
        ) from None
    found = [pattern.search(located(name).as_posix()) for name in names]
    if not any(found):
        raise OptionError(f"group_by={rule!r} matches none of the {len(names)} images, such as {names[0]}")
    alone = [name for name, match in zip(names, found, strict=True) if match is None]
    if alone:
        notify(
            f"group_by={rule!r} does not match {len(alone)} of {len(names)} images, such as {alone[0]}: "
            "each of these is a group of its own"
        )
    return [
        f"\0{name}" if match is None else str(match.group(1 if match.re.groups else 0))
        for name, match in zip(names, found, strict=True)
    ]


def say_near_copies(found: NearCopies, names: Sequence[str]) -> None:
    """Tell the user which images were taken for pictures of one part, and the way out."""
    first = next(i for i, label in enumerate(found.labels) if found.labels.count(label) > 1)
    second = found.labels.index(found.labels[first], first + 1)
    notify(
        f"{found.with_twin} of {len(names)} images look like several pictures of one part, such as {names[first]} and "
        f"{names[second]}: the threshold counts {found.groups} parts; if they show different parts, name these "
        "(--group-by, or groups=)"
    )


# ---- near-copies -----------------------------------------------------------------------------------------------------


def find_near_copies(descriptors: Sequence[NDArray[np.floating]]) -> NearCopies | None:
    """Groups of images that look like pictures of one part, from one descriptor per image (`features.describe`); None
    where there are no clear ones.

    Images are joined closest first (single linkage). A group counts if it is isolated: all other images are clearly
    farther from it than its own images are from each other.
    """
    if len(descriptors) < _LEAST_IMAGES or len({d.shape for d in descriptors}) > 1:
        return None
    points = np.stack(descriptors).astype(np.float32)
    labels = np.arange(len(points))
    for start in range(0, len(points), BLOCK):
        for group in _groups(_distances(points[start : start + BLOCK])):
            labels[start + group] = start + group[0]
    found = NearCopies(tuple(labels.tolist()))
    return found if found.with_twin >= _LEAST_SHARE * len(points) and found.groups > 1 else None


def _groups(apart: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """The images of each group that is isolated enough."""
    candidates, count = _isolated(apart), len(apart)
    barely = _disjoint(candidates, _BARELY)
    share = sum(map(len, barely)) / max(count, 1)
    if share >= (_MANY if count >= _FEW else _MANY_OF_FEW):
        return _disjoint(candidates, _LOOSELY)
    return _disjoint(candidates, _CLEARLY)


def _disjoint(candidates: list[tuple[float, NDArray[np.intp]]], least: float) -> list[NDArray[np.intp]]:
    """The most isolated groups, none of which share an image."""
    chosen: list[NDArray[np.intp]] = []
    taken: set[int] = set()
    for isolation, images in sorted(candidates, key=lambda one: -one[0]):
        if isolation >= least and taken.isdisjoint(images.tolist()):
            chosen.append(images)
            taken |= set(images.tolist())
    return chosen


def _distances(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """N×N Euclidean distances."""
    p = points.astype(np.float64)
    squares = np.square(p).sum(1)
    squared = squares[:, None] + squares[None] - 2 * p @ p.T
    np.fill_diagonal(squared, 0)
    return np.asarray(np.sqrt(np.maximum(squared, 0)))


def _isolated(apart: NDArray[np.float64]) -> list[tuple[float, NDArray[np.intp]]]:
    """Groups of the single linkage of N images, each with the distance to the nearest other image over that of its own
    two farthest images; loose and large ones are left out."""
    count = len(apart)
    labels, widest = np.arange(count), np.zeros(count)
    found = []
    for distance, a, b in _spanning_tree(apart):
        here, there = labels[a], labels[b]
        mine, theirs = labels == here, labels == there
        for label, members in ((here, mine), (there, theirs)):
            isolation = distance / max(widest[label], 1e-9)
            size = int(members.sum())
            if 1 < size <= max(2, _MOST_OF_ALL * count) and isolation >= _LOOSELY:
                found.append((float(isolation), np.flatnonzero(members)))
        widest[here] = max(widest[here], widest[there], float(apart[np.ix_(mine, theirs)].max()))
        labels[theirs] = here
    return found


def _spanning_tree(apart: NDArray[np.float64]) -> list[tuple[float, int, int]]:
    """The edges (length, a, b) of the minimum spanning tree, shortest first (Prim)."""
    count = len(apart)
    inside = np.zeros(count, dtype=bool)
    inside[0] = True
    nearest, parent = apart[0].copy(), np.zeros(count, dtype=int)
    edges = []
    for _ in range(count - 1):
        new = int(np.where(inside, np.inf, nearest).argmin())
        edges.append((float(nearest[new]), int(parent[new]), new))
        inside[new] = True
        closer = apart[new] < nearest
        nearest[closer], parent[closer] = apart[new][closer], new
    return sorted(edges)
