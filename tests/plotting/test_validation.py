"""What displays may be given."""

import pytest
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


NETWORK = DistributedMLPClassifier()
PIPELINE = make_pipeline(StandardScaler(), NETWORK)
EXPECTED = "expected a fitted DistributedMLPClassifier or DistributedMLPRegressor"


@pytest.mark.parametrize(
    ("draw", "given", "message"),
    [
        *(
            case
            for draw in (
                LossCurveDisplay.from_estimator,
                PartitionDisplay.from_estimator,
            )
            for case in (
                (draw, PIPELINE, r"class Pipeline: pass pipeline\[-1\]$"),
                (
                    draw,
                    GridSearchCV(NETWORK, {}),
                    r"class GridSearchCV: pass search\.best_estimator_$",
                ),
                (
                    draw,
                    GridSearchCV(PIPELINE, {}),
                    r"pass search\.best_estimator_\[-1\]$",
                ),
                (draw, LogisticRegression(), f"^{EXPECTED}.*class LogisticRegression$"),
                (draw, DistributedMLPClassifier, "got the class Distributed"),
                (draw, None, "class NoneType$"),
            )
        ),
        (PartitionDisplay.from_estimator, MLPClassifier(), "class MLPClassifier$"),
        (
            WorkerCountDisplay.from_search,
            NETWORK,
            "^expected a fitted search over n_workers, such as GridSearchCV, got an "
            "object of class DistributedMLPClassifier: pass the search itself",
        ),
        (
            WorkerCountDisplay.from_search,
            make_pipeline(StandardScaler(), GridSearchCV(NETWORK, {})),
            r"pass its last step, pipeline\[-1\]$",
        ),
        (WorkerCountDisplay.from_search, GridSearchCV, "got the class GridSearchCV"),
    ],
)
def test_an_error_says_what_was_given_and_what_to_pass(draw, given, message):
    with pytest.raises(TypeError, match=message):
        draw(given)


def test_a_network_is_found_where_the_error_says(data):
    pipeline = make_pipeline(StandardScaler(), DistributedMLPClassifier((9,)))
    search = GridSearchCV(pipeline, {"distributedmlpclassifier__max_iter": [2]}, cv=2)
    search.fit(*data)
    with pytest.raises(TypeError, match=r"pass (search\.best_estimator_\[-1\])$") as e:
        LossCurveDisplay.from_estimator(search)
    passed = eval(str(e.value).split("pass ")[1], {"search": search})
    assert len(LossCurveDisplay.from_estimator(passed).loss_curve) == 2


def test_a_search_that_was_not_fitted():
    with pytest.raises(NotFittedError, match="GridSearchCV"):
        WorkerCountDisplay.from_search(GridSearchCV(NETWORK, {}))
