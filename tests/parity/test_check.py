"""Plans are compared with scikit-learn or with local, and a wrong one fails."""

import math

import dask.array as da
import numpy as np
import pytest
from scipy import sparse
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdistmlp import (
    DistributedMLPClassifier,
    DistributedMLPRegressor,
    WorkerLostError,
    check_parity,
)
from skdistmlp.parity import check
from skdistmlp.parity.check import TOLERANCES
from skdistmlp.parity.fits import Fits
from tests.marks import only_quick

X = np.random.default_rng(0).standard_normal((60, 5))
Y = (X[:, :3] @ [1.0, -2.0, 0.5] > 0).astype(int) + (X[:, 3] > 0)
CLF = DistributedMLPClassifier((7, 5), random_state=0)
REGRESSOR = DistributedMLPRegressor(hidden_layer_sizes=(7,), random_state=0)


@pytest.fixture
def workers(monkeypatch):
    """Pretend that there are three, which train in this process; record the plans.

    Set an entry of what is returned to have a plan do something else.
    """
    fit, trained, instead = Fits.of, [], {}

    def of(self, engine, n_workers=1, n_replicas=None):
        trained.append((engine, n_workers, n_replicas or 1))
        answer = fit(self, "local")._replace(n_workers=n_workers)
        answer = answer._replace(n_replicas=n_replicas or 1)
        return instead.get((engine, n_workers), lambda answer: answer)(answer)

    monkeypatch.setattr(Fits, "of", of)
    monkeypatch.setattr(check, "_n_workers", lambda _: 3)
    instead["trained"] = trained
    return instead


def plans(report):
    assert all(row.n_replicas == 1 for row in report.rows)
    return [(row.engine, row.n_workers) for row in report.rows]


def grids(report):
    return [(row.engine, row.n_workers, row.n_replicas) for row in report.rows]


def test_without_a_cluster_local_is_compared_with_scikit_learn():
    report = check_parity(CLF, X, Y)
    assert report.passed
    assert plans(report) == [("local", 1)]
    assert report.rows[0].reference == "scikit-learn"
    assert (report.dtype, report.n_epochs, report.random_state) == ("float64", 3, 0)
    assert report.notes == (
        "Not compared: futures and peers, as there is no Dask client",
    )
    assert not hasattr(CLF, "coefs_")


@pytest.mark.parametrize("estimator", [CLF, REGRESSOR])
@pytest.mark.parametrize(
    "convert",
    [
        np.asarray,
        lambda X: X.astype(np.float32),
        lambda X: X.tolist(),
        sparse.csr_array,
        lambda X: pytest.importorskip("pandas").DataFrame(X, columns=list("abcde")),
        lambda X: pytest.importorskip("polars").DataFrame(X, schema=list("abcde")),
        lambda X: da.from_array(X, chunks=(20, 5)),
    ],
    ids=["float64", "float32", "list", "sparse", "pandas", "polars", "Dask"],
)
def test_features_of_every_kind_are_compared(estimator, convert):
    features = convert(X)
    report = check_parity(estimator, features, Y, np.linspace(0.5, 2, 60), n_epochs=2)
    report.raise_if_failed()
    is_float32 = getattr(features, "dtype", None) == np.float32
    assert report.dtype == ("float32" if is_float32 else "float64")
    assert report.rows[0].tolerance == TOLERANCES[report.dtype]


def test_dask_targets_and_weights_are_computed():
    blocks = [da.from_array(array, chunks=20) for array in (Y, np.ones(60))]
    check_parity(CLF, X, *blocks).raise_if_failed()


@pytest.mark.parametrize("targets", [Y.astype(str), np.eye(3, dtype=int)[Y]])
def test_classes_and_labels_are_compared(targets):
    check_parity(CLF, X, targets).raise_if_failed()


def test_every_engine_and_number_of_workers_is_compared(workers):
    report = check_parity(CLF, X, Y)
    assert grids(report) == workers["trained"]
    assert plans(report) == [
        ("local", 1),
        *(("futures", n) for n in (1, 2, 3)),
        *(("peers", n) for n in (1, 2, 3)),
    ]
    assert report.passed


