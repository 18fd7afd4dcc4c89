"""Differences on the same images against literal definitions, SciPy and the bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from patchbank.metrics.paired import delong, mcnemar
from patchbank.metrics.resampling import draws, holm, weighted_auroc


def two_methods(seed, n_bad=40, n_good=60, better=0.0, decimals=7):
    """Labels and the scores of two methods that see much the same; the first is better by `better`."""
    rng = np.random.default_rng(seed)
    labels = np.r_[np.ones(n_bad, bool), np.zeros(n_good, bool)]
    common = rng.standard_normal(labels.size) + 1.2 * labels
    first, second = (common + shift * labels + 0.6 * rng.standard_normal(labels.size) for shift in (better, 0))
    return labels, first.round(decimals), second.round(decimals)


def literal_delong(labels, first, second):
    """The kernel over all pairs, its row and column means, and their covariances, written out."""
    kernels = []
    for scores in (first, second):
        bad, good = scores[labels], scores[~labels]
        kernels.append([[1.0 if x > y else 0.5 if x == y else 0.0 for y in good] for x in bad])
    area = [np.mean(kernel) for kernel in kernels]
    over_bad = [[np.mean(row) for row in kernel] for kernel in kernels]
    over_good = [[np.mean(column) for column in zip(*kernel, strict=True)] for kernel in kernels]
    s10, s01 = np.cov(over_bad), np.cov(over_good)
    covariance = s10 / len(over_bad[0]) + s01 / len(over_good[0])
    contrast = np.array([1.0, -1.0])
    z = (area[0] - area[1]) / np.sqrt(contrast @ covariance @ contrast)
    return area[0] - area[1], 2 * stats.norm.sf(abs(z))


@pytest.mark.parametrize("decimals", [0, 1, 7])
@pytest.mark.parametrize("better", [0.0, 0.7])
def test_delong_as_written_out(decimals, better):
    labels, first, second = two_methods(1, better=better, decimals=decimals)
    value, p_value = literal_delong(labels, first, second)
    result = delong(labels, first, second)
    assert result.value == pytest.approx(value, abs=1e-12)
    assert result.value == pytest.approx(roc_auc_score(labels, first) - roc_auc_score(labels, second), abs=1e-12)
    assert result.p_value == pytest.approx(p_value, rel=1e-6)
    assert result.interval[0] < value < result.interval[1]
    assert (result.interval[0] > 0 or result.interval[1] < 0) == (p_value < 0.05)


def test_delong_and_bootstrap_agree():
    labels, first, second = two_methods(2, n_bad=80, n_good=80, better=0.4)
    drawn = [weighted_auroc(w, labels, first) - weighted_auroc(w, labels, second) for w in draws(labels)]
    error = (delong(labels, first, second).interval[1] - delong(labels, first, second).value) / 1.959964
    assert np.std(np.concatenate(drawn)) == pytest.approx(error, rel=0.15)


def test_delong_rejects_as_often_as_it_says():
    rejected = [delong(*two_methods(seed)).p_value < 0.05 for seed in range(400)]
    assert 0.02 <= np.mean(rejected) <= 0.085  # 0.05 ± 3 standard errors
    assert np.mean([delong(*two_methods(seed, better=1.0)).p_value < 0.05 for seed in range(100)]) > 0.9


def test_delong_where_nothing_varies():
    labels = np.array([True, True, False, False])
    perfect, reversed_ = [3.0, 4.0, 1.0, 2.0], [1.0, 2.0, 3.0, 4.0]
    assert delong(labels, perfect, [9.0, 8.0, 1.0, 0.0]) == (0.0, (0.0, 0.0), 1.0)
    assert delong(labels, perfect, reversed_) == (1.0, None, None)
    with pytest.raises(ValueError, match="at least two"):
        delong([True, False, False], [1, 2, 3], [1, 2, 3])


@pytest.mark.parametrize("seed", range(5))
def test_mcnemar_as_the_binomial_test(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.random((2, 50)) < [[0.6], [0.4]]
    only = np.sum(first & ~second), np.sum(second & ~first)
    result = mcnemar(first, second)
    assert result.p_value == pytest.approx(stats.binomtest(int(only[0]), int(sum(only))).pvalue)
    assert result.value == pytest.approx(first.mean() - second.mean())


def test_mcnemar_without_a_difference_and_with_many():
    same = np.ones(10, bool)
    assert mcnemar(same, same) == (0.0, (0.0, 0.0), 1.0)
    many = np.arange(20_000) % 2 == 0
    assert mcnemar(many, ~many).p_value == 1
    assert mcnemar(many | True, many).p_value == 0


def test_holm_step_by_step():
    assert holm([]) == []
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.001, 0.5]) == pytest.approx([1.0, 0.003, 1.0])
    rng = np.random.default_rng(0)
    p = rng.random(8) ** 4
    rejected, order = set(), np.argsort(p)  # reject while p ≤ level / (those left)
    for step, index in enumerate(order):
        if p[index] > 0.05 / (8 - step):
            break
        rejected.add(int(index))
    assert {i for i, value in enumerate(holm(p)) if value <= 0.05} == rejected
