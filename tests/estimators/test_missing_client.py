"""Who asked for a cluster that this process has no client of is told so, once."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skdistmlp import DistributedMLPClassifier
from tests.cluster.support import in_thread
from tests.estimators.support import fit

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.usefixtures("not_yet_warned"),
]

X, Y = np.arange(60.0).reshape(20, 3) / 60, np.arange(20) % 2


def classifier(**parameters):
    return DistributedMLPClassifier((4,), max_iter=2, random_state=0, **parameters)


def said_by(function):
    """Return the warnings of missing clients, whatever Python's filters are."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    messages = [str(warning.message) for warning in caught]
    return [message for message in messages if "needs a cluster" in message]


def test_a_search_over_n_workers_warns_once():
    clf = classifier(engine="peers")
    search = GridSearchCV(clf, {"n_workers": [1, 2, 3]}, cv=2)
    (message,) = said_by(lambda: search.fit(X, Y))
    assert message.startswith("engine='peers' needs a cluster, but no Dask client")
    assert search.best_estimator_.engine_ == "local"
    assert said_by(lambda: fit(classifier(engine="futures"), X, Y)) == []


def test_an_estimator_from_a_process_with_a_client_warns(client):
    with client.as_current():
        sent = pickle.dumps(classifier(parameter_threshold=0))
    assert b"distributed" not in sent
    # As other estimators do with what they were sent.
    loaded = clone(pickle.loads(sent))
    (message,) = said_by(lambda: loaded.fit(X, Y))
    assert message.startswith("an estimator that had a Dask client in another process")
    assert loaded.engine_ == "local"


def test_a_clone_remembers_a_client_that_is_active_in_one_thread(client):
    """As a search clones estimators in its thread; joblib pickles them in another."""
    with client.as_current():
        twin = clone(clone(classifier(parameter_threshold=0)))
        sent = in_thread(pickle.dumps, twin).result()
    loaded = pickle.loads(pickle.dumps(pickle.loads(sent)))
    (message,) = said_by(lambda: fit(clone(loaded), X, Y))
    assert message.startswith("an estimator that had a Dask client in another process")
    # In the process of the client nothing has stayed behind.
    assert fit(twin, X, Y).engine_ == "local"


def test_a_small_estimator_that_lost_its_live_client_warns(client):
    loaded = pickle.loads(pickle.dumps(classifier(client=client)))
    expected = (
        r"client= was given, but training stays .* Pass parameter_threshold=0, "
        r"and the address of the scheduler as client=, to train on the cluster"
    )
    with pytest.warns(UserWarning, match=expected):
        fit(loaded, X, Y)


def test_an_estimator_that_lost_its_live_client_warns(client):
    loaded = pickle.loads(
        pickle.dumps(classifier(client=client, parameter_threshold=0))
    )
    assert len(said_by(lambda: fit(loaded, X, Y))) == 1


def test_nothing_warns_where_there_never_was_a_client():
    loaded = pickle.loads(pickle.dumps(classifier(parameter_threshold=0)))
    assert said_by(lambda: fit(loaded, X, Y)) == []


def test_a_network_below_the_threshold_does_not_warn():
    clf = classifier(n_workers=3, parameter_threshold=10**6)
    assert said_by(lambda: fit(clf, X, Y)) == []
