"""The decision layer against libsvm, scipy and literal minimisation."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from scipy.optimize import minimize, nnls
from sklearn.linear_model import SGDOneClassSVM
from sklearn.svm import OneClassSVM

from patchbank.errors import DatasetError, OptionError
from patchbank.scoring.one_class import OneClass, fit_one_class, learned_weights


def distances(count: int, banks: int = 3, seed: int = 0) -> np.ndarray:
    """Scores of good parts: positive, correlated, with a long tail."""
    rng = np.random.default_rng(seed)
    common = rng.gamma(4.0, 1.0, (count, 1))
    return (common + rng.gamma(2.0, 1.0, (count, banks))) * (np.arange(banks) + 1.0)


def objective(x: np.ndarray, nu: float, w: np.ndarray, rho: float) -> float:
    return float(w @ w / 2 - rho + sum(max(0.0, rho - w @ row) for row in x) / (nu * len(x)))


@pytest.mark.parametrize("nu", [0.03, 0.1, 0.5, 0.77, 0.98])
@pytest.mark.parametrize(("count", "banks"), [(60, 3), (400, 3), (57, 2), (40, 1), (120, 5)])
def test_weights_are_those_of_libsvm(count: int, banks: int, nu: float) -> None:
    x = distances(count, banks)
    found = fit_one_class(x, nu)
    # libsvm's multipliers add up to νn instead of 1
    reference = OneClassSVM(kernel="linear", nu=nu, tol=1e-10).fit(x).coef_[0] / (nu * count)
    assert np.allclose(found.weights, reference, rtol=1e-5, atol=1e-7)


def test_all_scores_count_alike_at_nu_1() -> None:
    x = distances(60)
    found = fit_one_class(x, 1.0)
    assert np.allclose(found.weights, x.mean(0))
    assert found.offset == pytest.approx((x @ found.weights).max())


@pytest.mark.parametrize("nu", [0.1, 0.5])
def test_no_other_weights_are_better(nu: float) -> None:
    x = distances(50)
    found = fit_one_class(x, nu)
    least = objective(x, nu, found.weights, found.offset)
    rng = np.random.default_rng(1)
    for size in (1e-3, 1e-2, 0.1):
        for _ in range(50):
            w, rho = found.weights + size * rng.standard_normal(3), found.offset + size * rng.standard_normal()
            assert objective(x, nu, w, rho) >= least - 1e-9
    assert (found.score(x) < found.offset - 1e-9).mean() <= nu


def test_ranking_is_that_of_gradient_descent() -> None:
    """scikit-learn's stochastic solver, which M3DM uses, comes near the same direction: a cosine of 0.98 at least."""
    x = distances(2000) / distances(2000).std(0)
    sgd = SGDOneClassSVM(nu=0.5, max_iter=2000, tol=None, random_state=0, average=True).fit(x).coef_
    found = fit_one_class(x, 0.5).weights
    cosine = sgd @ found / np.linalg.norm(sgd) / np.linalg.norm(found)
    assert cosine > 0.98


def test_pixels_of_many_images() -> None:
    """A million rows take seconds, not hours; the solver is exact there too."""
    x = distances(1_000_000).astype(np.float32)
    start = time.perf_counter()
    found = fit_one_class(x, 0.5)
    assert time.perf_counter() - start < 60
    lowest = np.sort(x.astype(np.float64) @ found.weights)[: len(x) // 2].mean()
    assert lowest == pytest.approx(found.weights @ found.weights, rel=1e-8)  # no gap between primal and dual


def test_equal_rows_and_one_row() -> None:
    x = np.tile([[3.0, 4.0]], (10, 1))
    for rows in (x, x[:1]):
        found = fit_one_class(rows, 0.5)
        assert np.allclose(found.weights, [3, 4])
        assert found.offset == pytest.approx(25)


def test_score_takes_maps() -> None:
    maps = np.random.default_rng(0).random((4, 5, 2), np.float32)
    fused = OneClass(np.array([0.5, 2.0]), 0.0).score(maps)
    assert np.allclose(fused, 0.5 * maps[..., 0] + 2 * maps[..., 1])


def literal_weights(x: np.ndarray) -> np.ndarray:
    """The same minimum by trying every set of banks."""
    n, k = x.shape
    r = np.corrcoef(x.T) * n / (n + k) + np.eye(k) * k / (n + k)
    best, least = np.zeros(k), 0.0
    for size in range(1, k + 1):
        for banks in itertools.combinations(range(k), size):
            v = np.zeros(k)
            v[list(banks)] = np.linalg.solve(r[np.ix_(banks, banks)], np.ones(size))
            if (v >= 0).all() and (value := v @ r @ v / 2 - v.sum()) < least:
                best, least = v, value
    return best / best.sum() / x.std(0, ddof=1)


@pytest.mark.parametrize(("count", "banks"), [(2, 3), (10, 3), (80, 3), (200, 6)])
@pytest.mark.parametrize("seed", range(5))
def test_learned_weights(count: int, banks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = distances(count, banks, seed) @ (np.eye(banks) + 0.8 * rng.standard_normal((banks, banks)))
    found = learned_weights(x)
    assert np.allclose(found, literal_weights(x), atol=1e-8)
    assert (found >= 0).all()
    r = np.corrcoef(x.T) * count / (count + banks) + np.eye(banks) * banks / (count + banks)
    lower = np.linalg.cholesky(r)
    v = nnls(lower.T, np.linalg.solve(lower, np.ones(banks)))[0]
    assert np.allclose(found, v / v.sum() / x.std(0, ddof=1), atol=1e-8)


def test_two_banks_that_say_the_same_share_their_weight() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.standard_normal((2, 2000))
    x = np.stack([one, 10 * (one + 0.01 * rng.standard_normal(2000)), two], 1) + 50
    weights = learned_weights(x) * x.std(0, ddof=1)
    assert weights[:2].sum() == pytest.approx(0.5, abs=0.02)
    assert (weights[:2] > 0.2).all()


def test_a_bank_that_never_varies_has_no_weight() -> None:
    x = distances(30)
    x[:, 1] = 7.0
    weights = learned_weights(x)
    assert weights[1] == 0
    assert (weights[[0, 2]] > 0).all()


def test_fused_scores_do_not_depend_on_units() -> None:
    x = distances(40)
    units = np.array([1.0, 1000.0, 1e-3])
    assert np.allclose(x @ learned_weights(x), (x * units) @ learned_weights(x * units))


def test_scipy_finds_nothing_better() -> None:
    x = distances(30, 4, 3)
    start = fit_one_class(x, 0.3)
    least = objective(x, 0.3, start.weights, start.offset)
    found = minimize(
        lambda p: objective(x, 0.3, p[:4], p[4]), [*start.weights * 1.3, start.offset], method="Nelder-Mead"
    )
    assert found.fun >= least - 1e-8


def test_what_cannot_be_learned_from() -> None:
    x = distances(10)
    with pytest.raises(OptionError, match="nu must be a share"):
        fit_one_class(x, 0.0)
    with pytest.raises(DatasetError, match="show no direction"):
        fit_one_class(np.random.default_rng(0).standard_normal((500, 3)), 0.9)
    with pytest.raises(DatasetError, match="is no number"):
        fit_one_class(np.where(x > 8, np.nan, x), 0.5)
    with pytest.raises(DatasetError, match="at least 1 good"):
        fit_one_class(x[:0], 0.5)
    with pytest.raises(DatasetError, match="at least 2 good"):
        learned_weights(x[:1])
    with pytest.raises(DatasetError, match="the same score in every bank"):
        learned_weights(np.ones((5, 3)))
