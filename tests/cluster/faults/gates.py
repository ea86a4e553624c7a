"""Faults that strike a fit at a definite place: what runs in the process struck.

Workers and clients import this module. Whoever comes to the place is held at a
gate, in its own process, until the test has done what it wants and tells it how to
go on.
"""

import gc
import json
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
import numpy as np
from distributed import Client, Scheduler, Worker
from sklearn.exceptions import ConvergenceWarning

from skdistmlp import DistributedMLPClassifier
from skdistmlp.cluster.peers import driver as peers
from skdistmlp.cluster.peers import worker as shard_run
from skdistmlp.parallel import local_ops as buffered
from skdistmlp.wire import communicator as mesh
from skdistmlp.wire import packet
from tests.cluster.support import wait_until

PLACES: dict[str, tuple[Any, str]] = {
    "placing": (shard_run, "listen"),
    "connecting": (shard_run, "meet"),
    "forward exchange": (mesh.SocketCommunicator, "all_gather"),
    "backward exchange": (mesh.SocketCommunicator, "reduce_scatter"),
    "between rounds": (mesh.SocketCommunicator, "wait_for_all"),
    "collecting": (buffered.LocalOps, "collect"),
}
"""By phase, what the worker that is struck is about to call."""

PHASES = tuple(PLACES)
PLACING, CONNECTING, FORWARD, BACKWARD, BETWEEN, COLLECTING = PHASES

IDLE = BETWEEN, COLLECTING
"""Where workers are idle for a moment too, and the client is about to do something."""

EXCHANGES = FORWARD, BACKWARD

STEP = 2
"""Number of the step, from 1, whose exchanges are struck."""

N_SLOW = 2
"""Exchanges that a slow shard takes its time for."""

Order = Sequence[Any]


@dataclass(frozen=True)
class Gate:
    """Where a process is held until it is told how to go on, by files in a folder."""

    folder: Path

    def hold(self, number: int = 0) -> Order:
        """Wait here, the first time as number 0; return what to do then."""
        (self.folder / f"held-{number}").touch()
        told = self.folder / f"go-{number}"
        wait_until(told.exists, "the test lets this process go on")
        order: Order = json.loads(told.read_text())
        return order

    def spin(self) -> None:
        """Compute until told to go on, and leave other threads little time."""
        (self.folder / "held-0").touch()
        while not (self.folder / "go-0").exists():
            sum(range(10**4))

    def is_reached(self, number: int = 0) -> bool:
        return (self.folder / f"held-{number}").exists()

    def open(self, *order: Any) -> None:
        """Let everybody who is held here, or will be, do as they are told."""
        for number in range(2):
            ready = self.folder / f"order-{number}"
            ready.write_text(json.dumps(order))
            ready.rename(self.folder / f"go-{number}")


# In a worker.

_ORIGINALS: list[tuple[Any, str, Any]] = []


def install(phase: str, gate: Gate) -> None:
    """Hold the shard in this process, once, when it comes to the place of a phase."""
    owner, name = PLACES[phase]
    original = getattr(owner, name)
    order: Order | None = None
    n_left = 0

    def struck(*args: Any, **kwargs: Any) -> Any:
        nonlocal order, n_left
        if order is None and (phase not in EXCHANGES or args[0]._step == STEP):
            order = gate.hold()
            n_left = N_SLOW if order[:1] == ["be_slow"] else 1
        if order and n_left:
            n_left -= 1
            ORDERS[order[0]](args, *order[1:])
        return original(*args, **kwargs)

    setattr(owner, name, struck)
    _ORIGINALS.append((owner, name, original))


def uninstall() -> None:
    """Undo what was done to this process."""
    while _ORIGINALS:
        setattr(*_ORIGINALS.pop())


def _be_slow(args: Any, seconds: float) -> None:
    time.sleep(seconds)


def _raise(args: Any, kind: str) -> None:
    raise {"RuntimeError": RuntimeError, "MemoryError": MemoryError}[kind]("struck")


def _send_nan(args: Any) -> None:
    _, array = args[:2]
    array.fill(np.nan)


def _speak_another_version(args: Any) -> None:
    _ORIGINALS.append((packet, "VERSION", packet.VERSION))
    packet.VERSION = 77


ORDERS: dict[str, Callable[..., None]] = {
    "be_slow": _be_slow,
    "raise": _raise,
    "send_nan": _send_nan,
    "speak_another_version": _speak_another_version,
}
"""What a shard that was held may be told to do before it goes on."""


def _shards() -> list[shard_run.PeerShard]:
    return list(shard_run._RUNS.values())


def cut_links() -> None:
    """Break every connection of the shard in this process with others."""
    for shard in _shards():
        if shard._listener is not None:
            shard._listener.shutdown(2)
        if shard._mesh is not None:
            for link in shard._mesh._links.values():
                link.socket.shutdown(2)


