"""Rows for validation that the user gives, in every form and on every engine."""

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy import sparse
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss, make_scorer, mean_absolute_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdistmlp import DistributedMLPClassifier, DistributedMLPRegressor
from tests.cluster.leaks import assert_nothing_left
from tests.engines.thread_engine import in_threads
from tests.marks import only_quick

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

PARAMETERS = {
    "hidden_layer_sizes": (12, 7),
    "random_state": 0,
    "max_iter": 5,
    "batch_size": 60,
}


@pytest.fixture(scope="module")
def data():
    X, y = load_digits(return_X_y=True)
    X = X / 16
    return X[:300], y[:300], X[300:400], y[300:400]


def classifier(cls=DistributedMLPClassifier, **parameters):
    return cls(**PARAMETERS | parameters)


def regressor(cls=DistributedMLPRegressor, **parameters):
    return cls(**PARAMETERS | parameters)


def assert_same(one, other, rtol=0.0):
    for name in ("coefs_", "intercepts_"):
        for a, b in zip(getattr(one, name), getattr(other, name), strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)
    for name in ("loss_curve_", "validation_scores_", "validation_loss_curve_"):
        np.testing.assert_allclose(
            getattr(one, name), getattr(other, name), rtol=rtol or 1e-12
        )
    assert one.best_iter_ == other.best_iter_


# What is recorded, and what it changes.


def test_without_early_stopping_curves_are_recorded_and_nothing_else_changes(data):
    X, y, X_val, y_val = data
    plain = classifier().fit(X, y)
    assert plain.validation_scores_ is plain.validation_loss_curve_ is None
    assert plain.best_iter_ is None
    ours = classifier().fit(X, y, X_val=X_val, y_val=y_val)
    for a, b in zip(ours.coefs_, plain.coefs_, strict=True):
        np.testing.assert_array_equal(a, b)
    assert ours.loss_curve_ == plain.loss_curve_
    assert ours.best_loss_ == plain.best_loss_
    assert len(ours.validation_scores_) == len(ours.validation_loss_curve_) == 5
    assert ours.validation_scores_[-1] == ours.score(X_val, y_val)
    expected = log_loss(y_val, ours.predict_proba(X_val))
    np.testing.assert_allclose(ours.validation_loss_curve_[-1], expected, rtol=1e-12)
    assert ours.best_validation_score_ == max(ours.validation_scores_)
    first_best = ours.validation_scores_.index(ours.best_validation_score_) + 1
    assert ours.best_iter_ == first_best


def test_a_score_without_early_stopping_stops_nothing(data):
    X, y, X_val, y_val = data
    worse_and_worse = iter(range(0, -100, -1))

    def scoring(estimator, X, y):
        return next(worse_and_worse)

    ours = classifier(scoring=scoring, n_iter_no_change=1)
    ours.fit(X, y, X_val=X_val, y_val=y_val)
    assert ours.validation_scores_ == [0, -1, -2, -3, -4]
    assert (ours.n_iter_, ours.best_iter_) == (5, 1)


def test_early_stopping_watches_them_and_restores_the_best_parameters(data):
    X, y, X_val, y_val = data
    scores = iter([0.1, 0.5, 0.2, 0.3, 0.4])
    ours = classifier(
        scoring=lambda *_: next(scores), early_stopping=True, n_iter_no_change=2
    ).fit(X, y, X_val=X_val, y_val=y_val)
    assert (ours.n_iter_, ours.best_iter_) == (5, 2)
    assert ours.best_loss_ is None
    until_then = classifier(max_iter=2).fit(X, y)
    for a, b in zip(ours.coefs_, until_then.coefs_, strict=True):
        np.testing.assert_array_equal(a, b)


def test_they_take_the_place_of_the_validation_fraction(data):
    """All rows of X are trained on, in the order without early stopping."""
    X, y, X_val, y_val = data
    ours = classifier(early_stopping=True, validation_fraction=0.5, tol=0.0)
    ours.fit(X, y, X_val=X_val, y_val=y_val)
    assert ours.t_ == 5 * len(X)
    assert ours.loss_curve_ == classifier().fit(X, y).loss_curve_