def test_replicas_that_the_estimator_asks_for_are_compared_too(workers, monkeypatch):
    monkeypatch.setattr(check, "_n_workers", lambda _: 5)
    clf = DistributedMLPClassifier((7, 5), n_replicas=2, random_state=0)
    report = check_parity(clf, X, Y)
    assert grids(report) == workers["trained"]
    assert grids(report) == [
        ("local", 1, 1),
        *(("futures", n, 1) for n in (1, 2, 3, 4, 5)),
        *(("peers", n, 1) for n in (1, 2, 3, 4, 5)),
        *(("peers", n, 2) for n in (2, 4)),
    ]
    assert report.passed
    few = check_parity(clf, X, Y, engines="peers", max_workers=1)
    assert grids(few) == [("peers", 1, 1)]
    assert few.notes == ("Not compared: n_replicas=2, as there is 1 worker",)


def test_one_replica_is_compared_once(workers):
    clf = DistributedMLPClassifier((7, 5), n_replicas=1, random_state=0)
    report = check_parity(clf, X, Y, engines=["peers"])
    assert plans(report) == [("peers", n) for n in (1, 2, 3)]


def test_an_error_of_replicas_names_the_grid(workers):
    def lose(answer):
        raise WorkerLostError("worker tcp://w was lost while training")

    workers["peers", 3] = lose
    clf = DistributedMLPClassifier((7, 5), n_replicas=3, random_state=0)
    report = check_parity(clf, X, Y, engines=["peers"])
    assert [row.passed for row in report.rows] == [True, True, False, False]
    assert str(report).splitlines()[-1] == (
        "peers on 3 workers in 3 replicas: WorkerLostError: worker tcp://w was lost "
        "while training"
    )


def test_engines_and_workers_can_be_limited(workers):
    report = check_parity(CLF, X, Y, engines=["peers"], max_workers=2)
    assert plans(report) == [("peers", 1), ("peers", 2)]


def test_a_network_that_fewer_workers_share_is_compared_once(workers):
    for n_workers in (2, 3):
        workers["peers", n_workers] = lambda answer: answer._replace(n_workers=1)
    report = check_parity(CLF, X, Y, engines=["peers"])
    assert plans(report) == [("peers", 1)]


def test_what_scikit_learn_lacks_is_compared_with_local(workers):
    clf = DistributedMLPClassifier((7,), class_weight="balanced", random_state=0)
    report = check_parity(clf, X, Y, max_workers=1)
    assert report.without_counterpart == ("class_weight='balanced'",)
    assert "no counterpart of class_weight='balanced'" in str(report)
    assert {row.reference for row in report.rows} == {"local"}
    assert plans(report) == [("futures", 1), ("peers", 1)]
    assert report.passed


def test_validation_data_and_new_parameters_are_compared_with_local(workers):
    clf = DistributedMLPClassifier(
        (7, 5), activation=["gelu", "mish"], dropout=0.3, solver="adamw", random_state=0
    )
    held_out = {"X_val": da.from_array(X[:20]), "y_val": Y[:20]}
    report = check_parity(clf, X, Y, engines=["peers"], **held_out)
    assert report.passed
    assert report.without_counterpart == (
        "activation=['gelu', 'mish']",
        "solver='adamw'",
        "dropout=0.3",
        "X_val",
        "y_val",
    )
    workers["peers", 3] = lambda answer: answer._replace(
        losses={**answer.losses, "validation_loss_curve_": np.zeros(3)}
    )
    report = check_parity(clf, X, Y, engines=["peers"], **held_out)
    assert [row.passed for row in report.rows] == [True, True, False]
    assert report.rows[2].loss_curve == 1


