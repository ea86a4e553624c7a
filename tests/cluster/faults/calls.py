"""Faults that concern a whole call: a fit or a prediction, by engine."""

import multiprocessing
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
from distributed import Client

from skdistmlp import ClusterError, DistributedMLPClassifier, ExchangeError
from tests.cluster.faults.clusters import LONG_TIMEOUT, SETTINGS, Data
from tests.cluster.faults.fits import FitOutcome
from tests.cluster.faults.table import SHORT, Cells, Expected, each
from tests.cluster.forked import ForkedProcesses
from tests.cluster.leaks import assert_nothing_left, remember
from tests.cluster.partition import HOSTS, blocked, cluster_with_hosts
from tests.cluster.support import in_thread

BOUND_S = 60.0
"""Seconds after which a call counts as hanging; not a measure of speed."""


@dataclass(frozen=True)
class Call:
    """A fit or a prediction with an engine.

    Attributes
    ----------
    method : {"fit", "predict"}
        What is called.
    engine : str
        Of the estimator.
    """

    method: str
    engine: str

    def __str__(self) -> str:
        return f"{self.method}, {self.engine}"

    def outcome(self, data: Data, **parameters: Any) -> FitOutcome:
        """Return how it ends: parameters or predictions, or the error.

        Without parameters, such as the client and the engine, it needs no cluster.
        """
        clf = DistributedMLPClassifier(
            (20, 9),
            batch_size=100,
            max_iter=2,
            random_state=0,
            parameter_threshold=0,
            engine="local",
        )
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                if self.method == "fit":
                    returned = clf.set_params(**parameters).fit(*data).coefs_
                else:
                    clf.fit(*data).set_params(**parameters)
                    returned = [clf.predict(data[0])]
            except BaseException as error:
                notes = getattr(error, "__notes__", [])
                return FitOutcome(type(error), "\n".join([str(error), *notes]))
        return FitOutcome(None, "\n".join(str(w.message) for w in warned), returned)

    def timed_outcome(self, client: Client, data: Data) -> tuple[FitOutcome, float]:
        """Return how it ends on a cluster, and after how many seconds."""
        return timed(
            in_thread(self.outcome, data, client=client, engine=self.engine).result
        )

    def assert_right(self, outcome: FitOutcome, data: Data) -> None:
        """Check that it returned what it returns without a cluster."""
        assert outcome.error is None, outcome.text
        expected = self.outcome(data)
        for mine, other in zip(outcome.values, expected.values, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-12)

    def assert_goes_on(self, client: Client, data: Data) -> None:
        """Check that nothing is left behind, and that the same call is right now."""
        assert_nothing_left(client)
        with dask.config.set(LONG_TIMEOUT):
            self.assert_right(self.timed_outcome(client, data)[0], data)
        assert_nothing_left(client)


def timed(result: Callable[[float], FitOutcome]) -> tuple[FitOutcome, float]:
    """Wait for an outcome, not forever; return it, and the seconds that it took."""
    begun = time.monotonic()
    return result(BOUND_S), time.monotonic() - begun


CALLS = {
    str(call): call
    for method in ("fit", "predict")
    for engine in ("peers", "futures")
    for call in [Call(method, engine)]
}
"""Each call by its name on the page."""

FIT_PEERS, FIT_FUTURES, PREDICT_PEERS, PREDICT_FUTURES = CALLS


@dataclass(frozen=True)
class CallFault:
    """One row of the table.

    Attributes
    ----------
    name : str
        Its name on the page.
    inflict : callable
        Makes a call amid the fault, and checks that the cluster goes on; returns how
        the call ended, and after how many seconds.
    cells : dict
        By call, the expected outcome, or why the fault cannot occur.
    often : tuple of str
        Calls that are tried with the other tests.
    """

    name: str
    inflict: Callable[[Call, Data, Path], tuple[FitOutcome, float]]
    cells: Cells
    often: tuple[str, ...]


def keep_workers_apart(
    call: Call, data: Data, directory: Path
) -> tuple[FitOutcome, float]:
    """Let the second of two workers not connect to the first."""
    with (
        cluster_with_hosts(directory, SETTINGS) as cluster,
        Client(cluster.address, set_as_default=False) as client,
    ):
        remember(client)
        first, second = sorted(client.nthreads())
        with dask.config.set(SETTINGS | SHORT), blocked(client, second, first):
            outcome, seconds = call.timed_outcome(client, data)
        call.assert_goes_on(client, data)
    return outcome, seconds


