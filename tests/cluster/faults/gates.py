"""Gates that hold a fit at a given point: what runs in the process that is held.

Workers and clients import this module. A process that reaches the point waits at the
gate until the test has injected its fault and tells the process how to continue.
"""

import gc
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
from distributed import Client, Worker

from skdistmlp.cluster.peers import driver as peers
from skdistmlp.cluster.peers import shard as peers_shard
from skdistmlp.cluster.peers import worker
from skdistmlp.cluster.peers.copies import StateCopies
from skdistmlp.cluster.peers.shard import PeerShard
from skdistmlp.training import loop
from skdistmlp.wire import packet
from skdistmlp.wire.collectives import SocketCollectives
from skdistmlp.wire.communicator import SocketCommunicator
from skdistmlp.wire.transfers import Link
from tests.cluster.faults.fits import ONCE, Training, classifier, outcome_of_fit
from tests.cluster.support import wait_until

HOLD_POINTS: dict[str, tuple[Any, str]] = {
    "placing": (worker, "listen"),
    "connecting": (peers_shard, "meet"),
    "forward exchange": (SocketCollectives, "begin_all_gather"),
    "backward exchange": (SocketCollectives, "begin_reduce_scatter"),
    "between rounds": (SocketCommunicator, "wait_for_all"),
    "copying": (PeerShard, "copy"),
    "collecting": (PeerShard, "close"),
    "validating": (loop, "predict_blocks"),
}
"""By phase, the function before whose call a worker is held."""

ALL_PHASES = tuple(HOLD_POINTS)
PLACING, CONNECTING, FORWARD, BACKWARD = ALL_PHASES[:4]
BETWEEN, COPYING, COLLECTING, VALIDATING = ALL_PHASES[4:]

PHASES = PLACING, CONNECTING, FORWARD, BACKWARD, BETWEEN, COLLECTING
"""Those of every fit: copies are for fits that recover, and validation is an option."""

IDLE = BETWEEN, COLLECTING
"""Phases in which workers are briefly idle while the client is about to act."""

EXCHANGES = FORWARD, BACKWARD

N_SLOW = 2
"""Number of exchanges that a slow shard delays."""

Command = Sequence[Any]


@dataclass(frozen=True)
class Gate:
    """Holds a process until it is told how to continue, by files in a folder."""

    folder: Path

    def hold(self, number: int = 0) -> Command:
        """Wait here, the first time as number 0; return the command to run then."""
        (self.folder / f"held-{number}").touch()
        told = self.folder / f"go-{number}"
        wait_until(told.exists, "the test lets this process continue")
        command: Command = json.loads(told.read_text())
        return command

    def spin(self) -> None:
        """Compute until the gate opens, and leave other threads little time."""
        (self.folder / "held-0").touch()
        while not (self.folder / "go-0").exists():
            sum(range(10**4))

    def is_reached(self, number: int = 0) -> bool:
        return (self.folder / f"held-{number}").exists()

    def open(self, *command: Any, numbers: Sequence[int] = (0, 1)) -> None:
        """Let every process that is or will be held here run a command and continue."""
        for number in numbers:
            ready = self.folder / f"command-{number}"
            ready.write_text(json.dumps(command))
            ready.rename(self.folder / f"go-{number}")


# In a worker.

_ORIGINALS: list[tuple[Any, str, Any]] = []


def install(phase: str, gate: Gate, training: Training = ONCE, number: int = 0) -> None:
    """Hold the shard in this process once, when it reaches the point of a phase.

    `number` is that of the gate.
    """
    owner, name = HOLD_POINTS[phase]
    original = getattr(owner, name)
    command: Command | None = None
    n_calls = n_left = 0
    held_call_number = training.held_epoch if phase in (COPYING, VALIDATING) else 1

    def is_time(args: Any) -> bool:
        if phase in EXCHANGES:
            return bool(args[0]._connections._step == training.held_step)
        return n_calls == held_call_number

    def held_call(*args: Any, **kwargs: Any) -> Any:
        nonlocal command, n_calls, n_left
        n_calls += 1
        if command is None and is_time(args):
            command = gate.hold(number)
            n_left = N_SLOW if command[:1] == ["slow_down"] else 1
        if command and n_left:
            n_left -= 1
            COMMANDS[command[0]](args, *command[1:])
        return original(*args, **kwargs)

    setattr(owner, name, held_call)
    _ORIGINALS.append((owner, name, original))


