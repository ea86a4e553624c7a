"""Random faults for the soak test, drawn from a seed."""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psutil
import pytest
from distributed import Client, Event

from skdistmlp import WorkerLostError
from skdistmlp.cluster.client.workers import worker_statuses
from skdistmlp.cluster.peers import driver as peers
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.cluster.run.scatter import Scatterer
from tests.cluster.faults.random_fits import RandomFit
from tests.cluster.faults.random_moments import (
    MOMENTS,
    SIGNALS,
    PlantedError,
    arm,
    disarm,
    fail,
    hold,
    kill,
    stop,
)
from tests.cluster.support import (
    WITHIN_S,
    in_thread,
    set_status,
    slow_process,
    wait_until,
)

SPARED = 50
"""Every other block of this many fits ends no worker, to compare memory over time."""

SUBMITTING, N_SUBMITTED = "submitting", 40
"""The moment of a fit by tasks: before the client submits some, and the last such
call."""


@dataclass(frozen=True)
class Case:
    """A fit and its fault."""

    seed: int
    fault: str
    moment: str
    n_calls: int
    rank: int
    timeout_s: float
    round_s: float
    fit: RandomFit

    @classmethod
    def drawn(cls, seed: int) -> Case:
        """Return the case of a seed."""
        rng = random.Random(seed)
        engine = rng.choice(["peers", "peers", "futures"])
        spared = seed // SPARED % 2 == 1
        faults = {
            name: fault.weight
            for name, fault in FAULTS.items()
            if not (spared and fault.ends_worker)
            and not (engine == "futures" and fault.is_for_peers)
        }
        [fault] = rng.choices(list(faults), list(faults.values()))
        moment, last = SUBMITTING, N_SUBMITTED
        if engine == "peers":
            moment = rng.choice(list(MOMENTS))
            last = MOMENTS[moment][2]
        copies = moment == "copying"
        # Otherwise the moment never comes.
        fit = RandomFit.drawn(rng, seed, engine, moment == "validating", copies)
        return cls(
            seed,
            fault,
            moment,
            rng.randint(1, last),
            rng.randrange(fit.n_workers),
            rng.uniform(1.0, 2.0),
            0.0 if copies else rng.choice([0.0, 5.0]),
            fit,
        )

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: {self.fault}, {self.moment} {self.n_calls}, worker "
            f"{self.rank} of {self.fit.n_workers}, {self.fit}"
        )


@dataclass
class Scenario:
    """What a fault acts on."""

    client: Client
    case: Case
    pids: Mapping[str, int]
    reached: threading.Event = field(default_factory=threading.Event)
    patch: pytest.MonkeyPatch = field(init=False)
    fit: Future[Any] = field(init=False)
    clean_ups: list[Callable[[], Any]] = field(default_factory=list)

    @property
    def victim(self) -> str:
        """The worker that the fault affects."""
        return list(self.pids)[self.case.rank]

    @property
    def process(self) -> psutil.Process:
        """The process of that worker."""
        return psutil.Process(self.pids[self.victim])

    def arm(self, action: Callable[..., None], n_workers: int = 1) -> None:
        """Prepare the worker, and others of the fit if there are as many."""
        case = self.case
        n_used = case.fit.n_workers
        ranks = {(case.rank + i) % n_used for i in range(n_workers)}
        workers = [list(self.pids)[rank] for rank in ranks]
        if case.fit.engine == "peers":
            self.client.run(arm, case.moment, case.n_calls, action, workers=workers)
        else:
            self._arm_client(action, workers)

    def _arm_client(self, action: Callable[..., None], workers: list[str]) -> None:
        """Act on workers, or note the moment, when the client submits tasks."""
        submit, add, calls = Placement.submit, Placement.add, itertools.count(1)

        def submit_and_act(placement: Placement, keys: list[Any]) -> Any:
            if next(calls) == self.case.n_calls:
                if action in SIGNALS:
                    for worker in workers:
                        os.kill(self.pids[worker], SIGNALS[action])
                self.reached.set()
            return submit(placement, keys)

        def add_or_fail(
            placement: Placement, rank: int, name: str, function: Any, *args: Any
        ) -> Any:
            is_time = next(calls) == self.case.n_calls
            return add(placement, rank, name, fail if is_time else function, *args)

        if action is fail:
            self.patch.setattr(Placement, "add", add_or_fail)
        else:
            self.patch.setattr(Placement, "submit", submit_and_act)

    def arm_to_hold(self) -> None:
        """Have the fit tell when the moment has come; see `is_reached`."""
        self.arm(partial(hold, self.case.seed))

    def is_reached(self) -> bool:
        """Wait until the moment has come; return False if the fit ends before."""
        return self.until(self.reached.is_set, "the moment has come")

    def until(self, condition: Callable[[], Any], what: str) -> bool:
        """Wait for a condition or the end of the fit; say whether it came true."""
        wait_until(lambda: self.fit.done() or condition(), f"{what}, or the fit ends")
        return not self.fit.done() and bool(condition())

    def wake(self) -> None:
        """Resume the worker, if it is suspended."""
        with suppress(psutil.NoSuchProcess):
            self.process.resume()


