"""scikit-learn's own checks of an estimator."""

import pytest
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks
from threadpoolctl import threadpool_limits

from skdistmlp import DistributedMLPClassifier, DistributedMLPRegressor
from skdistmlp.engines import engines

PAIRS = [
    pytest.param(DistributedMLPClassifier, MLPClassifier, id="classifier"),
    pytest.param(DistributedMLPRegressor, MLPRegressor, id="regressor"),
]

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(autouse=True)
def one_thread():
    """Networks as small as these are slowed down by threads."""
    with threadpool_limits(1):
        yield


@parametrize_with_checks(
    [DistributedMLPClassifier(max_iter=100), DistributedMLPRegressor(max_iter=100)],
    # None is expected to fail: scikit-learn's own estimators pass them all.
    expected_failed_checks=None,
)
def test_estimator(estimator, check):
    check(estimator)


PEERS = {"engine": "peers", "parameter_threshold": 0, "n_workers": 2}


@parametrize_with_checks(
    [DistributedMLPClassifier(max_iter=100, **PEERS)], expected_failed_checks=None
)
def test_estimator_on_workers(client, estimator, check, monkeypatch):
    """The client is the active one, since no estimator that holds one is pickled."""
    # Nothing is trained here.
    monkeypatch.delattr(engines, "SingleProcess")
    with client.as_current():
        check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [DistributedMLPRegressor(max_iter=100, **PEERS)], expected_failed_checks=None
)
def test_regressor_on_workers(client, estimator, check, monkeypatch):
    test_estimator_on_workers(client, estimator, check, monkeypatch)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_the_same_checks_are_passed_as_by_scikit_learn(ours, theirs, solver):
    def passed(estimator):
        results = check_estimator(
            estimator(solver=solver, max_iter=100), on_skip=None, on_fail=None
        )
        return {r["check_name"] for r in results if r["status"] == "passed"}

    expected = passed(theirs)
    assert len(expected) > 50
    assert expected <= passed(ours)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_tags_are_those_of_scikit_learn(ours, theirs):
    assert get_tags(ours()) == get_tags(theirs())
