"""Replicas compute rows of each mini-batch, and the answer is scikit-learn's."""

import dask.array as da
import numpy as np
import pytest
from distributed import Client
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.model_selection import GridSearchCV

from skdistmlp import ClusterError, DistributedMLPClassifier
from skdistmlp.cluster.client import workers
from skdistmlp.planning.memory import WorkerMemory
from tests.cluster.leaks import assert_nothing_left, own_cluster, remember
from tests.cluster.support import load
from tests.engines.thread_engine import in_threads
from tests.estimators.configurations import CONFIGURATIONS, Case, pair
from tests.estimators.support import assert_parity, assert_same_network, quiet
from tests.marks import only_quick

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

GRIDS = {
    "1 x 2": (1, 2),
    "2 x 1": (2, 1),
    "2 x 2": (2, 2),
    "3 x 1": (3, 1),
    "2 x 3": (2, 3),
}
"""Replicas and shards."""

NAMED = (
    "defaults",
    "no hidden layer",
    "three hidden layers",
    "lbfgs, weighted",
    "lbfgs, numbers, which stops",
    "early stopping, which stops",
    "early stopping, several labels, weighted",
    "adaptive, which stops",
    "batches of one row",
    "a short last batch",
    "in order, early stopping",
    "strong penalty, weighted",
    "sparse, in order",
    "sparse, poisson",
    "two columns",
)


@pytest.mark.parametrize("grid", only_quick(1, 2, cases=GRIDS))
@pytest.mark.parametrize("name", NAMED)
def test_named_configurations_match_on_grids(name, grid):
    n_replicas, n_shards = GRIDS[grid]
    ours = assert_parity(Case.of(name), shares=n_shards * [1], n_replicas=n_replicas)
    assert ours.n_replicas_ == n_replicas
    assert ours.n_workers_ == n_replicas * (
        1 if name == "no hidden layer" else n_shards
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(CONFIGURATIONS) - set(NAMED)))
def test_every_configuration_matches_on_two_replicas_of_two_shards(name):
    assert_parity(Case.of(name), shares=[1, 1], n_replicas=2)


@pytest.mark.parametrize("grid", only_quick(0, 2, 3, cases=GRIDS))
def test_float32_is_close_after_20_epochs(grid):
    n_replicas, n_shards = GRIDS[grid]
    case = Case.of("defaults", max_iter=20).float32()
    ours, theirs = pair(case.params, shares=n_shards * [1], n_replicas=n_replicas)
    ours.fit(case.X, case.y)
    theirs.fit(case.X, case.y)
    assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-5)
    for mine, his in zip(ours.coefs_, theirs.coefs_, strict=True):
        assert np.linalg.norm(mine - his) <= 1e-5 * np.linalg.norm(his)


def trained(n_replicas, n_shards=2, **params):
    case = Case.of("early stopping, which stops")
    extra = {"dropout": 0.2, "ema_decay": 0.9, "max_grad_norm": 0.5}
    cls = in_threads(DistributedMLPClassifier, n_shards * [1], n_replicas)
    clf = cls(**case.params | extra | params, random_state=0)
    return clf.fit(case.X, case.y)


def test_a_grid_repeats_to_the_bit():
    first, second = trained(3), trained(3)
    for a, b in zip(first.coefs_, second.coefs_, strict=True):
        assert_array_equal(a, b)
    assert first.validation_scores_ == second.validation_scores_


def test_training_continues_on_another_grid():
    """Moments and averages are joined from their parts, and divided again."""
    case = Case.of("defaults")
    params = case.params | {"ema_decay": 0.5, "random_state": 0, "tol": 0.0}
    clf = DistributedMLPClassifier(**params, engine="local")
    for _ in range(6):
        clf.partial_fit(case.X, case.y, classes=np.arange(10))
    moved = DistributedMLPClassifier(**params)
    for n_replicas, n_shards in [(2, 1), (1, 2), (3, 2), (1, 1), (2, 3), (4, 1)]:
        moved.__class__ = in_threads(
            DistributedMLPClassifier, n_shards * [1], n_replicas
        )
        moved.partial_fit(case.X, case.y, classes=np.arange(10))
        assert (moved.n_replicas_, moved.n_workers_) == (
            n_replicas,
            n_replicas * n_shards,
        )
    for name in ("coefs_", "intercepts_"):
        for a, b in zip(getattr(moved, name), getattr(clf, name), strict=True):
            assert_allclose(a, b, rtol=1e-6, atol=1e-9)
    for a, b in zip(
        moved._optimizer_state.arrays, clf._optimizer_state.arrays, strict=True
    ):
        assert_allclose(a, b, rtol=1e-6, atol=1e-9)


