"""Checkpoints of fits on real workers: another engine and cluster may resume them."""

import os
import re

import dask
import dask.array as da
import pytest
from distributed import Client
from numpy.testing import assert_allclose, assert_array_equal

from skdistmlp import ClusterError, DistributedMLPClassifier
from skdistmlp.cluster.peers import driver
from tests.checkpoints.support import KilledError, killed_after
from tests.cluster.dask_processes import DaskProcesses
from tests.cluster.support import WITHIN_S, in_thread, wait_until
from tests.marks import only_quick

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

PARAMETERS = {
    "hidden_layer_sizes": (20, 12),
    "batch_size": 50,
    "max_iter": 8,
    "random_state": 0,
    "n_iter_no_change": 50,
    "parameter_threshold": 0,
    "n_workers": 2,
}
SETTINGS = {
    "skdistmlp.checkpoint.interval": "0s",
    # How long a client waits for a lost scheduler.
    "distributed.comm.timeouts.connect": "1s",
}
ENGINES = "peers", "futures", "local"


@pytest.fixture(scope="module")
def data(digits):
    return digits[0][:300], digits[1][:300]


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch):
    monkeypatch.setattr(driver, "ROUND_S", 0.0)


def classifier(engine, **parameters):
    return DistributedMLPClassifier(engine=engine, **PARAMETERS | parameters)


def killed(clf, X, y):
    with killed_after(4), pytest.raises(KilledError):
        clf.fit(X, y)


def assert_agree(one, other, exactly):
    assert one.n_iter_ == other.n_iter_
    for ours, theirs in zip(
        [*one.coefs_, *one.intercepts_],
        [*other.coefs_, *other.intercepts_],
        strict=True,
    ):
        if exactly:
            assert_array_equal(ours, theirs)
        else:
            assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("first", "second"),
    only_quick(0, 5, 6, cases=[(one, other) for one in ENGINES for other in ENGINES]),
)
def test_another_engine_resumes(first, second, data, tmp_path, client):
    parameters = {
        "client": client,
        "early_stopping": True,
        "dropout": 0.1,
        "ema_decay": 0.9,
    }
    undisturbed = classifier(second, **parameters).fit(*data)
    killed(classifier(first, checkpoint=tmp_path, **parameters), *data)
    resumed = classifier(second, checkpoint=tmp_path, **parameters).fit(*data)
    assert resumed.engine_ == second
    assert_agree(resumed, undisturbed, exactly=first == second)
    assert os.listdir(tmp_path) == []


def test_another_grid_resumes(data, tmp_path, client):
    parameters = {"client": client, "checkpoint": tmp_path}
    killed(classifier("peers", n_replicas=2, **parameters), *data)
    resumed = classifier("peers", **parameters | {"n_workers": 3}).fit(*data)
    assert resumed.plan_.n_workers == 3
    assert_agree(resumed, classifier("local").fit(*data), exactly=False)


def test_lbfgs_on_workers_is_resumed(data, tmp_path, client):
    parameters = {"client": client, "solver": "lbfgs", "max_iter": 12}
    killed(classifier("peers", checkpoint=tmp_path, **parameters), *data)
    clf = classifier("peers", checkpoint=tmp_path, **parameters)
    with pytest.warns(UserWarning, match="after iteration 4, where L-BFGS began again"):
        resumed = clf.fit(*data)
    assert resumed.n_iter_ == 12
    assert resumed.loss_ < 1.5
    assert os.listdir(tmp_path) == []


SHARES = 0.5, 1e-9


@pytest.mark.parametrize(
    ("first", "second"),
    only_quick(1, 2, cases=[(one, other) for one in SHARES for other in SHARES]),
)
def test_a_dask_array_is_known_again(first, second, data, tmp_path, client):
    """In another collection with the same blocks, whose names are others.

    And on another cluster: whether its workers have memory for all blocks, or compute
    them one by one.
    """
    X, y = data

    def blocks():
        return da.concatenate(
            [
                da.from_delayed(dask.delayed(X[n : n + 100]), (100, X.shape[1]), float)
                for n in (0, 100, 200)
            ]
        )

    def with_memory_for(share):
        return dask.config.set({"skdistmlp.rows.memory-share": share})

    def fit(X, **parameters):
        return classifier("peers", client=client, **parameters).fit(X, y)

    assert blocks().name != blocks().name
    with with_memory_for(first):
        killed(classifier("peers", client=client, checkpoint=tmp_path), blocks(), y)
    with with_memory_for(second):
        undisturbed = fit(blocks())
        fit(blocks() * 2, checkpoint=tmp_path)
        assert len(os.listdir(tmp_path)) == 1
        resumed = fit(blocks(), checkpoint=tmp_path)
    # Rows that are streamed are dealt to the workers in another way.
    assert_agree(resumed, undisturbed, exactly=first == second)
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_a_lost_scheduler_leaves_a_checkpoint_that_another_cluster_resumes(
    data, tmp_path
):
    kept = tmp_path / "kept"

    def train(directory):
        directory.mkdir()
        with (
            DaskProcesses(directory, n_workers=2) as processes,
            Client(processes.address) as client,
            dask.config.set(SETTINGS),
        ):
            clf = classifier("peers", client=client, max_iter=60, checkpoint=kept)
            fitting = in_thread(clf.fit, *data)
            yield processes, fitting
            yield fitting.result(WITHIN_S)

    first = train(tmp_path / "first")
    processes, fitting = next(first)
    wait_until(lambda: kept.exists() and any(kept.glob("*.checkpoint")), "it is there")
    processes.kill_scheduler()
    error = fitting.exception(WITHIN_S)
    first.close()
    (file,) = kept.iterdir()
    assert isinstance(error, ClusterError)
    assert any(
        re.fullmatch(
            rf"{re.escape(str(file))} has its state after epoch \d+: fit with the same "
            r"arguments resumes from there\.",
            note,
        )
        for note in error.__notes__
    )
    _, resumed = train(tmp_path / "second")
    assert_agree(resumed, classifier("local", max_iter=60).fit(*data), exactly=False)
