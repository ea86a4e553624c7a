"""Random moments of fits among peers, at which workers do something to themselves.

Workers import this module.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from distributed import get_worker

from skdistmlp.cluster.peers import shard as peers_shard
from skdistmlp.cluster.peers import worker
from skdistmlp.cluster.peers.shard import PeerShard
from skdistmlp.training import loop
from skdistmlp.wire.communicator import SocketCommunicator
from skdistmlp.wire.connections import Connections

TOPIC = "skdistmlp-soak"

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


def fail(*_: Any) -> None:
    raise PlantedError("planted")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


SIGNALS: dict[Any, int] = {kill: signal.SIGKILL, stop: signal.SIGSTOP}
"""What the client sends in place of these, which a worker does to itself."""


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
