"""What holds with any versions of the packages; runs with the oldest ones each time."""

import pickle
import warnings

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import sklearn
import skops.io as skops
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning, InconsistentVersionWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

from tests.versions.trained import SAVED, estimators, features, fit, targets

OURS = [
    "skdistmlp.DistributedMLPClassifier",
    "skdistmlp.DistributedMLPRegressor",
    "skdistmlp.NetworkSplit",
    "skdistmlp.Plan",
]
FILES = sorted(path.name for path in SAVED.iterdir())
INPUTS = {
    "array": lambda values: values,
    "Dask array": lambda values: da.from_array(values, chunks=(110, *values.shape[1:])),
    "Dask data frame": lambda values: dd.from_pandas(pd.DataFrame(values), 3),
}
ENGINES = {
    "local": {"engine": "local"},
    "futures": {"engine": "futures", "parameter_threshold": 0, "n_workers": 2},
    "peers": {"engine": "peers", "parameter_threshold": 0, "n_workers": 2},
}


def load(name):
    """Read a file; another version of scikit-learn says that it is another."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if name.endswith(".skops"):
            found = skops.load(SAVED / name, trusted=OURS)
        else:
            found = pickle.loads((SAVED / name).read_bytes())
    says_so = [one.category for one in caught] == 3 * [InconsistentVersionWarning]
    assert says_so if sklearn.__version__ not in name else not caught
    return found


def assert_same_parameters(one, other):
    for mine, theirs in zip(
        one.coefs_ + one.intercepts_, other.coefs_ + other.intercepts_, strict=True
    ):
        assert_allclose(mine, theirs, rtol=1e-6, atol=1e-9)


def test_files_of_the_oldest_and_the_newest_are_there():
    assert {name.rpartition(".")[0] for name in FILES} >= {
        "scikit-learn-1.7.0",
        "scikit-learn-1.9.1",
    }


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_versions_are_read_and_training_continues(name):
    saved = load(name)
    assert saved.keys() == estimators().keys()
    X = features()
    for which, loaded in saved.items():
        trained = fit(which)
        assert_same_parameters(loaded, trained)
        if is_classifier(trained):
            assert_array_equal(loaded.predict(X), trained.predict(X))
        else:
            assert_allclose(loaded.predict(X), trained.predict(X), rtol=1e-6)
        if trained.solver != "lbfgs":
            for estimator in (loaded, trained):
                estimator.set_params(early_stopping=False)
                estimator.partial_fit(X, targets(which))
            assert_same_parameters(loaded, trained)


@pytest.mark.parametrize("convert", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_trains_to_what_scikit_learn_1_9_does(client, engine, convert):
    expected = load("scikit-learn-1.9.1.pickle")["classes"]
    X, y = convert(features()), convert(targets("classes"))
    trained = estimators()["classes"].set_params(client=client, **ENGINES[engine])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # A column of one target is a vector.
        trained.fit(X, y[y.columns[0]] if y.ndim == 2 else y)
    assert trained.engine_ == engine
    assert_same_parameters(trained, expected)
    assert_array_equal(np.asarray(trained.predict(X)), expected.predict(features()))


@pytest.mark.parametrize("name", ["classes", "labels", "numbers", "lbfgs"])
def test_training_equals_that_of_the_installed_scikit_learn(name):
    ours = fit(name)
    plain = MLPClassifier if is_classifier(ours) else MLPRegressor
    known = plain().get_params()
    theirs = plain(**{k: v for k, v in ours.get_params().items() if k in known})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs.fit(features(), targets(name))
    assert_same_parameters(ours, theirs)


def test_weights_that_are_all_zero_are_refused():
    X, y = features(), targets("classes")
    with pytest.raises(ValueError, match="at least one non-zero number"):
        estimators()["classes"].fit(X, y, np.zeros(len(y)))
