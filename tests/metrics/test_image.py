"""Image metrics against scikit-learn, and against the definitions where scikit-learn has none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from patchbank.metrics import auroc, average_precision, f1_max, precision_recall_curve, roc_curve

FUNCTIONS = (roc_curve, auroc, precision_recall_curve, average_precision, f1_max)


@st.composite
def both_kinds(draw):
    """Labels with both kinds, and scores that are all different, heavily tied or all the same."""
    n = draw(st.integers(2, 40))
    labels = draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(lambda flags: 0 < sum(flags) < n))
    kind = draw(st.sampled_from([st.floats(-1e6, 1e6), st.integers(0, 3).map(float), st.just(0.5)]))
    return np.array(labels), np.array(draw(st.lists(kind, min_size=n, max_size=n)))


def literal_f1_max(labels, scores):
    """Every distinct score tried as the threshold, the highest first."""
    best = (-1.0, 0.0, 0)
    for threshold in sorted(set(scores.tolist()), reverse=True):
        called = scores >= threshold
        f1 = sk.f1_score(labels, called)
        if f1 > best[0] + 1e-12:
            best = (f1, threshold, int(np.sum(called != labels)))
    return best


def assert_as_scikit_learn(labels, scores):
    assert auroc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    expected = sk.average_precision_score(labels, scores)
    assert average_precision(labels, scores) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(both_kinds())
def test_as_scikit_learn(case):
    labels, scores = case
    assert_as_scikit_learn(labels, scores)
    fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(roc_curve(labels, scores), (fpr, tpr), atol=1e-12)
    precision, recall, _ = sk.precision_recall_curve(labels, scores)
    expected = recall[::-1], precision[::-1]
    np.testing.assert_allclose(precision_recall_curve(labels, scores), expected, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(both_kinds())
def test_f1_max_tries_every_threshold(case):
    f1, threshold, misclassified = f1_max(*case)
    expected_f1, expected_threshold, expected_wrong = literal_f1_max(*case)
    assert f1 == pytest.approx(expected_f1, abs=1e-12)
    assert (threshold, misclassified) == (expected_threshold, expected_wrong)


def test_large_random_set():
    rng = np.random.default_rng(0)
    labels = rng.random(5000) < 0.2
    assert_as_scikit_learn(labels, (rng.standard_normal(5000) + labels).astype(np.float32))


def test_order_of_tied_images_does_not_matter():
    labels, scores = np.array([True, False, True, False, False]), np.array([1.0, 1.0, 1.0, 1.0, 0.0])
    for function in FUNCTIONS:
        np.testing.assert_array_equal(function(labels, scores), function(labels[::-1], scores[::-1]))
    assert auroc(labels, scores) == pytest.approx(2 / 3)


def test_equal_f1_takes_the_higher_threshold():
    # At 5: TP 1, FP 0, FN 2, F1 = 1/2. At 1: TP 3, FP 6, FN 0, F1 = 1/2 again.
    labels = np.array([True, False, False, False, False, False, False, True, True])
    scores = np.array([5.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 1.0, 1.0])
    assert f1_max(labels, scores) == (0.5, 5.0, 2)


def test_perfect_and_reversed():
    labels = np.array([False, False, True])
    assert auroc(labels, [0.0, 1.0, 2.0]) == average_precision(labels, [0.0, 1.0, 2.0]) == 1.0
    assert f1_max(labels, [0.0, 1.0, 2.0]) == (1.0, 2.0, 0)
    assert auroc(labels, [2.0, 1.0, 0.0]) == 0.0


def test_infinite_scores_rank_and_tie():
    labels = np.array([True, True, False, False])
    scores = np.array([np.inf, 0.0, np.inf, -np.inf])
    assert auroc(labels, scores) == auroc(labels, [2.0, 1.0, 2.0, 0.0]) == 0.625
    assert f1_max(labels, [np.inf, np.inf, 0.0, -np.inf]) == (1.0, np.inf, 0)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([True, True], [1.0, 2.0], "every scored image is anomalous"),
        ([False], [1.0], "every scored image is nominal"),
        ([], [], "no image was scored"),
        ([True, False], [1.0, np.nan], "1 of 2 scores are NaN"),
        ([True, False], [1.0], "must be two vectors of one length"),
        ([[True, False]], [[1.0, 2.0]], "must be two vectors of one length"),
        ([1, 0], [1.0, 2.0], "labels must be bool"),
    ],
)
def test_what_cannot_be_computed_is_one_clear_error(function, labels, scores, message):
    with pytest.raises(ValueError, match=message):
        function(labels, scores)