def test_rows_that_are_held_out_have_a_loss_curve_too(data):
    X, y, *_ = data
    ours = classifier(early_stopping=True).fit(X, y)
    assert len(ours.validation_loss_curve_) == len(ours.validation_scores_) == 5
    assert ours.best_iter_ in range(1, 6)


@pytest.mark.parametrize(
    ("scoring", "value"),
    [
        ("loss", lambda clf, X, y: -log_loss(y, clf.predict_proba(X))),
        ("neg_log_loss", lambda clf, X, y: -log_loss(y, clf.predict_proba(X))),
        ("accuracy", lambda clf, X, y: clf.score(X, y)),
        (None, lambda clf, X, y: clf.score(X, y)),
        ("roc_auc_ovr", None),
    ],
)
def test_scores_are_those_of_the_fitted_estimator(scoring, value, data):
    X, y, X_val, y_val = data
    ours = classifier(scoring=scoring).fit(X, y, X_val=X_val, y_val=y_val)
    if value is None:
        value = sklearn.metrics.get_scorer(scoring)
    expected = value(ours, X_val, y_val)
    np.testing.assert_allclose(ours.validation_scores_[-1], expected, rtol=1e-12)


def test_a_score_may_look_at_the_features(data):
    X, y, X_val, y_val = data

    def scoring(estimator, X, y):
        np.testing.assert_array_equal(X, X_val)
        np.testing.assert_array_equal(y, y_val)
        assert estimator.predict_proba(X).shape == (100, 10)
        for others in (X[:5], X.copy(), np.zeros_like(X)):
            with pytest.raises(ValueError, match="only for the X that it is given"):
                estimator.predict(others)
        return 3.5

    ours = classifier(scoring=scoring).fit(X, y, X_val=X_val, y_val=y_val)
    assert ours.validation_scores_ == [3.5] * 5


def test_weights_count_in_scores_and_losses(data):
    X, y, X_val, y_val = data
    weight = np.linspace(0, 2, len(y_val))
    ours = classifier().fit(X, y, X_val=X_val, y_val=y_val, sample_weight_val=weight)
    expected = ours.score(X_val, y_val, sample_weight=weight)
    np.testing.assert_allclose(ours.validation_scores_[-1], expected, rtol=1e-12)
    loss = log_loss(y_val, ours.predict_proba(X_val), sample_weight=weight)
    np.testing.assert_allclose(ours.validation_loss_curve_[-1], loss, rtol=1e-12)
    assert_same_training = classifier().fit(X, y)
    assert ours.loss_curve_ == assert_same_training.loss_curve_


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "quantile"])
def test_regressors_take_them_too(loss, data):
    X, y, X_val, y_val = data
    ours = regressor(loss=loss, early_stopping=True, tol=0.0)
    ours.fit(X, y / 9, X_val=X_val, y_val=y_val / 9)
    best = ours.score(X_val, y_val / 9)
    np.testing.assert_allclose(ours.best_validation_score_, best, rtol=1e-12)
    mae = make_scorer(mean_absolute_error, greater_is_better=False)
    ours = regressor(loss=loss, scoring=mae)
    ours.fit(X, y / 9, X_val=X_val, y_val=y_val / 9)
    expected = -mean_absolute_error(y_val / 9, ours.predict(X_val))
    np.testing.assert_allclose(ours.validation_scores_[-1], expected, rtol=1e-12)


def test_partial_fit_goes_on_with_the_curves(data):
    X, y, X_val, y_val = data
    ours = classifier()
    for n in range(1, 4):
        ours.partial_fit(X, y, classes=np.arange(10), X_val=X_val, y_val=y_val)
        assert len(ours.validation_scores_) == len(ours.validation_loss_curve_) == n
    assert ours.validation_scores_[-1] == ours.score(X_val, y_val)
    assert ours.best_iter_ in (1, 2, 3)


def test_a_pipeline_transforms_them(data):
    X, y, X_val, y_val = data
    with sklearn.config_context(enable_metadata_routing=True):
        clf = classifier(early_stopping=True, tol=0.0)
        clf.set_fit_request(X_val=True, y_val=True)
        pipeline = make_pipeline(StandardScaler(), clf, transform_input=["X_val"])
        pipeline.fit(X, y, X_val=X_val, y_val=y_val)
        best = pipeline.score(X_val, y_val)
    assert pipeline[-1].best_validation_score_ == best


