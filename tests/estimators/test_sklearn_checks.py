"""scikit-learn's own checks of an estimator."""

import pytest
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks
from threadpoolctl import threadpool_limits

from skdistmlp import DistributedMLPClassifier, DistributedMLPRegressor
from skdistmlp.engines import local
from tests.marks import only_quick

PAIRS = [
    pytest.param(DistributedMLPClassifier, MLPClassifier, id="classifier"),
    pytest.param(DistributedMLPRegressor, MLPRegressor, id="regressor"),
]

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(autouse=True)
def one_thread():
    """Threads slow down networks as small as these."""
    with threadpool_limits(1):
        yield


@parametrize_with_checks(
    [DistributedMLPClassifier(max_iter=100), DistributedMLPRegressor(max_iter=100)],
    # None is expected to fail: scikit-learn's own estimators pass them all.
    expected_failed_checks=None,
)
def test_checks_of_scikit_learn_pass(estimator, check):
    check(estimator)


PEERS = {"engine": "peers", "n_workers": 2}


def one_in_eight(*estimators):
    """Return the mark of scikit-learn's checks, of which seven in eight are slow."""
    mark = parametrize_with_checks(list(estimators), expected_failed_checks=None)
    names, cases = mark.args
    cases = list(cases)
    quick = only_quick(*range(0, len(cases), 8), cases=cases)
    return pytest.mark.parametrize(names, quick, **mark.kwargs)


@one_in_eight(DistributedMLPClassifier(max_iter=100, **PEERS))
def test_checks_of_scikit_learn_pass_on_workers(client, estimator, check, monkeypatch):
    """With an active client: an estimator that holds a live one is not pickled."""
    # Nothing is trained here.
    monkeypatch.delattr(local, "SingleProcess")
    with client.as_current():
        check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [DistributedMLPRegressor(max_iter=100, **PEERS)], expected_failed_checks=None
)
def test_checks_of_a_regressor_pass_on_workers(client, estimator, check, monkeypatch):
    test_checks_of_scikit_learn_pass_on_workers(client, estimator, check, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_the_same_checks_apply_as_to_scikit_learn(ours, theirs, solver):
    def passed(estimator):
        results = check_estimator(
            estimator(solver=solver, max_iter=100), on_skip=None, on_fail=None
        )
        return {r["check_name"] for r in results if r["status"] == "passed"}

    expected = passed(theirs)
    assert len(expected) > 50
    assert expected <= passed(ours)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_tags_equal_those_of_scikit_learn(ours, theirs):
    assert get_tags(ours()) == get_tags(theirs())
