"""Copies and pickles of an estimator that holds a live Dask client."""

import copy
import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.utils.validation import check_is_fitted

from skdistmlp import DistributedMLPClassifier
from tests.estimators.support import fit

SMALL = {"hidden_layer_sizes": (4,), "max_iter": 1, "batch_size": 600}
FUTURES = {"engine": "futures"}


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize(
    "duplicate",
    [
        clone,
        copy.copy,
        copy.deepcopy,
        pytest.param(
            lambda clf: DistributedMLPClassifier(**clf.get_params()), id="get_params"
        ),
        pytest.param(
            lambda clf: DistributedMLPClassifier().set_params(**clf.get_params()),
            id="set_params",
        ),
        pytest.param(lambda clf: clone(make_pipeline(clf))[-1], id="pipeline"),
        pytest.param(
            lambda clf: copy.deepcopy({"a": clf, "b": clf})["b"], id="deepcopy in dict"
        ),
    ],
)
def test_duplicates_keep_a_live_client(client, digits, duplicate, fitted):
    original = DistributedMLPClassifier(**SMALL, client=client, n_workers=2)
    if fitted:
        fit(original, *digits)
    twin = duplicate(original)
    assert type(twin) is DistributedMLPClassifier
    assert twin is not original
    assert twin.client is client
    assert original.client is client
    assert twin.get_params() == original.get_params()


def test_a_clone_is_not_fitted_but_copies_are(client, digits):
    original = fit(DistributedMLPClassifier(**SMALL, client=client), *digits)
    assert not hasattr(clone(original), "coefs_")
    for twin in (copy.copy(original), copy.deepcopy(original)):
        check_is_fitted(twin)
        assert_array_equal(twin.predict(digits[0]), original.predict(digits[0]))
    assert not np.shares_memory(copy.deepcopy(original).coefs_[0], original.coefs_[0])


def test_a_deep_copy_honours_the_memo(client):
    """An object that occurs twice is copied once."""
    sizes = [3, 4]
    clf = DistributedMLPClassifier(sizes, client=client)
    twin, twin_sizes = copy.deepcopy([clf, sizes])
    assert twin.hidden_layer_sizes is twin_sizes
    assert twin_sizes is not sizes


def test_pickling_drops_a_live_client(client, digits):
    original = fit(DistributedMLPClassifier(**SMALL, client=client), *digits)
    woken = pickle.loads(pickle.dumps(original))
    assert woken.client is None
    assert original.client is client
    assert woken.get_params() == original.get_params() | {"client": None}
    assert_array_equal(
        woken.predict_proba(digits[0]), original.predict_proba(digits[0])
    )


def test_an_address_survives_pickling_and_is_used(client, digits):
    address = client.scheduler.address
    clf = DistributedMLPClassifier(**SMALL, **FUTURES, client=address, n_workers=2)
    woken = pickle.loads(pickle.dumps(clf))
    assert woken.client == address
    assert fit(woken, *digits).engine_ == "futures"
    again = pickle.loads(pickle.dumps(woken))
    assert again.client == address
    assert_array_equal(again.predict(digits[0]), woken.predict(digits[0]))


def test_repr_works_with_a_client(client):
    clf = DistributedMLPClassifier(client=client, n_workers=2)
    assert repr(clf).startswith("DistributedMLPClassifier(client=<Client")
    assert "n_workers=2" in repr(clf)
    assert "DistributedMLPClassifier" in clf._repr_html_()
