"""Common deployments: adaptive scaling, resources, scheduler files."""

import json
import os
import signal
import time

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster
from numpy.testing import assert_allclose

from tests.cluster.dask_processes import DaskProcesses
from tests.cluster.peers.test_driver import (
    assert_as_scikit_learn,
    classifier,
    endless,
    steps_taken,
)
from tests.cluster.support import bounded, in_thread, transitions, wait_until
from tests.conftest import assert_nothing_left
from tests.marks import only_quick

WAITING = {
    "skdistmlp.max-recoveries": 3,
    "skdistmlp.recovery-wait": "3s",
    # An adaptive cluster would keep a worker for what is cached there.
    "skdistmlp.cache.max-bytes": 0,
}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def data(digits):
    X, y = digits
    return X[:300], y[:300]


def started(**options):
    return LocalCluster(
        threads_per_worker=1, dashboard_address="127.0.0.1:0", **options
    )


def have_nannies_rest(cluster):
    """Let no worker that is lost be restarted."""

    async def do_nothing():
        pass

    for nanny in cluster.workers.values():
        nanny.instantiate = do_nothing


@pytest.mark.slow
def test_an_adaptive_cluster_keeps_the_workers_in_use(data):
    """It retires an idle one; a new one joins the next fit."""
    with started(n_workers=3) as cluster, Client(cluster) as client:
        clf = endless(client, n_workers=2)
        fit = in_thread(clf.fit, *data)
        wait_until(lambda: steps_taken(client), "training has begun")
        adaptive = cluster.adapt(
            minimum=0, maximum=3, interval="50ms", wait_count=1, target_duration="1h"
        )
        wait_until(lambda: len(client.nthreads()) == 2, "the idle one is retired")
        before = steps_taken(client)
        wait_until(lambda: steps_taken(client) > before + 100, "training goes on")
        adaptive.stop()

        def stop():
            from skdistmlp.cluster.peers import worker as peers_worker

            for shard in list(peers_worker._RUNS.values()):
                shard.request_stop()

        client.run(stop)
        with pytest.warns(UserWarning, match="interrupted"):
            bounded(fit.result)
        assert set(clf.plan_.workers) == set(client.nthreads())
        cluster.scale(3)
        client.wait_for_workers(3, timeout=60)
        after = bounded(classifier(client, n_workers=None).fit, *data)
        assert after.n_workers_ == 3
        assert_as_scikit_learn(after, data)
        assert_nothing_left(client)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["peers", "futures"])
def test_an_adaptive_cluster_keeps_the_workers_of_a_fit_that_waits(data, engine):
    """For another in the place of a lost one: until then they are idle."""
    with (
        dask.config.set(WAITING),
        started(n_workers=3) as cluster,
        Client(cluster) as client,
    ):
        clf = classifier(client, n_workers=3, tol=0.0, n_iter_no_change=np.inf)
        clf.set_params(engine=engine, max_iter={"peers": 500, "futures": 20}[engine])
        have_nannies_rest(cluster)
        pids = client.run(os.getpid)
        victim = next(iter(pids))
        fit = in_thread(clf.fit, *data)
        if engine == "peers":
            wait_until(lambda: steps_taken(client, n_shards=3), "it trains", fit)
        else:
            wait_until(lambda: len(transitions(client)) > 100, "it trains", fit)
        adaptive = cluster.adapt(
            minimum=0, maximum=3, interval="50ms", wait_count=1, target_duration="1h"
        )
        os.kill(pids[victim], signal.SIGKILL)
        n_present = set()

        def count_workers():
            while not fit.done():
                n_present.add(len(client.nthreads()))
                time.sleep(0.01)
            fit.result()

        with pytest.warns(UserWarning, match="recovered from faults"):
            count_workers()
        (recovery,) = clf.recoveries_
        assert recovery.waited_s >= 3.0
        assert recovery.lost == (victim,)
        assert min(n_present) == 2
        # Nothing keeps them any more.
        wait_until(lambda: not client.nthreads(), "all are retired")
        adaptive.stop()


@pytest.mark.slow
def test_a_worker_that_is_retired_while_a_fit_waits_was_not_lost(data):
    with (
        dask.config.set(WAITING),
        started(n_workers=3) as cluster,
        Client(cluster) as client,
    ):
        clf = classifier(client, n_workers=3, max_iter=500, tol=0.0)
        clf.set_params(n_iter_no_change=np.inf)
        have_nannies_rest(cluster)
        pids = client.run(os.getpid)
        victim, retired, last = pids
        fit = in_thread(clf.fit, *data)
        wait_until(lambda: steps_taken(client, n_shards=3), "training has begun", fit)
        os.kill(pids[victim], signal.SIGKILL)
        wait_until(lambda: not any(client.processing().values()), "it waits", fit)
        client.retire_workers([retired])
        with pytest.warns(UserWarning, match=f"{retired} was being retired meanwhile"):
            bounded(fit.result)
        (recovery,) = clf.recoveries_
        assert recovery.workers == (last,)
        assert dict(zip(recovery.lost, recovery.kinds, strict=True)) == {
            victim: "lost",
            retired: "retired",
        }
        assert_nothing_left(client)


@pytest.mark.slow
def test_resources_and_annotations_do_not_interfere(data):
    with (
        started(n_workers=2, resources={"memory": 1}) as cluster,
        Client(cluster) as client,
    ):

        def annotated():
            with dask.annotate(resources={"memory": 1}, priority=5):
                return classifier(client).fit(*data)

        assert_as_scikit_learn(bounded(annotated), data)
        assert_nothing_left(client)


def test_a_cluster_is_found_by_its_scheduler_file(client, data, tmp_path):
    contact = tmp_path / "scheduler.json"
    contact.write_text(json.dumps({"address": client.scheduler.address}))
    with Client(scheduler_file=str(contact), set_as_default=False) as other:
        assert_as_scikit_learn(bounded(classifier(other).fit, *data), data)


@pytest.mark.parametrize("engine", only_quick(0, cases=["peers", "futures"]))
@pytest.mark.slow
def test_workers_with_several_threads_share_a_network(data, engine):
    """Two workers with two threads each give two shards with two threads each."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=2, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        clf = classifier(client).set_params(engine=engine)
        local = classifier(None).set_params(engine="local").fit(*data)
        bounded(clf.fit, *data)
        assert clf.n_workers_ == 2
        for mine, other in zip(clf.coefs_, local.coefs_, strict=True):
            assert_allclose(mine, other, rtol=1e-6, atol=1e-12)
        np.testing.assert_array_equal(clf.predict(data[0]), local.predict(data[0]))
        assert_nothing_left(client)


def test_workers_with_different_speed_share_a_network(tmp_path, data):
    """The one with more threads holds more neurons; the result stays the same."""
    with (
        DaskProcesses(tmp_path, n_workers=1) as processes,
        Client(processes.address, set_as_default=False) as client,
    ):
        processes.have_workers(2, n_threads=3)
        n_threads = client.nthreads()
        for engine in ("peers", "futures"):
            clf = bounded(classifier(client).set_params(engine=engine).fit, *data)
            assert {
                n_threads[worker]: [
                    len(layer[rank]) for layer in clf.plan_.split.ranges
                ]
                for rank, worker in enumerate(clf.plan_.workers)
            } == {1: [5, 2], 3: [15, 7]}
            assert_as_scikit_learn(clf, data)
        assert_nothing_left(client)
