"""Clusters for fault injection, and fits on them that are held at a given point."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
import numpy as np
from distributed import Client, LocalCluster

from skdistmlp.cluster.client.workers import known_workers
from tests.cluster.faults import gates
from tests.cluster.faults.fits import (
    ONCE,
    FitOutcome,
    Training,
    classifier,
    outcome_of_fit,
)
from tests.cluster.faults.gates import BETWEEN, IDLE, Gate
from tests.cluster.forked import CONTEXT, ForkedProcesses, fork, start_server
from tests.cluster.support import WITHIN_S, in_thread, wait_until

SETTINGS = {
    "distributed.worker.multiprocessing-method": "forkserver",
    # Every fit sends its rows, and caches none.
    "skdistmlp.cache.max-bytes": 0,
}

MEMORY_LIMIT_BYTES = 700 * 2**20
"""Memory limit of the workers that have nannies."""

LONG_TIMEOUT = {"skdistmlp.exchange-timeout": "60s"}
"""For cases in which the timeout must not expire."""

FREE_WITHIN_S = 8.0
"""How long a worker may take to release everything; not a measure of speed."""

Data = tuple[np.ndarray, np.ndarray]


class NannyCluster:
    """Workers whose nannies restart them, and kill them at a memory limit."""

    def __enter__(self) -> NannyCluster:
        start_server()
        with dask.config.set(
            {"distributed.worker.multiprocessing-method": "forkserver"}
        ):
            self._cluster = LocalCluster(
                n_workers=3,
                threads_per_worker=1,
                memory_limit=MEMORY_LIMIT_BYTES,
                dashboard_address="127.0.0.1:0",
            )
        self.address = self._cluster.scheduler_address
        return self

    def __exit__(self, *exception: Any) -> None:
        self._cluster.close()

    def have_workers(self, n_workers: int) -> None:
        """Wait for the workers."""
        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(n_workers, timeout=WITHIN_S)

    def forget_gone(self, present: Any) -> None:
        """Leave it to the nannies."""

    def print_output(self) -> None:
        """Leave it to pytest: nannies log to this process."""


class Clusters:
    """Clusters of three workers that tests share, until one of them fails.

    A context: leaving it ends them.
    """

    def __init__(self, make_directory: Callable[[], Path]) -> None:
        self._make_directory = make_directory
        self._running: dict[str, Any] = {}
        self._undisturbed: dict[tuple[int, int], FitOutcome] = {}

    def __enter__(self) -> Clusters:
        return self

    def __exit__(self, *exception: Any) -> None:
        for kind in list(self._running):
            self.end(kind)

    @contextmanager
    def borrowed(self, kind: str, n_workers: int = 3) -> Iterator[Any]:
        """Lend a cluster with all its workers; end it if the test fails."""
        if kind not in self._running:
            cluster: Any = NannyCluster()
            if not kind.startswith("nannies"):
                n_threads = 2 if kind.startswith("two threads") else 1
                cluster = ForkedProcesses(self._make_directory(), SETTINGS, n_threads)
            self._running[kind] = cluster.__enter__()
        try:
            self._running[kind].have_workers(n_workers)
            yield self._running[kind]
        except BaseException:
            self._running[kind].print_output()
            self.end(kind)
            raise

    def end(self, kind: str) -> None:
        """End a cluster; the next test that needs it gets a new one."""
        self._running.pop(kind).__exit__(None, None, None)

    def undisturbed(self, scenario: Scenario) -> FitOutcome:
        """Return how the fit of a scenario ends without a fault, on any workers."""
        if scenario.grid not in self._undisturbed:
            outcome = scenario.new_fit().result(WITHIN_S)
            assert outcome.error is None, outcome.text
            self._undisturbed[scenario.grid] = outcome
        return self._undisturbed[scenario.grid]


def assert_right(outcome: FitOutcome, data: Data) -> None:
    """Check that the parameters equal those of a local fit."""
    assert outcome.error is None, outcome.text
    expected = outcome_of_fit(classifier(None), *data)
    for mine, other in zip(outcome.values, expected.values, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-12)


class FitInThread:
    """A fit in this process."""

    def __init__(
        self,
        client: Client,
        data: Data,
        n_workers: int = 3,
        n_replicas: int = 1,
        training: Training = ONCE,
    ) -> None:
        clf = classifier(client, n_workers, n_replicas, training)
        self._future: Future[FitOutcome] = in_thread(outcome_of_fit, clf, *data)

    def has_ended(self) -> bool:
        """Say whether there is a result."""
        return self._future.done()

    def result(self, timeout_s: float) -> FitOutcome:
        """Return how the fit ended."""
        return self._future.result(timeout_s)

    def close(self) -> None:
        """Do nothing."""


class FitInProcess:
    """A fit in a separate client process, which may be interrupted and killed."""

    def __init__(self, *args: Any) -> None:
        self._connection, theirs = CONTEXT.Pipe()
        self._process = fork(gates.fit_and_report, theirs, *args)
        theirs.close()

    def signal(self, number: int) -> None:
        """Send the process a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def has_ended(self) -> bool:
        """Say whether there is a result."""
        return self._connection.poll()

    def result(self, timeout_s: float) -> FitOutcome:
        """Return how the fit ended; the client stays connected."""
        if not self._connection.poll(timeout_s):
            raise TimeoutError
        try:
            outcome: FitOutcome = self._connection.recv()
        except EOFError:
            self._process.join()
            outcome = FitOutcome(
                None, signal.Signals(-(self._process.exitcode or 0)).name
            )
        return outcome

    def close(self) -> None:
        """Tell the client to end, and kill it if it does not."""
        if self._process.is_alive():
            self._connection.send("end")
            self._process.join(10)
        self._process.kill()
        self._process.join()
        self._connection.close()


