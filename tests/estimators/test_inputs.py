"""X, y and sample_weight before training: validated, and Dask collections resolved."""

import subprocess
import sys

import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import sparse

from skdistmlp import DistributedMLPClassifier, DistributedMLPRegressor
from skdistmlp.estimators.inputs import (
    ArrayFeatures,
    compute_collections,
    is_collection,
    resolve_inputs,
)
from skdistmlp.parallel.data import Dataset

X = np.arange(12.0).reshape(6, 2)
Y = np.arange(6) % 2
WEIGHT = np.linspace(1, 2, 6)


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (X, np.float64),
        (X.astype("f4"), np.float32),
        (X.astype(int), np.float64),
        (X.tolist(), np.float64),
        (sparse.csc_matrix(X), np.float64),
    ],
    ids=["float64", "float32", "int", "list", "sparse"],
)
def test_array_features_are_validated_as_by_scikit_learn(given, dtype):
    estimator = DistributedMLPClassifier()
    features, y = ArrayFeatures(given).validated(estimator, Y.tolist(), reset=True)
    assert features.shape == (6, 2)
    assert features.dtype == dtype
    assert estimator.n_features_in_ == 2
    assert_array_equal(y, Y)
    if sparse.issparse(given):
        assert features.X.format == "csr"
        assert_array_equal(features.X.toarray(), X)
    else:
        assert_array_equal(features.X, X)


def test_further_checks_are_passed_on():
    features = ArrayFeatures(X)
    _, y = features.validated(
        DistributedMLPRegressor(), Y.astype(object), reset=True, y_numeric=True
    )
    assert y.dtype == np.float64


def test_without_reset_features_are_compared_with_those_of_the_first_fit():
    estimator = DistributedMLPClassifier()
    ArrayFeatures(X).validated(estimator, Y, reset=True)
    with pytest.raises(ValueError, match="X has 1 features, but Distributed"):
        ArrayFeatures(X[:, :1]).validated(estimator, Y, reset=False)


def test_array_features_make_a_local_data_set():
    dataset = ArrayFeatures(X).with_targets(Y[:, np.newaxis], WEIGHT)
    assert type(dataset) is Dataset
    assert dataset.X is X
    assert dataset.sample_weight is WEIGHT


def test_arrays_are_resolved_to_themselves():
    with resolve_inputs("tcp://192.0.2.1:1", "Estimator", X, Y, WEIGHT) as resolved:
        features, y, weight = resolved
    assert type(features) is ArrayFeatures
    assert features.X is X
    assert y is Y
    assert weight is WEIGHT


@pytest.mark.parametrize("lazy", ["X", "y", "weight"])
def test_collections_without_a_client_are_resolved_to_arrays(lazy):
    given = {"X": X, "y": Y, "weight": WEIGHT}
    given[lazy] = da.from_array(given[lazy], chunks=4)
    with resolve_inputs(None, "Estimator", **given) as (features, y, weight):
        assert type(features) is ArrayFeatures
        for found, expected in zip(
            (features.X, y, weight), (X, Y, WEIGHT), strict=True
        ):
            assert isinstance(found, np.ndarray)
            assert_array_equal(found, expected)


def test_collections_of_different_lengths_are_refused():
    with (
        pytest.raises(ValueError, match=r"X has 6 rows, but y has 5\. Pass one"),
        resolve_inputs(None, "Estimator", da.from_array(X), Y[:5], None),
    ):
        pass


def test_values_are_computed_together():
    lazy = da.from_array(X, chunks=2)
    assert compute_collections(None, Y, None) == (Y, None)
    computed, y = compute_collections(None, lazy, Y)
    assert_array_equal(computed, X)
    assert y is Y


@pytest.mark.parametrize(
    ("value", "expected"), [(da.from_array(X), True), (X, False), (None, False)]
)
def test_collections_are_recognized(value, expected):
    assert is_collection(value) is expected


@pytest.mark.slow
def test_arrays_do_not_import_dask():
    code = """
import sys
import numpy
from skdistmlp.estimators.inputs import compute_collections, resolve_inputs
with resolve_inputs("tcp://192.0.2.1:1", "Estimator", numpy.ones((2, 1)), [0, 1], None):
    compute_collections(None, numpy.ones(2))
assert not {"dask", "distributed"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
