"""Input that scikit-learn refuses raises the same error with the same message."""

import numpy as np
import pytest
from sklearn.exceptions import (
    ConvergenceWarning,
    DataConversionWarning,
    NotFittedError,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils._param_validation import InvalidParameterError

from tests.estimators.configurations import ESTIMATORS, Case, pair
from tests.estimators.support import fit, result_of

PARAMS = Case.of("defaults").params


@pytest.fixture(scope="module", name="X")
def features():
    return Case.of("defaults").X


@pytest.fixture(scope="module", name="y")
def labels():
    return Case.of("defaults").y


def _with(array, index, value):
    changed = np.array(array, float)
    changed[index] = value
    return changed


def assert_refused_alike(call, params=None, kind="classifier"):
    """Make the same call on both estimators; return the type and the message."""
    ours, theirs = (
        result_of(lambda c=clf: call(c)) for clf in pair(params or PARAMS, kind)
    )
    assert theirs.error is not None, "scikit-learn accepts it"
    assert ours.error == theirs.error
    assert ours.warnings == theirs.warnings
    return theirs.error


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda X, y: (_with(X, 3, np.nan), y), id="NaN in X"),
        pytest.param(lambda X, y: (_with(X, 3, np.inf), y), id="infinity in X"),
        pytest.param(lambda X, y: (X, _with(y, 3, np.nan)), id="NaN in y"),
        pytest.param(lambda X, y: (X[:-1], y), id="X too short"),
        pytest.param(lambda X, y: (X, y[:-1]), id="y too short"),
        pytest.param(lambda X, y: (X[0], y), id="X of one dimension"),
        pytest.param(lambda X, y: (X[None], y), id="X of three dimensions"),
        pytest.param(lambda X, y: (X[:0], y[:0]), id="no rows"),
        pytest.param(lambda X, y: (X[:, :0], y), id="no features"),
        pytest.param(lambda X, y: (X + 1j, y), id="complex X"),
        pytest.param(lambda X, y: (X.astype(str).astype(object) + "a", y), id="words"),
        pytest.param(lambda X, y: (X, y + 0.5), id="continuous y"),
        pytest.param(lambda X, _: (X, None), id="no y"),
        pytest.param(lambda X, y: (X, np.column_stack([y, y])), id="two targets"),
    ],
)
def test_bad_data_is_refused_as_by_scikit_learn(X, y, spoil, method):
    extra = {"classes": range(10)} if method == "partial_fit" else {}
    bad_X, bad_y = spoil(X, y)
    assert_refused_alike(lambda clf: getattr(clf, method)(bad_X, bad_y, **extra))


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize(
    "weight",
    [
        pytest.param(np.ones(3), id="too short"),
        pytest.param(np.ones((240, 1)), id="two dimensions"),
        pytest.param(_with(np.ones(240), 3, np.nan), id="NaN"),
        pytest.param(np.zeros(240), id="all zero"),
        pytest.param("heavy", id="a word"),
    ],
)
def test_bad_sample_weight_is_refused_as_by_scikit_learn(X, y, weight, method):
    extra = {"classes": range(10)} if method == "partial_fit" else {}
    assert_refused_alike(
        lambda clf: getattr(clf, method)(X, y, sample_weight=weight, **extra)
    )


