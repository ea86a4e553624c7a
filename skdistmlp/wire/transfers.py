"""Arrays on their way over a connection to another process, and all of them at once."""

import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from skdistmlp.exceptions import ExchangeError
from skdistmlp.settings import CANCEL_POLL_S, SPIN_S
from skdistmlp.wire.packet import HEADER_BYTES, Header, verify_header

SOCKET_BUFFER_BYTES = 4 * 2**20
"""Room for an exchange in the kernel, so that a send seldom waits for its reader."""

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


def carry_out(
    transfers: Sequence["Send | Receive"],
    timeout_s: float,
    is_cancelled: Callable[[], bool],
) -> None:
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
        if is_cancelled():
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


class Send:
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


class Receive:
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