def uninstall() -> None:
    """Restore the functions that were replaced in this process."""
    while _ORIGINALS:
        setattr(*_ORIGINALS.pop())


def _slow_down(args: Any, seconds: float) -> None:
    time.sleep(seconds)


def _raise(args: Any, kind: str) -> None:
    raise {"RuntimeError": RuntimeError, "MemoryError": MemoryError}[kind]("injected")


def _send_nan(args: Any) -> None:
    _, array = args[:2]
    array.fill(np.nan)


def _speak_another_version(args: Any) -> None:
    _ORIGINALS.append((packet, "VERSION", packet.VERSION))
    packet.VERSION = 77


COMMANDS: dict[str, Callable[..., None]] = {
    "slow_down": _slow_down,
    "raise": _raise,
    "send_nan": _send_nan,
    "speak_another_version": _speak_another_version,
}
"""What a held shard can be told to do before it continues."""


def _shards() -> list[PeerShard]:
    return list(worker._RUNS.values())


def cut_links() -> None:
    """Break every connection of the shard in this process to other shards."""
    for shard in _shards():
        if shard._listener is not None:
            shard._listener.shutdown(2)
        if shard._communicator is not None:
            for link in shard._communicator._connections.links.values():
                link.socket.shutdown(2)


def abort_connection_with_scheduler(dask_worker: Worker) -> None:
    """Break the connection, once the answer to this call has been sent."""
    comm = dask_worker.batched_stream.comm
    dask_worker.loop.call_later(0.01, comm.abort)


def spoil_parameters() -> None:
    """Fill the parameters of the shard in this process with NaN."""
    for shard in _shards():
        assert shard._run is not None
        shard._run.state.network.parameters.fill(np.nan)


_MEMORY: list[np.ndarray] = []


def exhaust_memory(n_bytes: int) -> None:
    """Allocate memory in a separate thread until the nanny kills this process."""

    def eat() -> None:
        _MEMORY.append(np.ones(n_bytes, np.uint8))

    threading.Thread(target=eat, daemon=True).start()


def is_stop_requested() -> bool:
    return all(shard._stop_wanted for shard in _shards())


def leftovers(dask_worker: Worker) -> list[str]:
    """List what shards left behind in this process: tasks, memory, connections."""
    found = [f"running task {ts.key}" for ts in dask_worker.state.executing]
    found += [f"shard {shard._rank}" for shard in _shards()]
    for thing in gc.get_objects():
        if type(thing) is Link and thing.socket.fileno() >= 0:
            found.append(f"connection with {thing.name}")
        if type(thing) is SocketCommunicator:
            found.append(f"communicator of shard {thing.rank}")
    return found


# In a client.


@contextmanager
def hold_client(
    phase: str, gate: Gate, n_times: int = 1, training: Training = ONCE
) -> Iterator[None]:
    """Hold the client in this process when it reaches the point of a phase."""
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
        progress = self._state.progress
        n_epochs = 0 if progress is None else progress.n_iter
        hold_in(COLLECTING if n_epochs == training.n_epochs_before_last else None)

    place, a_round, watch = run._place, run._round, run._watch
    run._place, run._round, run._watch = place_held, round_held, watch_held
    try:
        yield
    finally:
        run._place, run._round, run._watch = place, a_round, watch


@contextmanager
def short_rounds(with_copies: bool = False) -> Iterator[None]:
    """Make a round last one epoch for the clients in this process.

    Between rounds their fits take copies, if they are to.
    """
    originals = peers.ROUND_S, StateCopies.is_due
    peers.ROUND_S = 0.0
    if with_copies:
        StateCopies.is_due = True  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        peers.ROUND_S, StateCopies.is_due = originals


def fit_and_report(
    connection: Any,
    address: str,
    settings: dict[str, Any],
    data: tuple[np.ndarray, np.ndarray],
    client_is_held: bool,
    phase: str,
    gate: Gate,
    n_times: int,
    grid: Sequence[int],
) -> None:
    """Fit, send the outcome, and stay connected until told to end."""
    with ExitStack() as held:
        held.enter_context(dask.config.set(settings))
        if phase == BETWEEN:
            held.enter_context(short_rounds())
        if client_is_held:
            held.enter_context(hold_client(phase, gate, n_times))
        client = held.enter_context(Client(address, set_as_default=False))
        connection.send(outcome_of_fit(classifier(client, *grid), *data))
        connection.recv()
