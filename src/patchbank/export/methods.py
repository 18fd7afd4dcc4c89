"""The `Comparison` of each method, from a fitted detector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from patchbank.errors import ImageError, OptionError
from patchbank.export.by_region import PyramidComparison, RegionComparison
from patchbank.export.comparing import (
    BankComparison,
    Comparison,
    GaussianComparison,
    SubspaceComparison,
    WholeImageComparison,
)
from patchbank.methods import FAPM, SPADE, Detector, LMFCore, MahalanobisAD, PaDiM, PatchCore, SubspaceAD

Grid = tuple[int, int]


def comparison_of(detector: Detector, grid: Grid) -> Comparison:
    """For images of that patch grid. Raises `OptionError` for what no graph can hold."""
    if detector.method not in COMPARISONS:
        raise OptionError(f"{detector.method} cannot be exported: no graph is known for it")
    if detector.align:
        raise OptionError("align=true cannot be exported: images are laid over the reference before the graph")
    return COMPARISONS[detector.method](detector, grid)


def _patchcore(detector: PatchCore, grid: Grid) -> Comparison:
    if detector.foreground:
        raise OptionError("foreground=true cannot be exported: no graph format has the eigenvectors that it takes")
    bank, scale = _own(detector.bank_.vectors), _own(detector.balance_)
    neighbours, cosine = detector.option("neighbours"), detector.distance == "cosine"
    return BankComparison(bank, scale, torch.zeros(len(scale)), neighbours, cosine)


def _lmf(detector: LMFCore, grid: Grid) -> Comparison:
    bank, matrix, offset = (_own(t) for t in (detector.bank_.vectors, detector.matrix_, detector.offset_))
    return BankComparison(bank, matrix, offset, detector.option("neighbours"))


def _fapm(detector: FAPM, grid: Grid) -> Comparison:
    split = _levels(detector) if detector.layer_wise else None
    by_maximum = detector.option("image_score") == "max"
    return RegionComparison(
        detector.levels_, detector._weights(), grid, split, detector.neighbours, by_maximum
    )  # fmt: skip


def _spade(detector: SPADE, grid: Grid) -> Comparison:
    pixels, image = [], []
    for i, of_image in enumerate(detector.images_):
        found = _own(detector._pixels(detector._cells_of(i), of_image.grid)[0])
        pixels.append(found)
        image.append(torch.full((len(found),), i))
    return PyramidComparison(
        _own(detector.pooled_), torch.cat(pixels), torch.cat(image), detector.images_compared, _levels(detector)
    )


def _padim(detector: PaDiM, grid: Grid) -> Comparison:
    if grid != detector.grid_:
        raise ImageError(detector._other_shape("the size to export", grid))
    mean, factor, channels = (_own(t) for t in (detector.mean_, detector.factor_, detector.channels_))
    return GaussianComparison(detector.covariance, mean, factor, channels)


def _subspace(detector: SubspaceAD, grid: Grid) -> Comparison:
    return SubspaceComparison(_own(detector.mean_), _own(detector.components_))


def _mahalanobis(detector: MahalanobisAD, grid: Grid) -> Comparison:
    return WholeImageComparison(_own(detector.mean_), [_own(factor) for factor in detector.factors_])


COMPARISONS: dict[str, Callable[[Any, Grid], Comparison]] = {
    "patchcore": _patchcore,
    "padim": _padim,
    "fapm": _fapm,
    "lmf": _lmf,
    "spade": _spade,
    "mahalanobis": _mahalanobis,
    "subspace": _subspace,
}


def _own(tensor: Tensor) -> Tensor:
    """A copy on the CPU, of numbers at float32."""
    copied = tensor.detach().cpu().clone()
    return copied.float() if copied.is_floating_point() else copied


def _levels(detector: Detector) -> tuple[Sequence[int], Sequence[int]]:
    """Channels and strides of the levels in use."""
    backbone = detector._open().backbone
    return backbone.channels, backbone.strides
