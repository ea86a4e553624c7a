"""What displays accept, and how they refuse the rest."""

import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdistmlp import DistributedMLPClassifier
from skdistmlp.plotting import (
    LossCurveDisplay,
    PartitionDisplay,
    WorkerCountDisplay,
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


NETWORK = DistributedMLPClassifier((9,), max_iter=2)
PIPELINE = make_pipeline(StandardScaler(), NETWORK)
EXPECTED = "expected a fitted DistributedMLPClassifier or DistributedMLPRegressor"


@pytest.mark.parametrize(
    "estimator",
    [
        NETWORK,
        PIPELINE,
        GridSearchCV(NETWORK, {"alpha": [0.1]}, cv=2),
        GridSearchCV(PIPELINE, {"distributedmlpclassifier__alpha": [0.1]}, cv=2),
        make_pipeline(StandardScaler(), GridSearchCV(NETWORK, {"alpha": [0]}, cv=2)),
    ],
    ids=["network", "pipeline", "search", "search of a pipeline", "search at the end"],
)
def test_the_network_is_found_in_pipelines_and_searches(estimator, data):
    estimator = clone(estimator)
    for draw in (LossCurveDisplay.from_estimator, PartitionDisplay.from_estimator):
        with pytest.raises(NotFittedError):
            draw(estimator)
    estimator.fit(*data)
    assert len(LossCurveDisplay.from_estimator(estimator).loss_curve) == 2
    split = PartitionDisplay.from_estimator(estimator).split
    assert split.layer_units == (64, 9, 10)


@pytest.mark.parametrize(
    "draw", [LossCurveDisplay.from_estimator, PartitionDisplay.from_estimator]
)
@pytest.mark.parametrize(
    ("estimator", "got"),
    [
        (LogisticRegression(), "an object of class LogisticRegression"),
        (
            make_pipeline(StandardScaler(), LogisticRegression()),
            "an object of class LogisticRegression",
        ),
        (DistributedMLPClassifier, "the class DistributedMLPClassifier"),
        (None, "an object of class NoneType"),
    ],
    ids=["other estimator", "pipeline with another", "class", "None"],
)
def test_anything_but_a_network_is_refused(draw, estimator, got):
    with pytest.raises(TypeError, match=f"^{EXPECTED}.* with one, got {got}$"):
        draw(estimator)


def test_a_network_of_scikit_learn_has_no_partition():
    with pytest.raises(TypeError, match=r"object of class MLPClassifier$"):
        PartitionDisplay.from_estimator(MLPClassifier())


def test_a_search_without_refit_has_no_network(data):
    search = GridSearchCV(NETWORK, {"alpha": [0.1]}, cv=2, refit=False).fit(*data)
    with pytest.raises(ValueError, match="GridSearchCV kept no fitted network"):
        LossCurveDisplay.from_estimator(search)


@pytest.mark.parametrize(
    ("search", "got"),
    [
        (NETWORK, "an object of class DistributedMLPClassifier: pass the search"),
        (PIPELINE, "an object of class DistributedMLPClassifier: pass the search"),
        (GridSearchCV, "the class GridSearchCV"),
    ],
    ids=["network", "pipeline", "class"],
)
def test_anything_but_a_search_is_refused(search, got):
    message = (
        f"^expected a fitted search over n_workers, such as GridSearchCV, got {got}"
    )
    with pytest.raises(TypeError, match=message):
        WorkerCountDisplay.from_search(search)


def test_the_search_is_found_at_the_end_of_a_pipeline(data):
    search = GridSearchCV(NETWORK, {"n_workers": [1, 2]}, cv=2)
    pipeline = make_pipeline(StandardScaler(), search)
    for unfitted in (search, pipeline):
        with pytest.raises(NotFittedError, match="GridSearchCV"):
            WorkerCountDisplay.from_search(unfitted)
    pipeline.fit(*data)
    assert WorkerCountDisplay.from_search(pipeline).n_workers == [1, 2]