@pytest.fixture(scope="module")
def four_workers():
    with own_cluster(n_workers=4) as client:
        client.run(load)
        yield client.cluster


@pytest.fixture
def client(four_workers):
    """A client of four workers; on exit, check for leftovers."""
    with Client(four_workers, set_as_default=False) as connected:
        remember(connected)
        yield connected
        assert_nothing_left(connected)


@pytest.mark.parametrize("n_replicas", [1, 2, 3])
def test_weights_of_a_mini_batch_that_sum_to_zero_are_named(n_replicas):
    """Whichever replica has its rows."""
    case = Case.of("in order", batch_size=len(Case.of("in order").y) - 1)
    clf = in_threads(DistributedMLPClassifier, [1], n_replicas)(**case.params)
    weight = np.ones(len(case.y))
    weight[-1] = 0
    with pytest.raises(ZeroDivisionError, match="Weights sum to zero"):
        clf.fit(case.X, case.y, sample_weight=weight)


def test_an_estimator_of_a_version_without_replicas_had_one():
    case = Case.of("defaults", max_iter=1)
    clf = DistributedMLPClassifier(**case.params).fit(case.X, case.y)
    state = clf.__getstate__()
    del state["n_replicas"], state["n_replicas_"]
    old = DistributedMLPClassifier.__new__(DistributedMLPClassifier)
    old.__setstate__(state)
    assert (old.n_replicas, old.n_replicas_) == (None, 1)


def on_workers(client, case, **params):
    ours, theirs = case.pair(client=client, engine="peers", **params)
    return ours, theirs


@pytest.mark.parametrize("grid", ["1 x 2", "2 x 1", "2 x 2"])
@pytest.mark.parametrize(
    "name",
    only_quick(
        0,
        1,
        cases=[
            "defaults",
            "early stopping, which stops",
            "lbfgs, weighted",
            "sparse, early stopping, weighted",
            "in order",
            "no hidden layer, numbers",
        ],
    ),
)
def test_real_workers_match_scikit_learn(client, name, grid):
    n_replicas, n_shards = GRIDS[grid]
    ours = assert_parity(
        Case.of(name),
        client=client,
        engine="peers",
        n_workers=n_replicas * n_shards,
        n_replicas=n_replicas,
    )
    assert (ours.n_replicas_, ours.engine_) == (n_replicas, "peers")


def test_without_a_number_of_workers_as_many_are_used_as_fit(client):
    """Of a cluster of four workers, three."""
    case = Case.of("defaults")
    ours, _ = on_workers(client, case, n_replicas=3)
    quiet(ours.fit, case.X, case.y)
    assert (ours.n_workers_, ours.n_replicas_) == (3, 3)
    lines = str(ours.plan_).splitlines()
    assert "1 shard in each of 3 replicas" in lines[1]
    assert [line.partition(" on ")[0] for line in lines[3:]] == [
        f"shard 0 of replica {number}" for number in range(3)
    ]


@pytest.mark.slow
def test_a_search_over_replicas_works(client):
    case = Case.of("defaults", max_iter=2)
    clf, _ = on_workers(client, case, n_workers=2)
    search = GridSearchCV(clf, {"n_replicas": [1, 2]}, cv=2)
    quiet(search.fit, case.X, case.y)
    first, second = search.cv_results_["mean_test_score"]
    assert first == second


def scored_by_features(estimator, X, y):
    """Return a score that needs the features of all rows for validation."""
    return float(np.mean((estimator.predict(X) == y) * X[:, 10]))


def test_a_score_may_need_all_rows(client):
    case = Case.of("defaults")
    rows = {"X_val": case.X[:50], "y_val": case.y[:50]}
    fitted = []
    for params in ({"engine": "local"}, {"engine": "peers", "n_replicas": 2}):
        clf = DistributedMLPClassifier(
            **case.params, random_state=0, scoring=scored_by_features, client=client
        )
        fitted.append(clf.set_params(**params).fit(case.X, case.y, **rows))
    alone, ours = fitted
    assert_allclose(ours.validation_scores_, alone.validation_scores_, rtol=1e-9)
    assert ours.plan_.bytes_held[1] > case.X.nbytes


def features_held():
    """Return how many rows the shards here have, and on how many replicas all are."""
    from skdistmlp.cluster.peers import worker as peers_worker

    return [
        (shard._run._dataset.X.shape[0], shard._run._dataset.distribution.n_replicas)
        for shard in list(peers_worker._RUNS.values())
        if shard._run is not None
    ]