@pytest.mark.parametrize(
    "sizes", [(-1,), (0,), [5, 0, 3], (3, -2), np.array([4, 0]), -1, 0]
)
def test_hidden_layers_without_neurons_are_refused(X, y, sizes):
    error, message = assert_refused_alike(
        lambda clf: clf.fit(X, y), PARAMS | {"hidden_layer_sizes": sizes}
    )
    assert issubclass(error, ValueError)
    assert "hidden_layer_sizes" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_layer_sizes", "many"),
        ("alpha", -1),
        ("batch_size", 0),
        ("batch_size", "whole"),
        ("learning_rate_init", 0),
        ("power_t", -1),
        ("max_iter", 0),
        ("max_iter", 1.5),
        ("shuffle", "yes"),
        ("random_state", "seed"),
        ("tol", -1e-4),
        ("verbose", "loud"),
        ("warm_start", 2),
        ("momentum", 1.1),
        ("nesterovs_momentum", None),
        ("early_stopping", "maybe"),
        ("validation_fraction", 1.0),
        ("beta_1", 1.0),
        ("beta_2", -0.1),
        ("epsilon", 0),
        ("n_iter_no_change", 0),
        ("n_iter_no_change", -np.inf),
        ("max_fun", 0),
    ],
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("kind", ESTIMATORS)
def test_invalid_shared_parameters_are_refused_as_by_scikit_learn(
    X, y, name, value, method, kind
):
    first = method == "partial_fit" and kind == "classifier"
    extra = {"classes": range(10)} if first else {}
    error, message = assert_refused_alike(
        lambda clf: getattr(clf, method)(X, y, **extra), PARAMS | {name: value}, kind
    )
    assert error is InvalidParameterError
    assert f"'{name}' parameter" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [("solver", "newton"), ("activation", "cosine"), ("learning_rate", "slow")],
)
@pytest.mark.parametrize("kind", ESTIMATORS)
def test_an_unknown_name_is_refused_where_we_have_more_names(X, y, kind, name, value):
    for cls in ESTIMATORS[kind]:
        with pytest.raises(
            InvalidParameterError, match=f"'{name}' parameter"
        ) as raised:
            cls(**PARAMS | {name: value}).fit(X, y)
    assert repr(value) in str(raised.value)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("engine", "everywhere"),
        ("engine", None),
        ("parameter_threshold", -1),
        ("parameter_threshold", 0.5),
        ("parameter_threshold", "many"),
        ("n_workers", 0),
        ("n_workers", -2),
        ("n_workers", 1.5),
        ("n_workers", "all"),
        ("client", 8786),
        ("client", object()),
    ],
)
@pytest.mark.parametrize("kind", ESTIMATORS)
def test_invalid_parameters_of_our_own_are_refused(X, y, name, value, method, kind):
    clf = ESTIMATORS[kind][0](**PARAMS | {name: value})
    first = method == "partial_fit" and kind == "classifier"
    extra = {"classes": range(10)} if first else {}
    with pytest.raises(InvalidParameterError, match=f"'{name}' parameter"):
        getattr(clf, method)(X, y, **extra)
    assert not hasattr(clf, "coefs_")


@pytest.mark.parametrize("fraction", [0.0, 1e-9, 0.999])
def test_impossible_validation_sets_are_refused(X, y, fraction):
    params = {"early_stopping": True, "validation_fraction": fraction}
    assert_refused_alike(lambda clf: clf.fit(X, y), PARAMS | params)


def test_a_validation_set_of_one_row_is_refused(X, y):
    _, message = assert_refused_alike(
        lambda clf: clf.fit(X[:10], y[:10]),
        PARAMS | {"early_stopping": True, "validation_fraction": 0.1},
    )
    assert "validation set is too small" in message


def test_a_class_too_rare_for_a_stratified_split_is_refused(X):
    y = np.arange(len(X)) == 0
    _, message = assert_refused_alike(
        lambda clf: clf.fit(X, y), PARAMS | {"early_stopping": True}
    )
    assert "least populated class" in message


def test_early_stopping_in_partial_fit_is_refused(X, y):
    _, message = assert_refused_alike(
        lambda clf: clf.partial_fit(X, y, classes=range(10)),
        PARAMS | {"early_stopping": True},
    )
    assert "does not support early_stopping" in message


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param([(slice(0, 99), None)], id="no classes in the first call"),
        pytest.param([(slice(0, 99), [0, 1, 2])], id="unknown classes"),
        pytest.param(
            [(slice(0, 99), range(10)), (slice(0, 99), range(9))], id="other classes"
        ),
        pytest.param(
            [(slice(0, 3), [0, 1, 2]), (slice(0, 99), None)], id="unknown ones later"
        ),
        pytest.param([(slice(0, 99), "0123456789")], id="classes that are no list"),
    ],
)
def test_invalid_classes_of_partial_fit_are_refused(X, y, calls):
    def call(clf):
        clf.set_params(batch_size="auto")
        for rows, classes in calls:
            clf.partial_fit(X[rows], y[rows], classes=classes)

    error, _ = assert_refused_alike(call)
    assert issubclass(error, ValueError)


