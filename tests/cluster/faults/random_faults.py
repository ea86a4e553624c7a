"""Random faults for the soak test, drawn from a seed."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psutil
import pytest
from distributed import Client, Event, get_worker

from skdistmlp import WorkerLostError
from skdistmlp.cluster.peers import driver as peers
from skdistmlp.cluster.peers import shard as peers_shard
from skdistmlp.cluster.peers import worker
from skdistmlp.cluster.peers.shard import PeerShard
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.cluster.run.scatter import Scatterer
from skdistmlp.training import loop
from skdistmlp.wire.communicator import SocketCommunicator
from skdistmlp.wire.connections import Connections
from tests.cluster.support import WITHIN_S, wait_until

SPARED = 50
"""Every other block of this many fits ends no worker, to compare memory over time."""

TOPIC = "skdistmlp-soak"


# On the workers.

MOMENTS: dict[str, tuple[Any, str, int]] = {
    "opening": (worker, "listen", 1),
    "connecting": (peers_shard, "meet", 1),
    "step": (SocketCommunicator, "begin_step", 20),
    "exchange": (Connections, "begin", 40),
    "round": (PeerShard, "train", 3),
    "copying": (PeerShard, "copy", 3),
    "validating": (loop, "predict_blocks", 3),
    "collecting": (PeerShard, "close", 1),
}
"""Points of injection: before a call of a function, and the last such call."""

assert all(hasattr(owner, name) for owner, name, _ in MOMENTS.values())


class PlantedError(Exception):
    """The error that is injected into a shard."""


_RELEASED = threading.Event()
_DISARM: list[Callable[[], None]] = []


def hold(seed: int) -> None:
    """Tell the client that the moment has come; give it some time to act."""
    get_worker().log_event(TOPIC, seed)
    _RELEASED.wait(0.5)


def fail() -> None:
    raise PlantedError("planted")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def arm(moment: str, n_calls: int, action: Callable[[], None]) -> None:
    """Run an action in this process before the given call of a function."""
    owner, name, _ = MOMENTS[moment]
    original = getattr(owner, name)
    calls: list[None] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == n_calls:
            action()
        return original(*args, **kwargs)

    _RELEASED.clear()
    setattr(owner, name, call)
    _DISARM.append(lambda: setattr(owner, name, original))


def disarm() -> None:
    _RELEASED.set()
    while _DISARM:
        _DISARM.pop()()


# On the client.


@dataclass(frozen=True)
class Case:
    """A fit and its fault."""

    seed: int
    fault: str
    moment: str
    n_calls: int
    rank: int
    n_workers: int
    timeout_s: float
    round_s: float
    parameters: dict[str, Any]

    @classmethod
    def drawn(cls, seed: int) -> Case:
        """Return the case of a seed."""
        rng = random.Random(seed)
        spared = seed // SPARED % 2 == 1
        faults = {
            name: fault.weight
            for name, fault in FAULTS.items()
            if not (spared and fault.ends_worker)
        }
        [fault] = rng.choices(list(faults), list(faults.values()))
        moment = rng.choice(list(MOMENTS))
        n_workers = rng.randint(1, 3)
        n_layers = rng.randint(1, 3)
        # Otherwise the moment never comes.
        validates = moment == "validating"
        copies = moment == "copying"
        solvers = ["adam", "adam", "sgd"] + ["lbfgs"] * (not validates and not copies)
        return cls(
            seed,
            fault,
            moment,
            rng.randint(1, MOMENTS[moment][2]),
            rng.randrange(n_workers),
            n_workers,
            rng.uniform(1.0, 2.0),
            0.0 if copies else rng.choice([0.0, 5.0]),
            {
                "hidden_layer_sizes": [rng.randint(3, 60) for _ in range(n_layers)],
                "activation": rng.choice(["relu", "tanh", "logistic"]),
                "solver": rng.choice(solvers),
                "batch_size": rng.choice([100, 300, 1000]),
                "early_stopping": validates or rng.random() < 0.3,
                "max_iter": rng.randint(5, 20),
                "random_state": seed,
            },
        )

    def __str__(self) -> str:
        solver = self.parameters["solver"]
        return (
            f"seed {self.seed}: {self.fault}, {self.moment} {self.n_calls}, shard "
            f"{self.rank} of {self.n_workers}, {solver}"
        )


@dataclass
class Scenario:
    """What a fault acts on."""

    client: Client
    case: Case
    workers: Sequence[str]
    process: psutil.Process
    reached: threading.Event = field(default_factory=threading.Event)
    patch: pytest.MonkeyPatch = field(init=False)
    fit: Future[Any] = field(init=False)

    @property
    def victim(self) -> str:
        """The worker that the fault affects."""
        return self.workers[self.case.rank]

    def arm(self, action: Callable[[], None], n_workers: int = 1) -> None:
        """Prepare the worker, and others of the fit if there are as many."""
        case = self.case
        ranks = [(case.rank + i) % case.n_workers for i in range(n_workers)]
        workers = [self.workers[rank] for rank in {*ranks}]
        self.client.run(arm, case.moment, case.n_calls, action, workers=workers)

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
    scenario.arm(kill, scenario.case.n_workers)
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


def restarted(scenario: Scenario) -> Iterator[None]:
    scenario.arm(partial(hold, scenario.case.seed))
    yield
    if scenario.until(scenario.reached.is_set, "the moment has come"):
        scenario.client.restart_workers(
            [scenario.victim], timeout=WITHIN_S, raise_for_error=False
        )


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
    scenario.arm(partial(hold, scenario.case.seed))
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
    """

    inject: Callable[[Scenario], Iterator[None]]
    weight: int
    errors: tuple[type[BaseException], ...] = ()
    ends_worker: bool = False
    may_lose: bool = False


FAULTS = {
    "none": Fault(no_fault, 17),
    "killed": Fault(killed, 12, ends_worker=True, may_lose=True),
    "two killed": Fault(two_killed, 5, ends_worker=True, may_lose=True),
    # Their nannies may take too long to start others.
    "all killed": Fault(
        all_killed, 3, (WorkerLostError,), ends_worker=True, may_lose=True
    ),
    "restarted": Fault(restarted, 8, ends_worker=True, may_lose=True),
    "stopped briefly": Fault(stopped_briefly, 10, may_lose=True),
    "stopped": Fault(stopped, 10, may_lose=True),
    "failing": Fault(failing, 10, (PlantedError,)),
    "busy": Fault(busy, 5),
    "interrupted": Fault(interrupted, 10, (KeyboardInterrupt,)),
    "interrupted twice": Fault(interrupted_twice, 5, (KeyboardInterrupt,)),
    "interrupted elsewhere": Fault(interrupted_elsewhere, 5, (KeyboardInterrupt,)),
}