@dataclass
class Scenario:
    """A fit that is held at the point where a fault is injected.

    Attributes
    ----------
    cluster : ForkedProcesses or NannyCluster
        Where the fit runs.
    client : Client
        A client that no fault affects.
    data : tuple
        Rows and targets of the fit.
    phase : str
        Where the fit is held.
    rank : int
        Shard on the victim.
    victim : str
        Address of the worker that the fault affects.
    gate : Gate
        Where the victim, or the client of the fit, is held.
    fit : FitInThread or FitInProcess
        The fit.
    victim_is_held : bool
        Whether the victim is held, rather than the client.
    grid : (int, int)
        Number of workers, and of replicas.
    training : Training
        What is trained, and when it is held.
    losses : list of set of str
        Workers that are lost at the same time, one after another.
    """

    cluster: Any
    client: Client
    data: Data
    phase: str
    rank: int
    victim: str
    gate: Gate
    fit: Any = None
    victim_is_held: bool = False
    grid: tuple[int, int] = (3, 1)
    training: Training = ONCE
    losses: list[set[str]] = field(init=False)
    _cleanups: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.losses = [{self.victim}]
        pids = self.client.run(os.getpid)
        self._pids = {worker: pids[worker] for worker in self.client.nthreads()}

    @property
    def workers(self) -> tuple[str, ...]:
        """The workers of the fit, by rank, and then those that it leaves out."""
        return tuple(self._pids)

    @contextmanager
    def started(
        self, in_process: bool = False, held: str = "", n_times: int = 1
    ) -> Iterator[None]:
        """Start the fit and wait until it is held.

        Parameters
        ----------
        in_process : bool
            Whether the client runs in a separate process.
        held : {"client", "victim", ""}
            Which side is held; by default the client where workers are idle.
        n_times : int
            How many times the client is held.
        """
        client_is_held = held == "client" or (not held and self.phase in IDLE)
        self.victim_is_held = not client_is_held
        with ExitStack() as stage:
            in_rounds = self.training.in_rounds
            if (in_rounds or self.phase == BETWEEN) and not in_process:
                stage.enter_context(gates.short_rounds(with_copies=in_rounds))
            where = self.phase, self.gate, n_times
            if not client_is_held:
                self.on_victim(gates.install, self.phase, self.gate, self.training)
            elif not in_process:
                stage.enter_context(gates.hold_client(*where, self.training))
            if in_process:
                settings = {name: dask.config.get(name) for name in SETTINGS}
                settings |= {"skdistmlp": dask.config.get("skdistmlp")}
                address = self.cluster.address
                self.fit = FitInProcess(
                    address, settings, self.data, client_is_held, *where, self.grid
                )
            else:
                self.fit = self.new_fit()
            stage.callback(self.fit.close)
            self.wait_until_held()
            yield

    def new_fit(self) -> FitInThread:
        """Start such a fit."""
        return FitInThread(self.client, self.data, *self.grid, self.training)

    def wait_until_held(self, number: int = 0) -> None:
        """Wait until the fit is held for the first or a later time."""
        wait_until(
            lambda: self.gate.is_reached(number) or self.fit.has_ended(),
            "the fit is held",
        )
        assert self.gate.is_reached(number), self.fit.result(0)

    def add_cleanup(self, function: Callable[..., Any], *args: Any) -> None:
        """Register a call for the time after the fit."""
        self._cleanups.append(lambda: function(*args))

    def clean_up(self) -> None:
        """Make the calls that were registered for the time after the fit."""
        while self._cleanups:
            self._cleanups.pop()()

    def on_victim(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in the victim's process, outside its tasks."""
        return self.client.run(function, *args, workers=[self.victim])[self.victim]

    def signal(self, number: int, worker: str = "") -> None:
        """Send the process of a worker a signal; by default the victim's."""
        os.kill(self._pids[worker or self.victim], number)

    def hold_spare(self, phase: str) -> None:
        """Hold the worker that will take the victim's place, as the next at the gate.

        It is the first that the fit leaves out.
        """
        where = phase, self.gate, self.training, 1
        self.client.run(gates.install, *where, workers=[self.spare])

    @property
    def spare(self) -> str:
        """The first worker that the fit leaves out."""
        return self.workers[self.grid[0]]

    def start_worker(self) -> None:
        """Start another worker, when the lost ones are gone."""
        lost = set.union(*self.losses)
        wait_until(
            lambda: not lost & set(self.client.nthreads()), "the workers are removed"
        )
        self.cluster.forget_gone(self.client.nthreads())
        self.cluster.add_workers(["127.0.0.1"])

    def status_of_victim(self) -> str:
        """Return the victim's status in the scheduler."""
        workers = known_workers(self.client)
        return str(workers.get(self.victim, {"status": "gone"})["status"])

    def wait_until_lost(self) -> None:
        """Wait until the scheduler has removed the victim."""
        wait_until(
            lambda: self.victim not in self.client.nthreads(), "the worker is removed"
        )

    def wait_until_free(self, but: Sequence[str] = ()) -> None:
        """Wait until no worker holds anything of a fit, except some."""

        def held() -> dict[str, list[str]]:
            # A worker that leaves meanwhile holds nothing.
            workers = [w for w in self.client.nthreads() if w not in but]
            return self.client.run(gates.leftovers, workers=workers, on_error="ignore")

        deadline = time.monotonic() + FREE_WITHIN_S
        while any((left := held()).values()):
            assert time.monotonic() < deadline, f"left on the workers: {left}"
            time.sleep(0.05)
