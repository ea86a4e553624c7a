import numpy as np, pytest
from skdistmlp import DistributedMLPClassifier


def test_futures(client, digits):
    X, y = digits
    clf = DistributedMLPClassifier(
        (64, 32),
        client=client,
        parameter_threshold=0,
        engine="futures",
        n_workers=2,
        random_state=0,
        max_iter=2,
        n_iter_no_change=100,
    )
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clf.fit(X, y)
    print(clf.plan_, clf.score(X, y))
    from sklearn.base import clone

    assert clone(clf).client is client