@pytest.mark.parametrize("classes", [range(9), range(11)])
def test_a_warm_start_with_other_classes_is_refused(X, y, classes):
    def call(clf):
        fit(clf, X, y)
        clf.fit(X, np.resize(classes, len(X)))

    _, message = assert_refused_alike(call, PARAMS | {"warm_start": True})
    assert "same classes as in the previous call to fit" in message


def test_a_warm_start_with_other_features_is_refused(X, y):
    def call(clf):
        fit(clf, X, y).fit(X[:, 1:], y)

    _, message = assert_refused_alike(call, PARAMS | {"warm_start": True})
    assert message.startswith("X has 63 features, but MLPClassifier is expecting 64")


def test_partial_fit_with_other_features_is_refused(X, y):
    _, message = assert_refused_alike(
        lambda clf: fit(clf, X, y).partial_fit(X[:, 1:], y)
    )
    assert message.startswith("X has 63 features, but MLPClassifier is expecting 64")


@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba"])
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda X: X[:, 1:], id="too few features"),
        pytest.param(lambda X: np.hstack([X, X]), id="too many features"),
        pytest.param(lambda X: X[0], id="one dimension"),
        pytest.param(lambda X: X[:0], id="no rows"),
        pytest.param(lambda X: _with(X, 3, np.nan), id="NaN"),
        pytest.param(lambda X: X.astype(str).astype(object) + "a", id="words"),
        pytest.param(lambda _: None, id="nothing"),
    ],
)
def test_bad_data_for_predict_is_refused(X, y, spoil, method):
    assert_refused_alike(lambda clf: getattr(fit(clf, X, y), method)(spoil(X)))


@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba"])
def test_methods_of_an_unfitted_estimator_raise(X, method):
    error, _ = assert_refused_alike(lambda clf: getattr(clf, method)(X))
    assert error is NotFittedError


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_failed_first_call_leaves_the_estimator_unfitted(X, y, method):
    clf, _ = pair(PARAMS | {"hidden_layer_sizes": (3, 0)})
    extra = {"classes": range(10)} if method == "partial_fit" else {}
    with pytest.raises(ValueError, match="must be > 0"):
        getattr(clf, method)(X, y, **extra)
    with pytest.raises(NotFittedError):
        clf.predict(X)
    fit(clf.set_params(hidden_layer_sizes=(3,)), X, y).predict(X)


def test_a_failed_call_leaves_a_fitted_estimator_unchanged(X, y):
    clf, _ = pair(PARAMS)
    before = fit(clf, X, y).predict_proba(X)
    with pytest.raises(ValueError, match="NaN"):
        clf.partial_fit(_with(X, 3, np.nan), y)
    np.testing.assert_array_equal(clf.predict_proba(X), before)


# Warnings.


@pytest.mark.parametrize("early_stopping", [False, True])
def test_an_oversized_batch_is_clipped_with_a_warning(X, y, early_stopping):
    """Held-out rows are not part of a batch."""
    size = len(X) if early_stopping else len(X) + 1
    params = PARAMS | {"batch_size": size, "early_stopping": early_stopping}
    ours, theirs = (result_of(lambda c=clf: c.fit(X, y)) for clf in pair(params))
    assert ours.warnings == theirs.warnings
    categories = [category for category, _ in ours.warnings]
    assert categories == [UserWarning, ConvergenceWarning]
    assert "It is going to be clipped" in ours.warnings[0][1]


