"""FastestWithin chooses among the candidates of a search."""

import pickle

import numpy as np
import pytest

from skdistmlp import FastestWithin

RESULTS = {
    "mean_test_score": np.array([0.90, 0.95, 0.94, np.nan]),
    "mean_test_recall": np.array([0.9, 0.1, 0.2, 0.3]),
    "mean_fit_time": np.array([1.0, 4.0, 2.0, 0.1]),
}


@pytest.mark.parametrize(
    ("tolerance", "index"), [(0.0, 1), (0.009, 1), (0.011, 2), (0.1, 0)]
)
def test_the_fastest_candidate_near_the_best_score_is_chosen(tolerance, index):
    choose = pickle.loads(pickle.dumps(FastestWithin(tolerance)))
    assert choose(RESULTS) == index


def test_the_faster_of_equal_scores_is_chosen():
    tied = RESULTS | {"mean_test_score": np.full(4, 0.9)}
    assert FastestWithin()(tied) == 3


def test_one_of_several_metrics_can_be_used():
    assert FastestWithin(metric="recall")(RESULTS) == 0
    with pytest.raises(ValueError, match=r"'f1' was not measured.*only score, recall"):
        FastestWithin(metric="f1")(RESULTS)


def test_impossible_choices_are_errors():
    with pytest.raises(ValueError, match="every candidate failed"):
        FastestWithin()(RESULTS | {"mean_test_score": np.full(4, np.nan)})
    for tolerance in (-0.1, np.nan):
        with pytest.raises(ValueError, match="has to be at least 0"):
            FastestWithin(tolerance)
