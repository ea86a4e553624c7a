"""A communicator over sockets: every shard is connected to every other.

Shards exchange directly, pair by pair, all pairs and both directions at once,
on non-blocking sockets: no shard waits for its turn, so no two can wait for each
other.
"""

import math
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skdistmlp.exceptions import ExchangeError
from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.communicators import Label, StopRequested, sum_in_order
from skdistmlp.parallel.split import NeuronRange
from skdistmlp.settings import CANCEL_POLL_S, SPIN_S
from skdistmlp.wire.packet import (
    DTYPES,
    HEADER_BYTES,
    STOP,
    Header,
    Operation,
    verify_header,
)

SOCKET_BUFFER_BYTES = 4 * 2**20
"""Room for an exchange in the kernel, so that a send seldom waits for its reader."""

EXCHANGES_OF_LAYERS = {
    Operation.ALL_GATHER: "the forward exchange",
    Operation.REDUCE_SCATTER: "the backward exchange",
    Operation.ALL_REDUCE: "the sum",
    Operation.BROADCAST: "the broadcast",
}
"""What messages call the exchanges whose label is the number of a layer."""

OTHER_EXCHANGES: dict[int, str] = {
    Label.ROUND: "the wait for all shards",
    Label.DECISION: "what shard 0 decides",
    Label.PARAMETERS: "the parameters from shard 0",
    Label.LOSS: "the sum of the losses",
    Label.GRADIENT: "the exchange of gradients",
}
"""What messages call the others, by their label."""

WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What a non-blocking socket raises when there is nothing to do yet."""


@dataclass
class Link:
    """The connection to one other shard.

    Attributes
    ----------
    socket : socket
        Connected and non-blocking.
    name : str
        The other shard, for messages: its rank and its worker.
    """

    socket: socket.socket
    name: str

    def __post_init__(self) -> None:
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            self.socket.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        self.header = memoryview(bytearray(HEADER_BYTES))
        encrypted = isinstance(self.socket, ssl.SSLSocket)
        self.send = self._send_first if encrypted else self.socket.sendmsg

    def _send_first(self, views: Sequence[memoryview]) -> int:
        """Send of the first array what goes: TLS has no `sendmsg`."""
        return self.socket.send(views[0])


class SocketCommunicator:
    """One shard's end of the connections to all others: a `Communicator`.

    Parameters
    ----------
    rank : int
        Number of this shard.
    links : mapping of int to Link
        Connections to all other shards, by their rank.
    run : bytes
        Sixteen bytes that name the fit.
    timeout_s : float
        How long an exchange waits for the slowest shard.
    is_cancelled : callable
        Says whether to stop waiting at once.

    Attributes
    ----------
    is_cancelled : callable
        As above; may be replaced.
    exchanging_s : float
        Seconds spent in exchanges so far, most of them waiting for slower shards.
    """

    def __init__(
        self,
        rank: int,
        links: Mapping[int, Link],
        run: bytes,
        timeout_s: float,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self.rank = rank
        self.n_shards = len(links) + 1
        self._links = dict(sorted(links.items()))
        self._run = run
        self._timeout_s = timeout_s
        self.is_cancelled = is_cancelled
        # Always 0: no fit is resumed yet after a lost worker (see `Header`).
        self._generation = 0
        self._step = 0
        self._stop_wanted = False
        self._flags = 0
        self._flags_seen = 0
        self._buffers: dict[tuple[Any, ...], FloatArray] = {}
        self.exchanging_s = 0.0

    def request_stop(self) -> None:
        """Ask all shards to stop after the step that begins next; from any thread.

        The training thread reads the flag once per step, in `begin_step`, so one that
        is set in the middle of a step travels with the next.
        """
        self._stop_wanted = True

    def begin_step(self) -> None:
        """Count a step; end the training here if a shard asked for it."""
        if self._flags_seen & STOP:
            raise StopRequested
        if self.is_cancelled():
            raise ExchangeError("cancelled because the fit ended")
        self._step += 1
        # All packets of a step carry the same flags, so that every shard has
        # seen the same when it ends.
        self._flags = self._flags_seen = STOP if self._stop_wanted else 0

    def all_gather(
        self,
        part: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> FloatArray:
        """Put the shards' columns side by side; see `Communicator`."""
        if not self._links:
            return part
        n_rows = len(part)
        received = {
            peer: self._room("in", Operation.ALL_GATHER, label, peer, part.dtype)(
                n_rows, len(ranges[peer])
            )
            for peer in self._links
        }
        sent = dict.fromkeys(self._links, np.ascontiguousarray(part))
        self._exchange(Operation.ALL_GATHER, label, sent, received)
        received[self.rank] = part
        if out is None:
            out = np.empty((n_rows, ranges[-1].stop), part.dtype)
        for peer, columns in received.items():
            out[:, ranges[peer].columns] = columns
        return out

    def reduce_scatter(
        self,
        piece: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> FloatArray:
        """Sum and keep this shard's columns; see `Communicator`."""
        if not self._links:
            return piece
        n_rows, own = len(piece), ranges[self.rank]
        sent, received = {}, {}
        for peer in self._links:
            operation = Operation.REDUCE_SCATTER
            room = self._room("out", operation, label, peer, piece.dtype)
            sent[peer] = room(n_rows, len(ranges[peer]))
            np.copyto(sent[peer], piece[:, ranges[peer].columns])
            room = self._room("in", operation, label, peer, piece.dtype)
            received[peer] = room(n_rows, len(own))
        self._exchange(Operation.REDUCE_SCATTER, label, sent, received)
        received[self.rank] = piece[:, own.columns]
        return sum_in_order([received[rank] for rank in range(self.n_shards)], out)

    def all_reduce(
        self, piece: FloatArray, label: int, out: FloatArray | None
    ) -> FloatArray:
        """Sum the shards' pieces; see `Communicator`."""
        if not self._links:
            return piece
        shape = _two_dimensions(piece)
        received = {
            peer: self._room("in", Operation.ALL_REDUCE, label, peer, piece.dtype)(
                *shape
            )
            for peer in self._links
        }
        sent = dict.fromkeys(self._links, np.ascontiguousarray(piece))
        self._exchange(Operation.ALL_REDUCE, label, sent, received)
        pieces = {p: array.reshape(piece.shape) for p, array in received.items()}
        pieces[self.rank] = piece
        return sum_in_order([pieces[rank] for rank in range(self.n_shards)], out)

    def broadcast(self, array: FloatArray, label: int) -> FloatArray:
        """Overwrite `array` with shard 0's; see `Communicator`."""
        if self.rank == 0:
            sent = dict.fromkeys(self._links, np.ascontiguousarray(array))
            self._exchange(Operation.BROADCAST, label, sent, {})
        else:
            self._exchange(Operation.BROADCAST, label, {}, {0: array})
        return array

    def wait_for_all(self) -> None:
        """Wait until all shards are here, however long that takes.

        One of them may be queued behind other work on its worker.
        """
        sent = dict.fromkeys(self._links, np.zeros(1))
        received = {peer: np.empty(1) for peer in self._links}
        self._exchange(Operation.READY, Label.ROUND, sent, received, math.inf)

    def close(self) -> None:
        """Close the connections; whoever waits for this shard learns it at once."""
        for link in self._links.values():
            link.socket.close()

    def _room(
        self,
        use: str,
        operation: Operation,
        label: int,
        peer: int,
        dtype: np.dtype[np.floating],
    ) -> Callable[[int, int], FloatArray]:
        """Return a function that gives contiguous room, allocated at its first use."""
        key = use, operation, label, peer, dtype

        def room(n_rows: int, n_columns: int) -> FloatArray:
            size = n_rows * n_columns
            flat = self._buffers.get(key)
            if flat is None or flat.size < size:
                flat = self._buffers[key] = np.empty(size, dtype)
            return flat[:size].reshape(n_rows, n_columns)

        return room

    def _exchange(
        self,
        operation: Operation,
        label: int,
        sent: Mapping[int, FloatArray],
        received: Mapping[int, FloatArray],
        timeout_s: float | None = None,
    ) -> None:
        """Send and receive one array per peer, all at once."""
        sends, receives = [], []
        for peer, array in sent.items():
            packed = memoryview(self._header(operation, label, self.rank, array).pack())
            sends.append(_Send(self._links[peer], [packed, *_bytes_of(array)]))
        for peer, array in received.items():
            expected = self._header(operation, label, peer, array)
            receives.append(_Receive(self._links[peer], expected, _bytes_of(array)))
        begun = time.monotonic()
        try:
            self._carry_out([*sends, *receives], timeout_s or self._timeout_s)
        except ExchangeError as error:
            exchange = OTHER_EXCHANGES.get(label)
            exchange = exchange or f"{EXCHANGES_OF_LAYERS[operation]} of layer {label}"
            raise ExchangeError(f"{error} in {exchange}") from error.__cause__
        self.exchanging_s += time.monotonic() - begun
        for receive in receives:
            self._flags_seen |= receive.flags

    def _header(
        self, operation: Operation, label: int, shard: int, array: FloatArray
    ) -> Header:
        return Header(
            self._run,
            self._generation,
            self._step,
            operation,
            label,
            shard,
            DTYPES.index(array.dtype),
            *_two_dimensions(array),
            self._flags,
        )

    def _carry_out(self, transfers: list["_Send | _Receive"], timeout_s: float) -> None:
        """Advance all transfers until each is done.

        Sends and receives advance together: if every shard sent everything first, two
        with arrays larger than the kernel's buffers would wait for each other to read.
        """
        # Most transfers of small layers end here, without a system call to wait.
        pending = [transfer for transfer in transfers if not transfer.advance()]
        spin_until = time.monotonic() + SPIN_S
        while pending and time.monotonic() < spin_until:
            # The peer may need this core in order to send what is waited for.
            os.sched_yield()
            pending = [transfer for transfer in pending if not transfer.advance()]
        if not pending:
            return
        deadline = time.monotonic() + timeout_s
        while pending:
            # A new one each time: with TLS the event of a transfer changes as it
            # advances. With one poll for reads and writes of a link, whose send and
            # receive share a socket, their events are combined.
            poll = select.poll()
            wanted: dict[int, int] = {}
            for transfer in pending:
                fileno = transfer.link.socket.fileno()
                wanted[fileno] = wanted.get(fileno, 0) | transfer.event
            for fileno, events in wanted.items():
                poll.register(fileno, events)
            ready = {fileno for fileno, _ in poll.poll(1000 * CANCEL_POLL_S)}
            if self.is_cancelled():
                raise ExchangeError("cancelled because the fit ended")
            # The timeout is for silence: a large array over a slow network may take
            # longer, as long as some bytes arrive.
            if ready:
                deadline = time.monotonic() + timeout_s
            # A closed or broken socket is ready too, and `advance` raises its error.
            pending = [
                transfer
                for transfer in pending
                if transfer.link.socket.fileno() not in ready or not transfer.advance()
            ]
            if pending and time.monotonic() > deadline:
                names = ", ".join(sorted({t.link.name for t in pending}))
                raise ExchangeError(
                    f"waited more than {timeout_s:g} s "
                    f"(skdistmlp.exchange-timeout) for {names}"
                )


def reason(error: OSError) -> str:
    """Return what went wrong in words, without the number of the error."""
    said = error.strerror or str(error) or type(error).__name__
    return said[:1].lower() + said[1:] if said[1:2].islower() else said


def event_to_wait_for(blocked: OSError, otherwise: int) -> int:
    """Return what to poll for: TLS may read in order to write, and vice versa."""
    if isinstance(blocked, ssl.SSLWantReadError):
        return select.POLLIN
    if isinstance(blocked, ssl.SSLWantWriteError):
        return select.POLLOUT
    return otherwise


class _Send:
    """An array that is being sent to a peer."""

    def __init__(self, link: Link, views: list[memoryview]) -> None:
        self.link = link
        self.event = select.POLLOUT
        self._views = views

    def advance(self) -> bool:
        """Send what the socket takes; return whether that was all."""
        views = self._views
        while views:
            try:
                n_bytes = self.link.send(views)
            except WOULD_BLOCK as blocked:
                self.event = event_to_wait_for(blocked, select.POLLOUT)
                return False
            except OSError as error:
                raise _closed(self.link) from error
            while views and n_bytes >= views[0].nbytes:
                n_bytes -= views.pop(0).nbytes
            if n_bytes:
                views[0] = views[0][n_bytes:]
        return True


class _Receive:
    """A packet that is being received: its header is verified before the rest is read.

    So a packet that the plan does not expect never reaches an array of the training.
    """

    def __init__(self, link: Link, expected: Header, views: list[memoryview]) -> None:
        self.link = link
        self.event = select.POLLIN
        self.flags = 0
        self._expected: Header | None = expected
        self._views = [link.header, *views]

    def advance(self) -> bool:
        """Read what is there; return whether that was all."""
        views = self._views
        while views:
            try:
                n_bytes = self.link.socket.recv_into(views[0])
            except WOULD_BLOCK as blocked:
                self.event = event_to_wait_for(blocked, select.POLLIN)
                return False
            except OSError as error:
                raise _closed(self.link) from error
            if n_bytes == 0:
                raise _closed(self.link)
            if n_bytes < views[0].nbytes:
                views[0] = views[0][n_bytes:]
                continue
            del views[0]
            if self._expected is not None:
                self.flags = verify_header(self.link.header, self._expected)
                self._expected = None
        return True


def _closed(link: Link) -> ExchangeError:
    return ExchangeError(f"{link.name} closed its connection")


def _two_dimensions(array: FloatArray) -> tuple[int, int]:
    return (1, array.size) if array.ndim == 1 else array.shape


def _bytes_of(array: FloatArray) -> list[memoryview]:
    """Return the bytes of a C-contiguous array; nothing to send if it is empty."""
    return [array.data.cast("B")] if array.size else []