def perturbed(relative):
    """Add to one parameter, relative to the norm of its layer."""

    def change(answer):
        layers = [layer.copy() for layer in answer.layers]
        layers[1][3] += relative * np.linalg.norm(layers[1])
        return answer._replace(layers=layers)

    return change


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("reference", ["scikit-learn", "local"])
def test_a_perturbed_network_fails(workers, reference, dtype):
    weights = None if reference == "scikit-learn" else "balanced"
    clf = DistributedMLPClassifier((7, 5), class_weight=weights, random_state=0)
    tolerance = TOLERANCES[np.dtype(dtype).name]
    workers["peers", 2] = perturbed(2 * tolerance)
    workers["peers", 3] = perturbed(0.5 * tolerance)
    report = check_parity(clf, X.astype(dtype), Y, engines=["peers"])
    assert [row.passed for row in report.rows] == [True, False, True]
    assert {row.reference for row in report.rows} == {reference}
    assert report.rows[1].parameters == pytest.approx(2 * tolerance, rel=0.01)
    with pytest.raises(AssertionError, match="1 of 3 plans failed"):
        report.raise_if_failed()
    relaxed = check_parity(clf, X.astype(dtype), Y, engines=["peers"], tolerance=1e-3)
    assert relaxed.passed
    assert relaxed.rows[1].tolerance == 1e-3


@pytest.mark.parametrize("estimator", [CLF, REGRESSOR], ids=type)
@pytest.mark.parametrize(
    ("dtype", "wrong"),
    [
        # The penalty is 1e-4 by default.
        (np.float64, lambda clf, weight: (clf.set_params(alpha=0), weight)),
        (np.float32, lambda clf, weight: (clf, np.append(weight[:-1], 0))),
    ],
    ids=["no penalty", "a row left out"],
)
def test_a_slightly_wrong_gradient_fails(monkeypatch, estimator, dtype, wrong):
    fit = DistributedMLPClassifier.fit

    def fit_wrongly(self, X, y, sample_weight):
        self, sample_weight = wrong(self, sample_weight)
        return fit(self, X, y, sample_weight)

    monkeypatch.setattr(type(estimator), "fit", fit_wrongly)
    report = check_parity(estimator, X.astype(dtype), Y, np.ones(60))
    assert not report.rows[0].error
    assert not report


def test_an_error_of_one_plan_is_in_its_row(workers):
    def lose(answer):
        raise WorkerLostError("worker tcp://w was lost while training")

    workers["futures", 2] = lose
    report = check_parity(CLF, X, Y, max_workers=2)
    assert [row.passed for row in report.rows] == [True, True, False, True, True]
    assert report.rows[2].parameters == math.inf
    assert str(report).endswith(
        "futures on 2 workers: WorkerLostError: worker tcp://w was lost while training"
    )


def test_an_interrupt_ends_the_check(workers):
    def interrupt(answer):
        raise KeyboardInterrupt

    workers["futures", 2] = interrupt
    with pytest.raises(KeyboardInterrupt):
        check_parity(CLF, X, Y)
    assert workers["trained"][-1] == ("futures", 2, 1)


@pytest.mark.parametrize("name", ["_backprop", "skdistmlp.training.loop.run_epoch"])
def test_an_interrupted_fit_is_not_compared(name, monkeypatch):
    """scikit-learn, and this package, would keep what has been trained."""

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    if name == "_backprop":
        monkeypatch.setattr(MLPClassifier, name, interrupt)
    else:
        monkeypatch.setattr(name, interrupt)
    with pytest.raises(KeyboardInterrupt):
        check_parity(CLF, X, Y)


def test_invalid_data_raise_as_in_fit():
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        check_parity(CLF, X, Y[:-1])


def test_where_scikit_learn_alone_fails_local_is_the_reference(workers, monkeypatch):
    def fail(*_, **__):
        raise TypeError("not here")

    monkeypatch.setattr(MLPRegressor, "fit", fail)
    report = check_parity(REGRESSOR, X, Y, max_workers=1)
    assert {row.reference for row in report.rows} == {"local"}
    assert report.notes == (
        "Compared with local, since scikit-learn raised TypeError: not here",
    )
    assert report.passed


def test_converted_targets_are_noted():
    report = check_parity(REGRESSOR, X.astype(np.float32), da.from_array(Y * 1.1))
    assert report.passed
    assert "y was converted to float32, as X is" in report.notes


def test_the_seed_is_named_if_the_estimator_has_none():
    report = check_parity(DistributedMLPClassifier((3,)), X, Y)
    assert report.random_state == 0
    assert "random_state=0 was chosen, as the estimator's is no integer" in str(report)
    assert report.passed


def test_parameters_of_fit_are_passed_on():
    with pytest.raises(TypeError, match="X_unknown"):
        check_parity(CLF, X, Y, X_unknown=X)


