"""Data frames of pandas and polars, and Dask collections without a cluster."""

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skdistmlp import DistributedMLPClassifier, DistributedMLPRegressor
from tests.estimators.support import fit, quiet

PARAMETERS = {"hidden_layer_sizes": (9,), "max_iter": 3, "random_state": 0}
NAMES = [f"pixel {n}" for n in range(64)]


@pytest.fixture(scope="module")
def data(digits):
    X, y = digits
    return X[:200], y[:200]


FRAMES = {
    "pandas": (lambda X: pd.DataFrame(X, columns=NAMES), pd.Series),
    "polars": (lambda X: pl.DataFrame(X, schema=NAMES), pl.Series),
}


@pytest.mark.parametrize("library", FRAMES)
@pytest.mark.parametrize("make", [DistributedMLPClassifier, DistributedMLPRegressor])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_frames_train_the_same_network_and_set_feature_names(
    data, library, make, method
):
    X, y = data
    frame, series = FRAMES[library]
    extra = {}
    if method == "partial_fit" and make is DistributedMLPClassifier:
        extra = {"classes": range(10)}
    weight = 1.0 + y
    one, other = make(**PARAMETERS), make(**PARAMETERS)
    quiet(getattr(one, method), frame(X), series(y), series(weight), **extra)
    quiet(getattr(other, method), X, y, weight, **extra)
    for mine, known in zip(one.coefs_, other.coefs_, strict=True):
        assert_array_equal(mine, known)
    assert list(one.feature_names_in_) == NAMES
    assert_array_equal(one.predict(frame(X)), other.predict(X))
    assert one.score(frame(X), series(y)) == other.score(X, y)
    with pytest.raises(ValueError, match="feature names should match"):
        one.predict(frame(X)[[*NAMES[1:], NAMES[0]]])


COLLECTIONS = {
    "array": lambda X: da.from_array(X, chunks=(70, 40)),
    "sparse blocks": lambda X: da.from_array(X, chunks=(70, 64)).map_blocks(
        sparse.csr_matrix
    ),
    "data frame": lambda X: dd.from_pandas(pd.DataFrame(X, columns=NAMES), 3),
}


@pytest.mark.parametrize("kind", COLLECTIONS)
def test_collections_need_no_cluster(data, kind):
    """They are computed for training, and stay lazy for prediction."""
    X, y = data
    given, targets = COLLECTIONS[kind](X), da.from_array(y, chunks=90)
    clf = fit(DistributedMLPClassifier(**PARAMETERS), given, targets, 1.0 + targets)
    here = fit(DistributedMLPClassifier(**PARAMETERS), X, y, 1.0 + y)
    for mine, known in zip(clf.coefs_, here.coefs_, strict=True):
        assert_allclose(mine, known)
    assert clf.engine_ == "local"
    lazy = clf.predict(given)
    assert isinstance(lazy, da.Array)
    assert_array_equal(lazy.compute(scheduler="threads"), here.predict(X))
    probability = clf.predict_proba(given).compute(
        scheduler="processes" if kind == "array" else "sync"
    )
    assert_allclose(probability, here.predict_proba(X))
    assert clf.score(given, targets) == here.score(X, y)
    plan = clf.plan_predict(given)
    assert (plan.engine, plan.workers) == ("local", ())
    assert plan.reason.startswith("X is a Dask collection and no Dask client is active")


class Labelled(np.ndarray):
    """Of a type that can wrap a Dask array, like xarray's, but wraps NumPy's."""

    def __dask_graph__(self):
        return None


def test_a_lazy_type_that_holds_an_array_is_an_array(data):
    X, y = (array.view(Labelled) for array in data)
    clf = fit(DistributedMLPClassifier(**PARAMETERS), X, y)
    assert_array_equal(clf.predict(X), clf.predict(data[0]))
    assert clf.score(X, y) == clf.score(*data)


def test_inconsistent_lengths_are_reported_by_name(data):
    X, y = data
    with pytest.raises(ValueError, match="X has 200 rows, but y has 90"):
        DistributedMLPClassifier().fit(da.from_array(X), y[:90])
