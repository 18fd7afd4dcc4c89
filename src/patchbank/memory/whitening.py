"""Mahalanobis distances by whitening: with W = L⁻¹ of the Cholesky factor Σ = LLᵀ, ‖W(x − μ)‖² = (x − μ)ᵀΣ⁻¹(x − μ).

W has a form for each kind of moments. `full`: one lower triangle for each of P positions, packed row after row,
P×d(d+1)/2; `tied`: one matrix d×d for all positions; `diagonal`: the diagonals, P×d.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from patchbank._system.numba_jit import REASSOCIATE, jit
from patchbank._system.threads import on_this_thread, spread
from patchbank.memory.moments import Moments

_BLOCK_BYTES = 64_000_000
_GRAIN = 64


def whiten(moments: Moments, divisor: float, regularisation: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """W of Σ = scatter/divisor + ε·I, in the form that goes with the kind of the moments; `dtype` of the full one."""
    if moments.kind == "diagonal":
        return torch.rsqrt(moments.scatter / divisor + regularisation)
    if moments.kind == "tied":
        return whiten_tied(moments.scatter / (divisor * len(moments.mean)), regularisation)
    positions, d = moments.mean.shape
    rows, columns = torch.tril_indices(d, d, device=moments.mean.device)
    packed = torch.empty(positions, len(rows), device=moments.mean.device, dtype=dtype)
    step = max(1, _BLOCK_BYTES // (8 * d * d))
    for start in range(0, positions, step):
        block = slice(start, start + step)
        packed[block] = whiten_tied(moments.scatter[block].to(dtype) / divisor, regularisation)[:, rows, columns]
    return packed


def scatter_of(kind: str, factor: Tensor, divisor: float, regularisation: float, dimension: int) -> Tensor:
    """The inverse of `whiten`: scatter = (Σ + ε·I − ε·I)·divisor of W, in float32; for the tied kind the divisor is
    that of all positions."""
    if kind == "diagonal":
        variance = 1 / factor.double().square() - regularisation
        return (variance.clamp(min=0) * divisor).float()
    if kind == "tied":
        return _covariance(factor.double(), regularisation).mul(divisor).float()
    rows, columns = torch.tril_indices(dimension, dimension, device=factor.device)
    scatter = torch.empty(len(factor), dimension, dimension, device=factor.device)
    step = max(1, _BLOCK_BYTES // (16 * dimension * dimension))
    for start in range(0, len(factor), step):
        block = slice(start, start + step)
        square = torch.zeros(len(factor[block]), dimension, dimension, device=factor.device, dtype=torch.float64)
        square[:, rows, columns] = factor[block].double()
        scatter[block] = (_covariance(square, regularisation) * divisor).float()
    return scatter


def _covariance(factor: Tensor, regularisation: float) -> Tensor:
    """Σ of W = L⁻¹, Σ + ε·I = LLᵀ."""
    identity = torch.eye(factor.shape[-1], device=factor.device, dtype=factor.dtype)
    lower = _inverse_of_lower(factor)
    covariance: Tensor = lower @ lower.transpose(-1, -2) - regularisation * identity
    return covariance


def distances(kind: str, factor: Tensor, centred: Tensor) -> Tensor:
    """‖W(x − μ)‖ at each of P positions, for P×d differences x − μ."""
    d = centred.shape[1]
    if kind != "full":
        whitened = factor * centred if kind == "diagonal" else centred @ factor.T
        return _row_norms(whitened)
    if centred.device.type != "cpu":
        rows, columns = torch.tril_indices(d, d, device=centred.device)
        whitened, step = torch.empty_like(centred), max(1, _BLOCK_BYTES // (4 * d * d))
        for start in range(0, len(factor), step):
            block = slice(start, start + step)
            square = torch.zeros(len(factor[block]), d, d, device=centred.device, dtype=factor.dtype)
            square[:, rows, columns] = factor[block]
            whitened[block] = torch.bmm(square, centred[block, :, None])[:, :, 0]
        return _row_norms(whitened)
    packed, rows_of_x = factor.numpy(), centred.to(factor.dtype).contiguous().numpy()
    out = np.empty(len(centred), packed.dtype)
    spread(lambda start, stop: _packed_norms(packed, rows_of_x, out, start, stop), len(out), _GRAIN)
    return torch.from_numpy(out)


def whiten_tied(covariance: Tensor, regularisation: float) -> Tensor:
    """W of one covariance d×d, or of each of a batch of them."""
    identity = torch.eye(covariance.shape[-1], device=covariance.device, dtype=covariance.dtype)
    return _inverse_of_lower(torch.linalg.cholesky(covariance + regularisation * identity))


def _inverse_of_lower(factor: Tensor) -> Tensor:
    """The inverse of one lower triangle d×d, or of each of a batch of them."""
    identity = torch.eye(factor.shape[-1], device=factor.device, dtype=factor.dtype)
    if factor.ndim == 2 or factor.device.type != "cpu":
        whole: Tensor = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
        return whole.contiguous()
    inverse = torch.empty(factor.shape, dtype=factor.dtype)

    # torch would wake its threads for each small matrix, and take five times as long
    def some(start: int, stop: int) -> None:
        with on_this_thread():
            part = factor[start:stop]
            inverse[start:stop] = torch.linalg.solve_triangular(part, identity.expand_as(part), upper=False)

    spread(some, len(factor), _GRAIN)
    return inverse


def _row_norms(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms


@jit(fastmath=REASSOCIATE)
def _packed_norms(factor, centred, out, start, stop):  # type: ignore[no-untyped-def]
    for p in range(start, stop):
        total, at = out.dtype.type(0), 0
        for i in range(centred.shape[1]):
            product = out.dtype.type(0)
            for j in range(i + 1):
                product += factor[p, at + j] * centred[p, j]
            total += product * product
            at += i + 1
        out[p] = np.sqrt(total)