@pytest.mark.parametrize("form", ["arrays", "sparse rows", "Dask arrays", "Dask frame"])
def test_each_replica_holds_the_features_of_its_rows_only(client, form):
    case = Case.of("in order, early stopping")
    X, y = case.X, case.y
    if form == "sparse rows":
        X = sparse.csr_matrix(X)
    elif form == "Dask arrays":
        X, y = da.from_array(X, (37, -1)), da.from_array(y, 37)
    elif form == "Dask frame":
        pd, dd = pytest.importorskip("pandas"), pytest.importorskip("dask.dataframe")
        X = dd.from_pandas(pd.DataFrame(X), npartitions=3)
    held = []
    ours, theirs = on_workers(client, case, n_workers=4, n_replicas=2)
    peers = looking(held, client, ours._engines, features_held)
    ours._engines = {**ours._engines, "peers": peers}
    quiet(ours.fit, X, y)
    quiet(theirs.fit, case.X, case.y)
    assert_same_network(ours, theirs)
    assert held == 4 * [[(len(case.X) // 2, 2)]]


def looking(seen, client, engines, look_at):
    """Return an engine that looks, after the first epoch, at each worker."""

    def make(plan, _):
        engine = engines["peers"](plan, client)
        train = engine.train

        def look(*_):
            if not seen:
                seen.extend(client.run(look_at).values())
            return False

        engine.train = lambda job, dataset, *_: train(job, dataset, look)
        return engine

    return make


def test_large_mini_batches_are_shared_by_replicas(client):
    rng = np.random.default_rng(0)
    X, y = rng.uniform(size=(6000, 9)), rng.integers(0, 2, 6000)
    clf = DistributedMLPClassifier(
        (32, 32), batch_size=6000, max_iter=2, engine="peers", n_workers=2
    )
    clf.set_params(client=client, random_state=0).fit(X, y)
    assert clf.n_replicas_ == 2
    alone = DistributedMLPClassifier(
        (32, 32), batch_size=6000, max_iter=2, random_state=0, engine="local"
    ).fit(X, y)
    assert alone.n_replicas_ == 1
    assert_same_network(clf, alone, {"rtol": 1e-6, "atol": 1e-9})


def test_replicas_are_taken_where_shards_have_no_room_for_all_rows(client, monkeypatch):
    """Rows of 100 MB for workers that may take 110, half of it for rows."""
    n_rows = 25_000
    X = np.zeros((n_rows, 1000), np.float32)
    memory = WorkerMemory(110 * 10**6)
    monkeypatch.setattr(
        workers, "worker_memory", lambda _, names: dict.fromkeys(names, memory)
    )
    clf = DistributedMLPClassifier(
        (8, 8), engine="peers", max_iter=1, client=client, n_workers=2
    )
    clf.fit(X, np.arange(n_rows) % 2)
    assert (clf.n_replicas_, clf.n_workers_) == (2, 2)
    assert max(clf.plan_.bytes_held) < memory.free


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"n_replicas": 3, "n_workers": 4},
            "n_replicas=3 does not divide n_workers=4.*leave n_workers out",
        ),
        (
            {"n_replicas": 2, "engine": "futures"},
            "n_replicas=2 has no meaning with engine='futures'.*Use engine='peers'",
        ),
        (
            {"n_replicas": 4, "batch_size": 3},
            "n_replicas=4 is more than the 3 rows of a mini-batch.*raise batch_size",
        ),
        (
            {"n_replicas": 500, "solver": "lbfgs"},
            r"n_replicas=500 is more than the 240 rows of X.* Lower n_replicas\.$",
        ),
        ({"n_replicas": 0}, "'n_replicas' parameter of .* an int in the range"),
    ],
)
def test_numbers_of_replicas_that_do_not_fit_are_refused(client, params, message):
    case = Case.of("defaults")
    clf, _ = on_workers(client, case)
    with pytest.raises(ValueError, match=message):
        clf.set_params(**params).fit(case.X, case.y)


def test_more_replicas_than_workers_are_refused(client):
    case = Case.of("defaults")
    clf, _ = on_workers(client, case, n_replicas=50)
    with pytest.raises(ClusterError, match=r"n_replicas=50 needs at least 50 workers"):
        clf.fit(case.X, case.y)


@pytest.mark.usefixtures("not_yet_warned")
def test_without_a_client_replicas_are_missed():
    case = Case.of("defaults", max_iter=1)
    clf = DistributedMLPClassifier(**case.params, engine="peers", n_replicas=2)
    with pytest.warns(UserWarning, match="needs a cluster"):
        clf.fit(case.X, case.y)
    assert (clf.engine_, clf.n_replicas_, clf.n_workers_) == ("local", 1, 1)
