"""FastestWithin chooses among the candidates of a search."""

import pickle
import time

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from skdistmlp import DistributedMLPClassifier, FastestWithin

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


def search_results(mean_s, std_s, name="n_workers"):
    return {
        "mean_test_score": np.full(3, 0.9),
        "mean_fit_time": np.array(mean_s),
        "std_fit_time": np.array(std_s),
        "params": [{name: count, "alpha": 0} for count in (1, 2, 4)],
    }


@pytest.mark.parametrize("name", ["n_workers", "mlp__n_workers"])
def test_a_choice_by_chance_is_named(name):
    local = search_results([1.0, 1.02, 0.99], [0.1, 0.02, 0.05], name)
    with pytest.warns(UserWarning, match="0.99 to 1.02 s, .* trained locally"):
        assert FastestWithin()(local) == 2


def test_a_choice_between_distinct_times_is_silent():
    assert FastestWithin()(search_results([3.0, 2.0, 1.5], [0.1, 0.02, 0.05])) == 2
    # Other parameters may well make no difference.
    FastestWithin()(search_results([1.0, 1.0, 1.0], [0.1, 0.1, 0.1], "alpha"))


class UnevenClassifier(DistributedMLPClassifier):
    """Takes longer for every other fit, so that no candidate is the fastest."""

    n_fits = 0

    def fit(self, X, y):
        UnevenClassifier.n_fits += 1
        time.sleep(0.2 * (UnevenClassifier.n_fits % 2))
        return super().fit(X, y)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_search_whose_fits_were_all_local_warns_at_the_line_of_the_user():
    """Nothing but the times tells the search where the fits ran."""
    X, y = np.arange(60.0).reshape(20, 3) / 60, np.arange(20) % 2
    clf = UnevenClassifier(hidden_layer_sizes=(4,), engine="local", max_iter=1)
    search = GridSearchCV(clf, {"n_workers": [1, 2]}, cv=2, refit=FastestWithin(1))
    with pytest.warns(UserWarning, match="FastestWithin chooses by chance") as caught:
        search.fit(X, y)
    (ours,) = [w for w in caught if "by chance" in str(w.message)]
    assert ours.filename == __file__
    # As the page on searching says.
    assert not hasattr(search, "best_score_")
    assert 0 <= search.cv_results_["mean_test_score"][search.best_index_] <= 1