@pytest.mark.parametrize(
    "estimator", [MLPClassifier(), make_pipeline(StandardScaler(), CLF)]
)
def test_other_estimators_are_refused(estimator):
    with pytest.raises(TypeError, match="check_parity takes a DistributedMLPClass"):
        check_parity(estimator, X, Y)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_epochs": 0}, "n_epochs == 0, must be >= 1"),
        ({"max_workers": 0}, "max_workers == 0, must be >= 1"),
        ({"tolerance": -1e-6}, "tolerance == -1e-06, must be >= 0"),
        ({"engines": ["peer"]}, r"no engines \['peer'\]: pass some of \['local', 'fut"),
    ],
)
def test_invalid_limits_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        check_parity(CLF, X, Y, **params)


def test_an_invalid_number_of_replicas_is_refused():
    clf = DistributedMLPClassifier((7,), n_replicas=0)
    with pytest.raises(ValueError, match="n_replicas == 0, must be >= 1"):
        check_parity(clf, X, Y)


@pytest.mark.parametrize("name", ["n_epochs", "max_workers", "tolerance"])
def test_limits_of_another_type_are_refused(name):
    with pytest.raises(TypeError, match=f"{name} must be an instance of"):
        check_parity(CLF, X, Y, **{name: "many"})


def test_one_engine_and_one_activation_in_a_list_are_understood():
    clf = DistributedMLPClassifier((7, 5), ["relu", "relu"], random_state=0)
    report = check_parity(clf, X, Y, engines="local")
    assert [(row.engine, row.reference) for row in report.rows] == [
        ("local", "scikit-learn")
    ]
    assert report.passed


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"engines": ["peers"]}, r"compare scikit-learn with: engines are \['peers'\]"),
        ({}, "compare local with: scikit-learn has no class_weight='balanced'; eng"),
    ],
)
def test_a_check_of_nothing_is_refused(params, message):
    weights = None if params else "balanced"
    clf = DistributedMLPClassifier((7,), class_weight=weights)
    with pytest.raises(ValueError, match=message):
        check_parity(clf, X, Y, **params)


# On real workers.


@pytest.mark.parametrize("dtype", only_quick(0, cases=[np.float64, np.float32]))
def test_plans_on_real_workers_agree_with_scikit_learn(client, dtype):
    rows = da.from_array(X.astype(dtype), chunks=(20, 5))
    weight = np.linspace(0.5, 2, 60)
    report = check_parity(CLF, rows, Y, weight, n_epochs=2, client=client)
    report.raise_if_failed()
    assert plans(report) == [
        ("local", 1),
        *(("futures", n) for n in (1, 2, 3)),
        *(("peers", n) for n in (1, 2, 3)),
    ]
    assert report.notes == ()


@pytest.mark.parametrize(
    "given", only_quick(1, cases=["parameter", "estimator", "address", "active"])
)
def test_the_client_is_found_wherever_it_is(client, given):
    clf = DistributedMLPClassifier((7,), class_weight="balanced", random_state=0)
    options = {"engines": ["peers"], "max_workers": 2}
    if given == "parameter":
        options["client"] = client
    elif given == "address":
        options["client"] = client.scheduler.address
    elif given == "estimator":
        # Neither the number of workers nor the threshold is asked of the estimator.
        clf.set_params(client=client, n_workers=3, parameter_threshold=10**6)
    if given == "active":
        with client.as_current():
            report = check_parity(clf, X, Y, **options)
    else:
        report = check_parity(clf, X, Y, **options)
    report.raise_if_failed()
    assert plans(report) == [("peers", 1), ("peers", 2)]


def test_replicas_on_real_workers_agree_with_scikit_learn(client):
    clf = DistributedMLPClassifier((7, 5), n_replicas=2, random_state=0)
    report = check_parity(clf, X, Y, engines=["peers"], client=client, max_workers=2)
    report.raise_if_failed()
    assert grids(report) == [("peers", 1, 1), ("peers", 2, 1), ("peers", 2, 2)]


def test_one_layer_is_not_shared(client):
    clf = DistributedMLPClassifier((), random_state=0)
    report = check_parity(clf, X, Y, engines=["peers"], client=client)
    assert plans(report) == [("peers", 1)]
    assert report.passed
