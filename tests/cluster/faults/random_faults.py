"""What may happen to a fit in the soak: drawn from a seed, and made to happen."""

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
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
from skdistmlp.cluster.peers import worker as shard_run
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.cluster.run.scatter import Scatterer
from skdistmlp.exceptions import ExchangeError
from skdistmlp.parallel.local_ops import LocalOps
from skdistmlp.wire.communicator import SocketCommunicator
from tests.cluster.support import WITHIN_S, wait_until

SPARED = 50
"""In every other so many fits no worker ends: their memory can then be judged."""

TOPIC = "skdistmlp-soak"


# On the workers.

MOMENTS: dict[str, tuple[Any, str, int]] = {
    "opening": (shard_run, "listen", 1),
    "connecting": (shard_run, "meet", 1),
    "step": (SocketCommunicator, "begin_step", 20),
    "exchange": (SocketCommunicator, "_exchange", 40),
    "round": (shard_run.PeerShard, "train", 3),
    "collecting": (LocalOps, "collect", 1),
}
"""Where a fault may strike: before a call of a function, and up to which call."""


class PlantedError(Exception):
    """An error in a shard."""


_RELEASED = threading.Event()
_DISARM: list[Callable[[], None]] = []


def hold(seed: int) -> None:
    """Tell the client that the moment is there; give it some time to act."""
    get_worker().log_event(TOPIC, seed)
    _RELEASED.wait(0.5)