def has_ended(pid: int) -> bool:
    """Say whether a process has ended."""
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return True


def no_fault(scenario: Scenario) -> Iterator[None]:
    yield


def killed(scenario: Scenario) -> Iterator[None]:
    scenario.arm(kill)
    yield


def two_killed(scenario: Scenario) -> Iterator[None]:
    scenario.arm(kill, 2)
    yield


def all_killed(scenario: Scenario) -> Iterator[None]:
    scenario.arm(kill, scenario.case.fit.n_workers)
    yield


def failing(scenario: Scenario) -> Iterator[None]:
    scenario.arm(fail)
    yield


def is_stopped(scenario: Scenario) -> bool:
    return bool(scenario.process.status() == psutil.STATUS_STOPPED)


def stopped_briefly(scenario: Scenario) -> Iterator[None]:
    scenario.arm(stop)
    yield
    scenario.until(lambda: is_stopped(scenario), "the worker is suspended")
    scenario.wake()


def stopped(scenario: Scenario) -> Iterator[None]:
    """Suspended until the fit has ended without it."""
    scenario.arm(stop)
    yield
    scenario.until(lambda: is_stopped(scenario), "the worker is suspended")


def slow(scenario: Scenario) -> Iterator[None]:
    """Slow until the fit has ended: many exchanges wait, but none for too long."""
    slowed = ExitStack()
    slowed.enter_context(slow_process(scenario.pids[scenario.victim]))
    scenario.clean_ups.append(slowed.close)
    yield


def restarted(scenario: Scenario) -> Iterator[None]:
    scenario.arm_to_hold()
    yield
    if scenario.is_reached():
        scenario.client.restart_workers(
            [scenario.victim], timeout=WITHIN_S, raise_for_error=False
        )


def retired(scenario: Scenario) -> Iterator[None]:
    client, victim = scenario.client, scenario.victim

    def leave() -> None:
        # None, if Dask finds no place for what it holds.
        gone = retiring.result(WITHIN_S)
        wait_until(lambda: not gone.keys() & client.nthreads().keys(), "it has left")

    scenario.arm_to_hold()
    yield
    if scenario.is_reached():
        retiring = in_thread(client.retire_workers, [victim])
        scenario.clean_ups.append(leave)


def paused(scenario: Scenario) -> Iterator[None]:
    """Paused until the fit has ended."""
    client, victim = scenario.client, scenario.victim

    def set_and_await(status: str) -> None:
        client.run(set_status, status, workers=[victim])
        wait_until(lambda: worker_statuses(client)[victim] == status, f"it is {status}")

    scenario.arm_to_hold()
    yield
    if scenario.is_reached():
        scenario.clean_ups.append(lambda: set_and_await("running"))
        set_and_await("paused")


def joined(scenario: Scenario) -> Iterator[None]:
    """Another worker joins while the fit loses one."""
    scenario.arm(kill)
    yield
    if scenario.until(lambda: has_ended(scenario.pids[scenario.victim]), "it ends"):
        scenario.client.cluster.scale(len(scenario.pids) + 1)