def stop_scheduler(call: Call, data: Data, directory: Path) -> tuple[FitOutcome, float]:
    """Suspend the scheduler, and resume it when the call has ended."""
    with (
        ForkedProcesses(directory, SETTINGS) as cluster,
        Client(cluster.address, set_as_default=False) as client,
    ):
        cluster.have_workers(2)
        remember(client)
        with dask.config.set(SETTINGS | SHORT), cluster.stopped_scheduler():
            outcome, seconds = call.timed_outcome(client, data)
        call.assert_goes_on(client, data)
    return outcome, seconds


def fork_client(call: Call, data: Data, directory: Path) -> tuple[FitOutcome, float]:
    """Call in a process that was forked from that of the client."""
    here, there = multiprocessing.Pipe(duplex=False)
    with (
        ForkedProcesses(directory, SETTINGS) as cluster,
        Client(cluster.address, set_as_default=False) as client,
    ):
        cluster.have_workers(2)
        remember(client)
        call.assert_goes_on(client, data)

        def run() -> None:
            outcome = call.outcome(data, client=client, engine=call.engine)
            there.send((outcome.error, outcome.text, outcome.values))

        process = multiprocessing.get_context("fork").Process(target=run)
        with warnings.catch_warnings():
            # Python's own, of forks in processes with several threads.
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()

        def result(bound_s: float) -> FitOutcome:
            assert here.poll(bound_s), "the forked process waits forever"
            return FitOutcome(*here.recv())

        try:
            outcome, seconds = timed(result)
        finally:
            process.kill()
            process.join()
        call.assert_goes_on(client, data)
    return outcome, seconds


def start_threads_in_task(
    call: Call, data: Data, directory: Path
) -> tuple[FitOutcome, float]:
    """Call in a thread that a task has started, on the thread's own cluster."""

    def task() -> FitOutcome:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(call.outcome, data, engine=call.engine).result()

    with (
        ForkedProcesses(directory, SETTINGS) as cluster,
        Client(cluster.address, set_as_default=False) as client,
    ):
        cluster.have_workers(2)
        remember(client)
        outcome, seconds = timed(client.submit(task, pure=False).result)
        call.assert_goes_on(client, data)
    return outcome, seconds


RIGHT = Expected(None)

CALL_FAULTS = [
    CallFault(
        "workers that cannot reach each other",
        keep_workers_apart,
        {
            FIT_PEERS: Expected(
                ExchangeError,
                (
                    rf"no connection between shard 0 on tcp://{HOSTS[0]}:\d+ and "
                    rf"shard 1 on tcp://{HOSTS[1]}:",
                ),
            ),
            PREDICT_PEERS: RIGHT,
        }
        | each(
            Expected(
                ExchangeError,
                (
                    rf"{HOSTS[1]}:\d+ could not connect to worker tcp://{HOSTS[0]}:",
                    "while (training|predicting)",
                ),
                within_s=15.0,
            ),
            FIT_FUTURES,
            PREDICT_FUTURES,
        ),
        often=(FIT_FUTURES,),
    ),
    CallFault(
        "scheduler stopped before the call",
        stop_scheduler,
        {PREDICT_PEERS: RIGHT}
        | each(
            Expected(ClusterError, ("the scheduler at tcp://.* has not answered",)),
            FIT_PEERS,
            FIT_FUTURES,
            PREDICT_FUTURES,
        ),
        often=(),
    ),
    CallFault(
        "client forked",
        fork_client,
        {PREDICT_PEERS: RIGHT}
        | each(
            Expected(None, ("no Dask client is active",), "local, with a warning"),
            FIT_PEERS,
            FIT_FUTURES,
        )
        | {PREDICT_FUTURES: Expected(None, (), "local")},
        often=(),
    ),
    CallFault(
        "threads in a task",
        start_threads_in_task,
        {PREDICT_PEERS: RIGHT}
        | each(
            Expected(ClusterError, ("cannot wait for a cluster in this thread",)),
            FIT_PEERS,
            FIT_FUTURES,
            PREDICT_FUTURES,
        ),
        often=(),
    ),
]

CTRL_C = "Ctrl-C with a local cluster"
"""A row that is tested separately, since it needs a terminal."""
