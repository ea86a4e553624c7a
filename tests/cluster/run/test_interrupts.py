"""Workers ignore Ctrl-C while a run lasts, if they are processes of this one."""

import os
import signal
import subprocess
import sys
import threading
import time

import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster

from skdistmlp import DistributedMLPClassifier
from skdistmlp.cluster.run import interrupts
from skdistmlp.cluster.run.interrupts import (
    InterruptShield,
    heed_interrupts,
    ignore_interrupts,
    own_workers,
    shielded_from_interrupts,
)
from skdistmlp.timeouts import PING_ANSWER_S
from tests.cluster.leaks import own_cluster
from tests.cluster.support import WITHIN_S, bounded, in_thread, wait_until


@pytest.fixture
def workers(client):
    return tuple(client.nthreads())


def handlers(client):
    """Return what each worker does at SIGINT."""
    return client.run(lambda: repr(signal.getsignal(signal.SIGINT)))


def is_shielded(client):
    return all("_on_interrupt" in handler for handler in handlers(client).values())


def press_ctrl_c(client):
    """Send SIGINT to every worker's process; return their answers after that."""
    for pid in client.run(os.getpid).values():
        os.kill(pid, signal.SIGINT)
    return client.run(os.getpid)


def test_shielded_workers_survive_an_interrupt(client, workers):
    before = handlers(client)
    with shielded_from_interrupts(client, workers):
        assert is_shielded(client)
        assert press_ctrl_c(client).keys() == set(workers)
    assert handlers(client) == before


def test_shields_overlap(client, workers):
    before = handlers(client)
    first, second = (InterruptShield(client, workers) for _ in range(2))
    first.open()
    second.open()
    first.close()
    assert press_ctrl_c(client).keys() == set(workers)
    # As after an interrupt in the middle of the first.
    first.close()
    assert is_shielded(client)
    second.close()
    assert handlers(client) == before


def test_a_shield_is_closed_although_its_client_is(cluster, client, workers):
    before = handlers(client)
    with Client(cluster, set_as_default=False) as other:
        shield = InterruptShield(other, workers)
        shield.open()
    assert is_shielded(client)
    shield.close()
    assert handlers(client) == before


def test_a_closed_shield_is_not_opened(client, workers):
    before = handlers(client)
    shield = InterruptShield(client, workers)
    bounded(client.run, heed_interrupts, shield._name)
    shield.open()
    assert handlers(client) == before


def test_a_shield_does_not_wait_long_for_a_worker_that_hangs(
    client, workers, monkeypatch
):
    monkeypatch.setattr(interrupts, "PING_ANSWER_S", 0.5)
    pid = client.run(os.getpid, workers=workers[:1])[workers[0]]
    shield = InterruptShield(client, workers)
    os.kill(pid, signal.SIGSTOP)
    try:
        bounded(shield.open)
        bounded(shield.close)
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not is_shielded(client), "the worker has heard of both")


def test_workers_that_are_known_to_hang_are_not_waited_for(client, workers):
    pid = client.run(os.getpid, workers=workers[:1])[workers[0]]
    shield = InterruptShield(client, workers)
    shield.open()
    os.kill(pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        bounded(shield.close, workers[:1])
        assert time.monotonic() - begun < PING_ANSWER_S
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(
        lambda: "_on_interrupt" not in str(handlers(client)), "all have heard of it"
    )


def test_a_worker_that_was_killed_is_not_called(monkeypatch):
    called, run_directly = [], interrupts.run_directly

    def run(names, *args):
        called.append(list(names))
        return run_directly(names, *args)

    with own_cluster(n_workers=2) as client:
        workers = tuple(client.nthreads())
        shield = InterruptShield(client, workers)
        shield.open()
        pid = client.run(os.getpid, workers=workers[:1])[workers[0]]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: workers[0] not in client.nthreads(), "it is gone")
        monkeypatch.setattr(interrupts, "run_directly", run)
        bounded(shield.close)
    assert called == [[workers[1]]]


def test_threads_of_this_process_are_left_alone():
    before = signal.getsignal(signal.SIGINT)
    with (
        LocalCluster(
            n_workers=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
        shielded_from_interrupts(client, tuple(client.nthreads())),
    ):
        assert not own_workers(client, tuple(client.nthreads()))
        client.run(ignore_interrupts, "a shield", os.getpid())
        assert signal.getsignal(signal.SIGINT) is before


DETACHED = """
import subprocess, sys
subprocess.Popen([sys.executable, *sys.argv[1:]], start_new_session=True)
"""
"""Starts Python, and ends: whoever runs this is no ancestor of what it starts."""


def test_workers_of_others_are_left_alone(tmp_path):
    with (
        LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        worker = f"worker {cluster.scheduler_address} --no-nanny --death-timeout 60"
        subprocess.run(
            [sys.executable, "-c", DETACHED, "-m", "dask", *worker.split()],
            cwd=tmp_path,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        client.wait_for_workers(1, timeout=WITHIN_S)
        workers = tuple(client.nthreads())
        assert not own_workers(client, workers)
        before = handlers(client)
        with shielded_from_interrupts(client, workers):
            assert handlers(client) == before
        # A worker that ends with its scheduler would wait for it to come back.
        client.retire_workers(workers)


def test_a_worker_that_has_outlived_the_client_heeds_an_interrupt():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    before = signal.getsignal(signal.SIGINT)
    ignore_interrupts("shield of a living client", os.getpid())
    ignore_interrupts("shield of a dead client", ended.pid)
    signal.raise_signal(signal.SIGINT)
    heed_interrupts("shield of a living client")
    ignore_interrupts("another of a dead client", ended.pid)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_can_only_be_ignored_in_a_main_thread():
    before = signal.getsignal(signal.SIGINT)
    in_thread(ignore_interrupts, "a shield", os.getpid()).result(WITHIN_S)
    assert signal.getsignal(signal.SIGINT) is before
    assert not interrupts._CLIENTS


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("method", ["fit", "score"])
def test_workers_are_shielded_while_they_compute_the_rows(client, method):
    def checked(block):
        assert threading.current_thread() is not threading.main_thread()
        assert "_on_interrupt" in repr(signal.getsignal(signal.SIGINT))
        return block

    rows, y = np.eye(20), np.arange(20) % 2
    X = da.from_array(rows, chunks=(10, 20)).map_blocks(checked, meta=np.eye(1))
    clf = DistributedMLPClassifier(
        hidden_layer_sizes=(4,), max_iter=1, parameter_threshold=0, engine="local"
    )
    clf.fit(rows, y).set_params(client=client, engine="peers")
    bounded(getattr(clf, method), X, y)
    assert not is_shielded(client)
