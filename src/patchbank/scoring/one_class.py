"""One score from the scores of several banks, weighted by what good parts show alone.

Two ways: the one-class support vector machine that M3DM has as its decision layer, and weights in closed form. Both end
in one weight for each bank, and the fused score is a weighted sum: for images, and for pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchbank.errors import DatasetError, OptionError

Scores = NDArray[np.floating]
Doubles = NDArray[np.float64]

_TOLERANCE = 1e-10  # of the duality gap, relative to the objective
_STEPS = 10_000
_NOTHING = 1e-16  # squared length of w, where the largest score is 1


@dataclass(frozen=True, eq=False)
class OneClass:
    """A linear one-class support vector machine.

    Attributes:
        weights: w, of K banks.
        offset: ρ. Good parts lie mostly at w·x ≥ ρ.
    """

    weights: Doubles
    offset: float

    def score(self, scores: Scores) -> Doubles:
        """w·x of …×K scores. M3DM ranks by this: not by its sign against ρ, which would call large distances normal."""
        return np.asarray(scores @ self.weights, np.float64)


def fit_one_class(scores: Scores, nu: float = 0.5) -> OneClass:
    """Minimise ½‖w‖² − ρ + 1/(νn)·Σ max(0, ρ − w·x_i) (Schölkopf et al. 2001, "Estimating the Support of a
    High-Dimensional Distribution", linear; M3DM, "Decision Layer Fusion").

    Exact and deterministic, where stochastic gradient descent depends on its order. By the dual, w = Σ α_i·x_i with
    0 ≤ α_i ≤ 1/(νn) and Σ α_i = 1: the shortest of all weighted means in which no score weighs more than 1/(νn).
    Wolfe's algorithm (1976, "Finding the Nearest Point in a Polytope") finds it. Each of its steps needs the mean that
    is smallest along w: that of the ν·n scores with the smallest w·x.

    w points to the typical score of good parts, so a bank with large scores weighs more. Bring the banks to one scale
    first, by a factor of each, not by a shift: what has its mean at 0 has no direction.

    Args:
        scores: N×K, of N images or pixels of good parts by K banks, none of which was made with them.
        nu: ν in (0, 1], an upper bound on the share of scores with w·x < ρ.

    Raises:
        OptionError: ν is not in (0, 1].
        DatasetError: a score is no number, there are none, or they lie around 0 on all sides.
    """
    if not 0 < nu <= 1:
        raise OptionError(f"nu must be a share in (0, 1], such as 0.5, not {nu}")
    x = _checked(scores, 1)
    scale = float(np.abs(x).max()) or 1.0
    x = x / scale
    corners = _smallest_mean(x, x.mean(0), nu)[None]
    share = np.ones(1)
    w = corners[0]
    for _ in range(_STEPS):
        corner = _smallest_mean(x, w, nu)
        if w @ w < _NOTHING or w @ w - w @ corner <= _TOLERANCE * (w @ w):
            break
        corners, share = _shortest(np.vstack([corners, corner]), np.append(share, 0.0))
        w = share @ corners
    if w @ w < _NOTHING:
        raise DatasetError(
            "the scores of good parts lie around 0 on all sides and show no direction: give distances that are scaled, "
            "not shifted"
        )
    # ρ maximises ρ − 1/(νn)·Σ max(0, ρ − w·x_i): the score at the share ν
    along = x @ w
    rank = min(math.ceil(nu * len(x) - 1e-9), len(x)) - 1
    return OneClass(w * scale, float(np.partition(along, rank)[rank]) * scale**2)


def _smallest_mean(x: Doubles, w: Doubles, nu: float) -> Doubles:
    """Σ α_i·x_i that is smallest along w: 1/(νn) for each of the smallest w·x_i until 1 is used up."""
    budget = nu * len(x)
    whole = min(int(budget + 1e-9), len(x))
    along = x @ w
    order = np.argpartition(along, min(whole, len(x) - 1))
    total = x[order[:whole]].sum(0)
    if budget - whole > 1e-9:
        total = total + (budget - whole) * x[order[whole]]  # the next one enters in part
    return np.asarray(total / budget, np.float64)


def _shortest(corners: Doubles, share: Doubles) -> tuple[Doubles, Doubles]:
    """The corners and shares of the shortest vector in the hull of a few corners: Wolfe's minor cycle. Corners that
    get no share are dropped."""
    while True:
        # the shortest vector of the affine hull: the shares with a sum of 1 and equal products with it
        n = len(corners)
        system = np.ones((n + 1, n + 1))
        system[:n, :n], system[n, n] = corners @ corners.T, 0.0
        wanted = np.linalg.lstsq(system, np.append(np.zeros(n), 1.0), rcond=None)[0][:n]
        if (wanted > 1e-14).all():
            return corners, wanted / wanted.sum()
        falling = wanted <= 1e-14
        room = share[falling] / np.maximum(share[falling] - wanted[falling], 1e-300)
        share = share + min(float(room.min()), 1.0) * (wanted - share)
        keep = share > 1e-14
        if keep.all():
            keep[np.flatnonzero(falling)[room.argmin()]] = False  # rounding must not keep what has come to 0
        corners, share = corners[keep], share[keep] / share[keep].sum()


def learned_weights(scores: Scores) -> Doubles:
    """K weights of a fused score Σ w_k·s_k from N×K leave-one-out scores of good parts, in closed form.

    With R the correlation of the banks' scores, v minimises ½·vᵀRv − Σ v_k over v ≥ 0, and w_k = v_k/σ_k. Without the
    bound that is R⁻¹1: Fisher's direction for a defect that adds one standard deviation to every bank. It is the choice
    that favours no bank, as nothing is known of defects. Weights of 1/σ_k alone would count two banks that say the same
    thing twice. The bound is there because a negative weight would let a high score of one bank hide a defect.

    R is mixed with the identity at K/(N + K), so that few parts give nearly 1/σ_k. A bank that scores all good parts
    alike has no σ and gets no weight. The scale is such that the v_k have a sum of 1.

    Args:
        scores: N×K, each from banks that do not hold the part's own patches.

    Raises:
        DatasetError: a score is no number, there are fewer than two parts, or no bank tells good parts apart.
    """
    x = _checked(scores, 2)
    n, k = x.shape
    deviation = x.std(0, ddof=1)
    varies = deviation > 1e-12 * np.abs(x).max(0)
    if not varies.any():
        raise DatasetError("all good parts have the same score in every bank: no weights can be learned from them")
    standard = (x[:, varies] - x[:, varies].mean(0)) / deviation[varies]
    mixed = k / (n + k)
    correlation = (1 - mixed) * (standard.T @ standard) / (n - 1) + mixed * np.eye(varies.sum())
    weights = np.zeros(k)
    weights[varies] = _non_negative(correlation)
    weights[varies] /= weights.sum() * deviation[varies]
    return weights


def _non_negative(matrix: Doubles) -> Doubles:
    """The v ≥ 0 that minimises ½·vᵀMv − Σ v_k, M positive definite: banks whose weight would be negative leave one at a
    time, and come back if the gradient asks for them (Lawson and Hanson 1974)."""
    k = len(matrix)
    inside = np.zeros(k, bool)
    v = np.zeros(k)
    for _ in range(10 * k):
        gradient = np.where(inside, -np.inf, 1 - matrix @ v)
        if gradient.max() <= 1e-12:
            break
        inside[gradient.argmax()] = True
        while True:
            wanted = np.zeros(k)
            wanted[inside] = np.linalg.solve(matrix[np.ix_(inside, inside)], np.ones(inside.sum()))
            if (wanted[inside] > 0).all():
                break
            falling = np.flatnonzero(inside & (wanted <= 0))
            room = v[falling] / (v[falling] - wanted[falling])
            v = v + room.min() * (wanted - v)
            inside[falling[room.argmin()]] = False
            v[~inside] = 0.0
        v = wanted
    return v


def _checked(scores: Scores, least: int) -> Doubles:
    x = np.asarray(scores, np.float64)
    if x.ndim != 2 or len(x) < least or not x.shape[1]:
        raise DatasetError(f"weights of banks take the scores of at least {least} good parts: add good parts")
    if not np.isfinite(x).all():
        raise DatasetError("a score of a good part is no number: leave that part out")
    return x
