"""What tests of clients share: a small classifier and its data."""

from skdistmlp import DistributedMLPClassifier


def classifier(**parameters):
    return DistributedMLPClassifier(
        (8,),
        **{
            "engine": "futures",
            "parameter_threshold": 0,
            "max_iter": 2,
            "random_state": 0,
            **parameters,
        },
    )


def small(digits):
    X, y = digits
    return X[:300], y[:300]
