"""FastestWithin chooses among the candidates of a search."""

import pickle

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

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
    with pytest.raises(ValueError, match="not measure metric='f1', only score, "):
        FastestWithin(metric="f1")(RESULTS)


def test_impossible_choices_are_errors():
    with pytest.raises(ValueError, match="every candidate failed"):
        FastestWithin()(RESULTS | {"mean_test_score": np.full(4, np.nan)})
    for tolerance in (-0.1, np.nan):
        with pytest.raises(ValueError, match="pass 0 or more"):
            FastestWithin(tolerance)


def test_it_is_a_value_that_reads_well():
    choose = FastestWithin(0.01, "recall")
    assert repr(choose) == "FastestWithin(0.01, metric='recall')"
    assert "refit=FastestWithin(0.01, metric='recall')" in repr(
        GridSearchCV(LogisticRegression(), {"C": [1]}, refit=choose)
    )
    assert choose == pickle.loads(pickle.dumps(choose)) == FastestWithin(0.01, "recall")
    assert hash(choose) == hash(FastestWithin(0.01, "recall"))
    assert choose != FastestWithin(0.02, "recall")
    assert choose != FastestWithin(0.01)
    assert choose != 0.01
