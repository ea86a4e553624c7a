"""Clusters for the tests, and the check after each test."""

import logging
import signal
from collections.abc import Iterator

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster
from hypothesis import settings
from sklearn.datasets import load_digits

from skdistmlp.cluster.client import rpc
from skdistmlp.cluster.data import dask_collections
from skdistmlp.cluster.peers import departures, driver
from skdistmlp.cluster.run import placement, scatter
from skdistmlp.engines import choice
from tests.cluster.leaks import assert_nothing_left, remember
from tests.cluster.support import load
from tests.sklearn_versions import BEFORE_1_9, stop_early_with_strings

collect_ignore = (
    [
        "cluster/fits/test_callbacks.py",
        "estimators/test_callbacks.py",
        "test_optuna_example.py",
    ]
    if BEFORE_1_9
    else []
)
stop_early_with_strings()

# Errors of lost workers are tested where no fit goes on after them. Tests of those that
# do say so.
dask.config.set({"skdistmlp.max-recoveries": 0})

# Many tests wait until a lost or paused worker is noticed. A check costs a message.
# Not in other modules: there it is how long the scheduler has to notice a loss, which
# may be more than 0.2 s on a busy machine.
for waiting in (rpc, dask_collections, departures, driver, placement, scatter):
    waiting.WORKER_CHECK_S = 0.2

# A shell has what it starts in the background ignore SIGINT, as would all processes
# of the tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples each time; `--hypothesis-profile=searching` looks for new ones.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("searching", deadline=None, max_examples=1000)
settings.load_profile("repeatable")


@pytest.fixture
def not_yet_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is said once per process be said, whichever tests ran before."""
    monkeypatch.setattr(choice, "_warned", set())


@pytest.fixture
def all_logs(
    caplog: pytest.LogCaptureFixture,
) -> Iterator[pytest.LogCaptureFixture]:
    """`caplog`, with what Dask, Bokeh and Tornado log.

    Dask keeps that from the root logger, on which pytest listens.
    """
    known = list(logging.root.manager.loggerDict.values())
    separate = [
        each
        for each in known
        if isinstance(each, logging.Logger) and not each.propagate
    ]
    for logger in separate:
        logger.addHandler(caplog.handler)
    yield caplog
    for logger in separate:
        logger.removeHandler(caplog.handler)


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Features in [0, 1], float64, and ten classes."""
    X, y = load_digits(return_X_y=True)
    return X / 16, y


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    """Three one-thread workers, each a process; tests must not harm them."""
    with LocalCluster(
        n_workers=3, threads_per_worker=1, dashboard_address="127.0.0.1:0"
    ) as running:
        with Client(running, set_as_default=False) as client:
            client.run(load)
        yield running


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    """A client that is not the active one; on exit, check for leftovers."""
    with Client(cluster, set_as_default=False) as connected:
        remember(connected)
        yield connected
        assert_nothing_left(connected)