def test_a_column_of_labels_is_accepted_with_a_warning(X, y):
    ours, theirs = (
        result_of(lambda c=clf: fit(c, X, y[:, None]).predict(X))
        for clf in pair(PARAMS)
    )
    assert ours.warnings == theirs.warnings
    assert [category.__name__ for category, _ in ours.warnings] == [
        "DataConversionWarning"
    ]
    np.testing.assert_array_equal(ours.value, theirs.value)


def test_warnings_point_to_the_line_that_called_fit(X, y):
    clf, _ = pair(PARAMS | {"batch_size": 1000})
    with pytest.warns(UserWarning) as caught:  # noqa: PT030 (both of them)
        clf.fit(X, y)
    assert {warning.filename for warning in caught} == {__file__}


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("kind", ESTIMATORS)
def test_the_warning_of_a_column_points_to_the_line_that_called(X, y, kind, method):
    clf, _ = pair(PARAMS, kind)
    classes = {"classes": np.unique(y)} if method == "partial_fit" else {}
    if kind == "regressor":
        classes = {}
    with pytest.warns(Warning) as caught:  # noqa: PT030 (that of convergence too)
        getattr(clf, method)(X, y[:, None], **classes)
    (ours,) = [w for w in caught if w.category is DataConversionWarning]
    assert ours.filename == __file__


@pytest.mark.parametrize("sizes", [(10.5,), (10.0, 5), [np.float64(5)], ("5",)])
def test_sizes_that_are_no_whole_numbers_are_named(X, y, sizes):
    """scikit-learn refuses them too, but does not name the parameter."""
    ours, theirs = pair(PARAMS | {"hidden_layer_sizes": sizes})
    with pytest.raises(TypeError, match="hidden_layer_sizes has to consist of whole"):
        ours.fit(X, y)
    with pytest.raises((TypeError, ValueError)):
        theirs.fit(X, y)


def test_whole_numbers_of_numpy_are_accepted(X, y):
    sizes = np.array([5, 4])
    clf, _ = pair(PARAMS | {"hidden_layer_sizes": sizes, "batch_size": np.int64(10)})
    fit(clf.set_params(n_workers=np.int64(1), max_iter=np.int32(2)), X, y)
    assert [coef.shape[1] for coef in clf.coefs_[:-1]] == [5, 4]


# Parameters that diverge.

RUNAWAY = {"activation": "identity", "solver": "sgd", "learning_rate_init": 1e150}


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_diverging_parameters_are_an_error(X, y, method):
    extra = {"classes": range(10)} if method == "partial_fit" else {}
    errors = []
    for clf in pair(PARAMS | RUNAWAY):
        with np.errstate(all="ignore"):
            errors.append(result_of(lambda c=clf: getattr(c, method)(X, y, **extra)))
    ours, theirs = errors
    assert theirs.error is not None
    assert ours.error == theirs.error
    assert ours.error[0] is ValueError
    assert ours.error[1].startswith("Solver produced non-finite parameter weights")


def test_diverging_parameters_are_an_error_on_workers(client, X, y):
    clf, _ = pair(
        PARAMS | RUNAWAY | {"max_iter": 1},
        client=client,
        engine="futures",
        n_workers=2,
    )
    with pytest.raises(ValueError, match="Solver produced non-finite"):
        fit(clf, X, y)
    fit(clf.set_params(learning_rate_init=1e-3), X, y)
    assert clf.engine_ == "futures"


def test_every_parameter_of_scikit_learn_is_tested_here():
    marks = test_invalid_shared_parameters_are_refused_as_by_scikit_learn.pytestmark
    (tried,) = (mark.args[1] for mark in marks if mark.args[0] == ("name", "value"))
    for estimator in (MLPClassifier(), MLPRegressor()):
        names = set(estimator.get_params())
        wider = {"loss", "solver", "activation", "learning_rate"}
        assert {name for name, _ in tried} == names - wider