def abort_connection_with_scheduler(dask_worker: Worker) -> None:
    """Break it, after the answer to this call has left."""
    comm = dask_worker.batched_stream.comm
    dask_worker.loop.call_later(0.01, comm.abort)


def spoil_weights() -> None:
    """Make the weights of the shard in this process useless."""
    for shard in _shards():
        assert shard._group is not None
        shard._group.collect().parameters.fill(np.nan)


_MEMORY: list[np.ndarray] = []


def eat_memory(n_bytes: int) -> None:
    """Take memory until the nanny ends this process, in a thread of its own."""

    def eat() -> None:
        _MEMORY.append(np.ones(n_bytes, np.uint8))

    threading.Thread(target=eat, daemon=True).start()


def is_told_to_stop() -> bool:
    return all(shard._stop_wanted for shard in _shards())


def what_is_held(dask_worker: Worker) -> list[str]:
    """Return what shards have left in this process: tasks, memory, connections."""
    held = [f"running task {ts.key}" for ts in dask_worker.state.executing]
    held += [f"shard {shard._rank}" for shard in _shards()]
    for thing in gc.get_objects():
        if type(thing) is mesh.Link and thing.socket.fileno() >= 0:
            held.append(f"connection with {thing.name}")
        if type(thing) is mesh.SocketCommunicator:
            held.append(f"mesh of shard {thing.rank}")
    return held


# In a scheduler.


def set_worker_ttl(seconds: float, dask_scheduler: Scheduler) -> None:
    """Set after how long a worker that is not heard of is given up."""
    dask_scheduler.worker_ttl = seconds


# In a client.


@contextmanager
def client_held(phase: str, gate: Gate, n_times: int = 1) -> Iterator[None]:
    """Hold the client in this process when it comes to the place of a phase."""
    run = peers.PeersRun
    n_held = 0

    def hold_in(place: str | None) -> None:
        nonlocal n_held
        if place == phase and n_held < n_times:
            n_held += 1
            gate.hold(n_held - 1)

    def place_held(self: Any) -> None:
        hold_in(PLACING)
        place(self)

    def round_held(self: Any, number: int) -> Any:
        hold_in({0: CONNECTING, 1: BETWEEN}.get(number))
        return a_round(self, number)

    def watch_held(self: Any, futures: Any) -> None:
        watch(self, futures)
        hold_in(COLLECTING)

    place, a_round, watch = run._place, run._round, run._watch
    run._place, run._round, run._watch = place_held, round_held, watch_held
    try:
        yield
    finally:
        run._place, run._round, run._watch = place, a_round, watch


@contextmanager
def short_rounds() -> Iterator[None]:
    """Let a round of the clients in this process be an epoch."""
    round_s, peers.ROUND_S = peers.ROUND_S, 0.0
    try:
        yield
    finally:
        peers.ROUND_S = round_s


@dataclass(frozen=True)
class Seen:
    """What came of a fit.

    Attributes
    ----------
    error : type or None
        What it raised.
    text : str
        What the error and its notes say, or what the user was warned of.
    coefs : list of ndarray
        Weights, if there are any.
    """

    error: type[BaseException] | None
    text: str = ""
    coefs: list[np.ndarray] = field(default_factory=list)

    @property
    def name(self) -> str:
        return "weights" if self.error is None else self.error.__name__


def classifier(client: Any, n_workers: int = 3) -> DistributedMLPClassifier:
    """Return a network of two hidden layers, of which a shard is on each worker."""
    return DistributedMLPClassifier(
        (20, 9),
        batch_size=100,
        max_iter=2,
        random_state=0,
        client=client,
        engine="local" if client is None else "peers",
        parameter_threshold=0,
        n_workers=None if client is None else n_workers,
    )


def seen_of_fit(clf: DistributedMLPClassifier, X: np.ndarray, y: np.ndarray) -> Seen:
    """Fit, whatever comes of it."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            clf.fit(X, y)
        except BaseException as error:
            notes = getattr(error, "__notes__", [])
            return Seen(type(error), "\n".join([str(error), *notes]))
    return Seen(None, "\n".join(str(w.message) for w in warned), clf.coefs_)


def fit_in_this_process(
    connection: Any,
    address: str,
    settings: dict[str, Any],
    data: tuple[np.ndarray, np.ndarray],
    client_is_held: bool,
    phase: str,
    gate: Gate,
    n_times: int,
) -> None:
    """Fit, send what came of it, and stay connected until told to end."""
    with ExitStack() as held:
        held.enter_context(dask.config.set(settings))
        if phase == BETWEEN:
            held.enter_context(short_rounds())
        if client_is_held:
            held.enter_context(client_held(phase, gate, n_times))
        client = held.enter_context(Client(address, set_as_default=False))
        connection.send(seen_of_fit(classifier(client), *data))
        connection.recv()