def fail() -> None:
    raise PlantedError("planted")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def arm(moment: str, n_calls: int, strike: Callable[[], None]) -> None:
    """Let a fault strike in this process at that call of that function."""
    owner, name, _ = MOMENTS[moment]
    original = getattr(owner, name)
    calls: list[None] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == n_calls:
            strike()
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
    def drawn(cls, seed: int) -> "Case":
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
        return cls(
            seed,
            fault,
            moment,
            rng.randint(1, MOMENTS[moment][2]),
            rng.randrange(n_workers),
            n_workers,
            rng.uniform(1.0, 2.0),
            rng.choice([0.0, 5.0]),
            {
                "hidden_layer_sizes": [rng.randint(3, 60) for _ in range(n_layers)],
                "activation": rng.choice(["relu", "tanh", "logistic"]),
                "solver": rng.choice(["adam", "adam", "sgd", "lbfgs"]),
                "batch_size": rng.choice([100, 300, 1000]),
                "early_stopping": rng.random() < 0.3,
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
class Scene:
    """What a fault has to do with."""

    client: Client
    case: Case
    victim: str
    process: psutil.Process
    reached: threading.Event = field(default_factory=threading.Event)
    patch: pytest.MonkeyPatch = field(init=False)
    fit: Future[Any] = field(init=False)

    def arm(self, strike: Callable[[], None]) -> None:
        """Prepare the worker."""
        case = self.case
        self.client.run(arm, case.moment, case.n_calls, strike, workers=[self.victim])

    def until(self, condition: Callable[[], Any], what: str) -> bool:
        """Wait for a condition or the end of the fit; say whether it came true."""
        wait_until(lambda: self.fit.done() or condition(), f"{what}, or the fit ends")
        return not self.fit.done() and bool(condition())

    def wake(self) -> None:
        """Let the worker go on, if it stands still."""
        with suppress(psutil.NoSuchProcess):
            self.process.resume()

    def has_lost_worker(self) -> bool:
        """Say whether the worker's process has ended."""
        with suppress(psutil.NoSuchProcess):
            return self.process.status() == psutil.STATUS_ZOMBIE
        return True


def no_fault(scene: Scene) -> Iterator[None]:
    yield


def killed(scene: Scene) -> Iterator[None]:
    scene.arm(kill)
    yield


def failing(scene: Scene) -> Iterator[None]:
    scene.arm(fail)
    yield


def is_stopped(scene: Scene) -> bool:
    return bool(scene.process.status() == psutil.STATUS_STOPPED)


def stopped_briefly(scene: Scene) -> Iterator[None]:
    scene.arm(stop)
    yield
    scene.until(lambda: is_stopped(scene), "the worker stands still")
    scene.wake()


def stopped(scene: Scene) -> Iterator[None]:
    """Until the others have given up, or would have, were there any."""
    scene.arm(stop)
    yield
    if scene.until(lambda: is_stopped(scene), "the worker stands still"):
        with suppress(TimeoutError):
            scene.fit.exception(scene.case.timeout_s + 6)
    scene.wake()


def restarted(scene: Scene) -> Iterator[None]:
    scene.arm(partial(hold, scene.case.seed))
    yield
    if scene.until(scene.reached.is_set, "the moment is there"):
        scene.client.restart_workers(
            [scene.victim], timeout=WITHIN_S, raise_for_error=False
        )


def busy(scene: Scene) -> Iterator[None]:
    """Another user's task runs where a shard is to run."""
    gate = Event(f"soak-{scene.case.seed}", client=scene.client)
    name = gate.name
    holding = scene.client.submit(
        lambda: Event(name).wait(WITHIN_S), workers=[scene.victim], key=name
    )
    wait_until(lambda: scene.client.processing()[scene.victim], "the worker is busy")
    yield
    scene.until(
        lambda: len(scene.client.processing()[scene.victim]) > 1, "a shard is queued"
    )
    gate.set()
    holding.result(WITHIN_S)


def interrupted(scene: Scene, n_times: int = 1) -> Iterator[None]:
    """Ctrl-C while the client waits for a round, at a moment of a shard."""
    original, left = peers.PeersRun._take_messages, [None] * n_times

    def print_lines(run: peers.PeersRun, timeout_s: float) -> None:
        def is_over() -> bool:
            return all(future.done() for future in run._under_way.result())

        if left:
            wait_until(lambda: scene.reached.is_set() or is_over(), "the moment")
            if scene.reached.is_set():
                left.pop()
                raise KeyboardInterrupt
        original(run, timeout_s)

    scene.patch.setattr(peers.PeersRun, "_take_messages", print_lines)
    scene.arm(partial(hold, scene.case.seed))
    yield
    if scene.until(lambda: not left, "Ctrl-C was pressed"):
        scene.client.run(disarm, workers=[scene.victim])


def interrupted_twice(scene: Scene) -> Iterator[None]:
    yield from interrupted(scene, 2)


def interrupted_elsewhere(scene: Scene) -> Iterator[None]:
    """Ctrl-C while the client sends or fetches."""
    name = random.Random(scene.case.seed).choice(["scatter", "submit", "fetch"])
    owner = Scatterer if name == "scatter" else Placement
    original, calls = getattr(owner, name), []

    def call(*args: Any) -> Any:
        calls.append(None)
        if len(calls) == scene.case.n_calls % 5:
            raise KeyboardInterrupt
        return original(*args)

    scene.patch.setattr(owner, name, call)
    yield


@dataclass(frozen=True)
class Fault:
    """What may happen to a fit, and how it may end then, beside as it should.

    Attributes
    ----------
    happen : callable
        Prepares the fault, yields while the fit begins, and goes on.
    weight : int
        How often, in a hundred.
    errors : tuple of type
        What the fit may raise.
    ends_worker : bool
        Whether a worker goes away.
    """

    happen: Callable[[Scene], Iterator[None]]
    weight: int
    errors: tuple[type[BaseException], ...] = ()
    ends_worker: bool = False


FAULTS = {
    "none": Fault(no_fault, 25),
    "killed": Fault(killed, 12, (WorkerLostError,), ends_worker=True),
    "restarted": Fault(restarted, 8, (WorkerLostError,), ends_worker=True),
    "stopped briefly": Fault(stopped_briefly, 10),
    "stopped": Fault(stopped, 10, (ExchangeError, WorkerLostError)),
    "failing": Fault(failing, 10, (PlantedError,)),
    "busy": Fault(busy, 5),
    "interrupted": Fault(interrupted, 10, (KeyboardInterrupt,)),
    "interrupted twice": Fault(interrupted_twice, 5, (KeyboardInterrupt,)),
    "interrupted elsewhere": Fault(interrupted_elsewhere, 5, (KeyboardInterrupt,)),
}
