"""Faults that concern a whole call: a fit or a prediction, by engine."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import dask
import numpy as np
from distributed import Client
from sklearn.exceptions import ConvergenceWarning

from skdistmlp import ClusterError, DistributedMLPClassifier, ExchangeError
from tests.cluster.faults.clusters import LONG_TIMEOUT, SETTINGS, Data
from tests.cluster.faults.gates import FitOutcome
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

    def outcome(self, client: Client | None, data: Data) -> FitOutcome:
        """Return how it ends: parameters or predictions, or the error."""
        clf = DistributedMLPClassifier(
            (20, 9),
            batch_size=100,
            max_iter=2,
            random_state=0,
            parameter_threshold=0,
            engine="local",
        )
        cluster = {"client": client, "engine": self.engine} if client else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            try:
                if self.method == "fit":
                    fitted = clf.set_params(**cluster).fit(*data)
                    return FitOutcome(None, "", fitted.coefs_)
                fitted = clf.fit(*data).set_params(**cluster)
                return FitOutcome(None, "", [fitted.predict(data[0])])
            except BaseException as error:
                notes = getattr(error, "__notes__", [])
                return FitOutcome(type(error), "\n".join([str(error), *notes]))

    def timed_outcome(self, client: Client, data: Data) -> tuple[FitOutcome, float]:
        """Return how it ends, and after how many seconds; do not wait forever."""
        begun = time.monotonic()
        outcome = in_thread(self.outcome, client, data).result(BOUND_S)
        return outcome, time.monotonic() - begun

    def assert_right(self, outcome: FitOutcome, data: Data) -> None:
        """Check that it returned what it returns without a cluster."""
        assert outcome.error is None, outcome.text
        expected = self.outcome(None, data)
        for mine, other in zip(outcome.coefs, expected.coefs, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-12)

    def assert_goes_on(self, client: Client, data: Data) -> None:
        """Check that nothing is left behind, and that the same call is right now."""
        assert_nothing_left(client)
        with dask.config.set(LONG_TIMEOUT):
            self.assert_right(self.timed_outcome(client, data)[0], data)
        assert_nothing_left(client)


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
]

CTRL_C = "Ctrl-C with a local cluster"
"""A row with a test of its own: it takes a terminal."""