def busy(scenario: Scenario) -> Iterator[None]:
    """Another user's task occupies the worker of a shard."""
    gate = Event(f"soak-{scenario.case.seed}", client=scenario.client)
    name = gate.name
    holding = scenario.client.submit(
        lambda: Event(name).wait(WITHIN_S), workers=[scenario.victim], key=name
    )
    wait_until(
        lambda: scenario.client.processing()[scenario.victim], "the worker is busy"
    )
    yield
    scenario.until(
        lambda: len(scenario.client.processing()[scenario.victim]) > 1,
        "a shard is queued",
    )
    gate.set()
    holding.result(WITHIN_S)


def interrupted(scenario: Scenario, n_times: int = 1) -> Iterator[None]:
    """Ctrl-C while the client waits for a round, at a moment of a shard."""
    original, left = peers.PeersRun._take_messages, [None] * n_times

    def print_lines(run: peers.PeersRun, timeout_s: float) -> None:
        def is_over() -> bool:
            return all(future.done() for future in run._in_flight.result())

        if left:
            wait_until(lambda: scenario.reached.is_set() or is_over(), "the moment")
            if scenario.reached.is_set():
                left.pop()
                raise KeyboardInterrupt
        original(run, timeout_s)

    scenario.patch.setattr(peers.PeersRun, "_take_messages", print_lines)
    scenario.arm_to_hold()
    yield
    if scenario.until(lambda: not left, "Ctrl-C was pressed"):
        scenario.client.run(disarm, workers=[scenario.victim])


def interrupted_twice(scenario: Scenario) -> Iterator[None]:
    yield from interrupted(scenario, 2)


def interrupted_elsewhere(scenario: Scenario) -> Iterator[None]:
    """Ctrl-C while the client sends or fetches."""
    name = random.Random(scenario.case.seed).choice(["scatter", "submit", "fetch"])
    owner = Scatterer if name == "scatter" else Placement
    original, calls = getattr(owner, name), []

    def call(*args: Any) -> Any:
        calls.append(None)
        if len(calls) == scenario.case.n_calls % 5:
            raise KeyboardInterrupt
        return original(*args)

    scenario.patch.setattr(owner, name, call)
    yield


@dataclass(frozen=True)
class Fault:
    """A fault, and the errors that it may cause.

    Attributes
    ----------
    inject : callable
        Prepares the fault, yields while the fit starts, and then injects it.
    weight : int
        Relative frequency, in percent.
    errors : tuple of type
        What the fit may raise.
    ends_worker : bool
        Whether a worker ends.
    may_lose : bool
        Whether the fit may have lost a worker, and recovered.
    is_for_peers : bool
        Whether it is injected where only the driver of peers comes by.
    """

    inject: Callable[[Scenario], Iterator[None]]
    weight: int
    errors: tuple[type[BaseException], ...] = ()
    ends_worker: bool = False
    may_lose: bool = False
    is_for_peers: bool = False


FAULTS = {
    "none": Fault(no_fault, 7),
    "killed": Fault(killed, 12, ends_worker=True, may_lose=True),
    "two killed": Fault(two_killed, 5, ends_worker=True, may_lose=True),
    # Their nannies may take too long to start others.
    "all killed": Fault(
        all_killed, 3, (WorkerLostError,), ends_worker=True, may_lose=True
    ),
    "killed, another joins": Fault(joined, 4, ends_worker=True, may_lose=True),
    "restarted": Fault(restarted, 7, ends_worker=True, may_lose=True),
    "retired": Fault(retired, 8, ends_worker=True, may_lose=True),
    "paused": Fault(paused, 7, may_lose=True),
    "stopped briefly": Fault(stopped_briefly, 8, may_lose=True),
    "stopped": Fault(stopped, 8, may_lose=True),
    "failing": Fault(failing, 7, (PlantedError,)),
    "busy": Fault(busy, 5),
    "slow": Fault(slow, 5),
    "interrupted": Fault(interrupted, 7, (KeyboardInterrupt,), is_for_peers=True),
    "interrupted twice": Fault(
        interrupted_twice, 4, (KeyboardInterrupt,), is_for_peers=True
    ),
    "interrupted elsewhere": Fault(
        interrupted_elsewhere, 3, (KeyboardInterrupt,), is_for_peers=True
    ),
}