# In every form.

FORMS = {
    "lists": (lambda X: X.tolist(), lambda y: y.tolist()),
    "frames": (lambda X: pd.DataFrame(X).add_prefix("pixel"), pd.Series),
    "compressed rows": (sparse.csr_matrix, np.asarray),
    "compressed columns": (sparse.csc_array, np.asarray),
    "strings": (np.asarray, lambda y: np.array(list("abcdefghij"))[y]),
    "a column": (np.asarray, lambda y: y[:, np.newaxis]),
    "Dask arrays": (
        lambda X: da.from_array(X, chunks=(70, 20)),
        lambda y: da.from_array(y, chunks=70),
    ),
    "Dask frames": (
        lambda X: dd.from_pandas(pd.DataFrame(X).add_prefix("pixel"), npartitions=3),
        lambda y: dd.from_pandas(pd.Series(y), npartitions=3),
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")
def test_every_form_gives_the_same(form, data):
    X, y, X_val, y_val = data
    of_X, of_y = FORMS[form]
    ours = classifier(early_stopping=True, tol=0.0).fit(
        of_X(X), of_y(y), X_val=of_X(X_val), y_val=of_y(y_val)
    )
    expected = classifier(early_stopping=True, tol=0.0).fit(
        X, y, X_val=X_val, y_val=y_val
    )
    assert_same(ours, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("of_X", "of_X_val"),
    [
        (sparse.csr_array, np.asarray),
        (np.asarray, sparse.csr_array),
        (np.asarray, lambda X: da.from_array(X, chunks=30)),
        (lambda X: da.from_array(X, chunks=(70, 64)), np.asarray),
        (np.float32, np.float64),
    ],
    ids=range(5),
)
def test_forms_may_be_mixed_and_that_of_x_holds(of_X, of_X_val, data):
    X, y, X_val, y_val = data
    ours = classifier().fit(of_X(X), y, X_val=of_X_val(X_val), y_val=y_val)
    expected = classifier().fit(of_X(X), y, X_val=of_X(X_val), y_val=y_val)
    assert ours.coefs_[0].dtype == expected.coefs_[0].dtype
    assert_same(ours, expected, rtol=1e-9)


@pytest.mark.parametrize("of_X_val", [np.asarray, sparse.csr_array, np.ndarray.tolist])
def test_rows_after_a_dask_frame_may_be_an_array(client, data, of_X_val):
    """Its columns are those of the frame, in their order."""
    X, y, X_val, y_val = data
    frame = FORMS["Dask frames"][0](X)
    for connected in (None, client):
        engine = "local" if connected is None else "peers"
        ours = classifier(client=connected, engine=engine)
        ours.fit(frame, y, X_val=of_X_val(X_val), y_val=y_val)
        expected = classifier().fit(X, y, X_val=X_val, y_val=y_val)
        assert_same(ours, expected, rtol=1e-6)


def test_several_labels_and_classes_that_are_missing_are_fine(data):
    X, y, X_val, y_val = data
    only_some = y_val < 4
    ours = classifier().fit(X, y, X_val=X_val[only_some], y_val=y_val[only_some])
    assert ours.validation_scores_[-1] == ours.score(X_val[only_some], y_val[only_some])
    labels, labels_val = (np.column_stack([a % 2, a > 4]) for a in (y, y_val))
    ours = classifier().fit(X, labels, X_val=X_val, y_val=labels_val)
    assert ours.validation_scores_[-1] == ours.score(X_val, labels_val)


# On every engine and plan.


@pytest.mark.parametrize("shares", [[1, 1], [3, 1, 5]], ids=str)
@pytest.mark.parametrize("scoring", [None, "loss", "roc_auc_ovr"])
def test_any_split_gives_the_same(shares, scoring, data):
    X, y, X_val, y_val = data
    parameters = {"early_stopping": True, "scoring": scoring, "tol": 0.0}
    ours = classifier(in_threads(DistributedMLPClassifier, shares), **parameters)
    ours.fit(X, y, X_val=X_val, y_val=y_val)
    expected = classifier(**parameters).fit(X, y, X_val=X_val, y_val=y_val)
    assert ours.n_workers_ == len(shares)
    assert_same(ours, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("engine", "form"),
    only_quick(
        0,
        3,
        4,
        cases=[
            ("futures", "Dask arrays"),
            ("futures", "lists"),
            ("peers", "lists"),
            ("peers", "Dask arrays"),
            ("peers", "Dask frames"),
        ],
    ),
)
def test_workers_give_the_same_and_nothing_is_left(client, data, engine, form):
    X, y, X_val, y_val = data
    of_X, of_y = FORMS[form]
    parameters = {"early_stopping": True, "scoring": "neg_log_loss", "max_iter": 3}
    ours = classifier(
        client=client, engine=engine, n_workers=2, parameter_threshold=0, **parameters
    )
    ours.fit(of_X(X), of_y(y), X_val=of_X(X_val), y_val=of_y(y_val))
    assert ours.n_workers_ == 2
    expected = classifier(**parameters).fit(X, y, X_val=X_val, y_val=y_val)
    assert_same(ours, expected, rtol=1e-6)
    assert_nothing_left(client)


@pytest.mark.parametrize("engine", ["local", "futures", "peers"])
def test_an_error_in_a_score_reaches_the_user(client, data, engine):
    X, y, X_val, y_val = data

    def scoring(estimator, X, y):
        raise ZeroDivisionError("of the user")

    ours = classifier(client=client, engine=engine, parameter_threshold=0)
    ours.set_params(scoring=scoring)
    with pytest.raises(ZeroDivisionError, match="of the user"):
        ours.fit(X, y, X_val=X_val, y_val=y_val)
    assert not hasattr(ours, "coefs_")


# What is refused.

X5, Y5 = np.zeros((5, 64)), np.arange(5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"X_val": X5}, "X_val was passed without y_val"),
        ({"y_val": Y5}, "passed without X_val"),
        ({"sample_weight_val": np.ones(5)}, "passed without X_val"),
        ({"X_val": X5[:0], "y_val": Y5[:0]}, "have no rows"),
        ({"X_val": X5[:, :3], "y_val": Y5}, "X_val does not fit .*3 features"),
        ({"X_val": X5, "y_val": Y5[:4]}, r"X_val does not fit .*\[5, 4\]"),
        ({"X_val": X5 * np.nan, "y_val": Y5}, "X_val does not fit .*NaN"),
        ({"X_val": X5, "y_val": np.eye(5, 10, dtype=int)}, "y_val is multilabel-indi"),
        ({"X_val": X5, "y_val": Y5 + 0.5}, "y_val is continuous and has the shape"),
        ({"X_val": X5, "y_val": Y5 + 20}, r"y_val has classes .*\[20 21 22 23 24\]"),
        ({"X_val": X5, "y_val": 3}, "y_val is 3, expected one value"),
        (
            {"X_val": X5, "y_val": Y5, "sample_weight_val": [1, 2]},
            r"sample_weight.shape == \(2,\), expected \(5,\)",
        ),
        ({"X_val": da.zeros((5, 3)), "y_val": Y5}, "3 features"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(given, message, data):
    X, y, *_ = data
    ours = classifier()
    with pytest.raises(ValueError, match=message):
        ours.fit(X, y, **given)
    assert not hasattr(ours, "coefs_")


@pytest.mark.parametrize(
    ("X_val", "y_val", "message"),
    [
        (da.zeros((5, 3), chunks=5), Y5, "X_val has the shape"),
        (pd.DataFrame(X5), Y5, "X is an array and X_val is a data frame"),
        (da.zeros((5, 64), chunks=5), Y5[:4], "X_val has 5 rows, but y_val has 4"),
    ],
    ids=range(3),
)
def test_what_does_not_fit_a_dask_collection_is_refused(
    client, data, X_val, y_val, message
):
    X, y, *_ = data
    collection = da.from_array(X, chunks=(100, 64))
    ours = classifier(client=client, engine="peers")
    with pytest.raises(ValueError, match=message):
        ours.fit(collection, y, X_val=X_val, y_val=y_val)
    assert_nothing_left(client)


@pytest.mark.parametrize(
    ("X_val", "message"),
    [
        (X5[:, :3], r"X_val has the shape \(5, 3\), but X has 64 columns"),
        (X5[0], r"shape \(64,\), but X has 64 columns. Pass a 2-D array with"),
        (da.zeros((5, 64)), "X is a data frame and X_val is an array"),
        (pd.DataFrame(X5), "X_val has the columns"),
    ],
    ids=range(4),
)
def test_what_does_not_fit_a_dask_frame_is_refused(data, X_val, message):
    X, y, *_ = data
    frame = FORMS["Dask frames"][0](X)
    with pytest.raises(ValueError, match=message):
        classifier().fit(frame, y, X_val=X_val, y_val=Y5)


@pytest.mark.parametrize("has_client", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_rows_of_x_and_of_x_val_are_counted_apart(client, data, has_client, known):
    """One target less for the one, and one more for the other."""
    X, y, X_val, y_val = data
    collections = da.from_array(X, chunks=(100, 64)), da.from_array(X_val, chunks=50)
    if not known:
        collections = [one[one[:, 0] > -1] for one in collections]
    ours = classifier(client=client if has_client else None, engine="peers")
    with pytest.raises(ValueError, match="X has 300 rows, but y has 299"):
        ours.fit(collections[0], y[:-1], X_val=collections[1], y_val=np.r_[1, y_val])


def test_rows_for_validation_do_not_decide_the_dtype(data):
    X, y, X_val, y_val = data
    single = da.from_array(X.astype(np.float32), chunks=(100, 64))
    ours = classifier().fit(single, y, X_val=da.from_array(X_val), y_val=y_val)
    assert ours.coefs_[0].dtype == np.float32
    frame = dd.from_pandas(pd.DataFrame(X.astype(np.float32)), npartitions=2)
    ours = classifier().fit(frame, y, X_val=pd.DataFrame(X_val), y_val=y_val)
    assert ours.coefs_[0].dtype == np.float32


def test_weights_of_training_are_not_those_of_validation(data):
    """A score that takes none is called without."""
    X, y, X_val, y_val = data
    ours = classifier(
        scoring=lambda clf, X, y: clf.score(X, y), class_weight="balanced"
    ).fit(X, y, np.linspace(0.5, 1, len(y)), X_val=X_val, y_val=y_val)
    assert ours.validation_scores_[-1] == ours.score(X_val, y_val)


def test_scores_that_are_no_numbers_are_warned_of(data):
    X, y, X_val, y_val = data
    ours = classifier(early_stopping=True, scoring=lambda *_: float("nan"))
    with pytest.warns(UserWarning, match="no validation score was a number"):
        ours.fit(X, y, X_val=X_val, y_val=y_val)
    assert ours.best_iter_ is None


@pytest.mark.parametrize("score", [None, "high", [1.0], True])
def test_a_score_is_a_number(score, data):
    X, y, X_val, y_val = data
    with pytest.raises(TypeError, match=r"scoring=.* returned .*, expected a number"):
        classifier(scoring=lambda *_: score).fit(X, y, X_val=X_val, y_val=y_val)


def test_an_error_of_a_scorer_names_it(data):
    X, y, X_val, y_val = data
    with pytest.raises(ValueError, match="multiclass") as raised:
        classifier(scoring="f1").fit(X, y, X_val=X_val, y_val=y_val)
    assert "scoring='f1'" in raised.value.__notes__[0]


def test_several_labels_are_not_one(data):
    X, y, X_val, y_val = data
    labels = np.column_stack([y % 2, y > 4])
    for wrong in (y_val, labels[:100, [0, 1, 1]]):
        with pytest.raises(ValueError, match="but y is multilabel-indicator, with 2"):
            classifier().fit(X, labels, X_val=X_val, y_val=wrong)


def test_words_are_no_targets_of_a_regressor(data):
    X, y, X_val, _ = data
    with pytest.raises(ValueError, match="y_val has values that are no numbers"):
        regressor().fit(X, y / 9, X_val=X_val, y_val=np.full(100, "a"))


def test_lbfgs_refuses_them(data):
    X, y, X_val, y_val = data
    with pytest.raises(ValueError, match="X_val has no meaning with solver='lbfgs'"):
        classifier(solver="lbfgs").fit(X, y, X_val=X_val, y_val=y_val)


def test_negative_counts_are_refused(data):
    X, y, X_val, y_val = data
    with pytest.raises(ValueError, match=r"min\(y_val\) is -1"):
        regressor(loss="poisson").fit(X, y, X_val=X_val, y_val=y_val - 1)
