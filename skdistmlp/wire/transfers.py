"""Arrays on their way over connections to other processes, and all of them at once.

Each connection has a queue of packets to send and one of packets to receive. Several
exchanges may be under way at once: their packets travel in the order in which the
exchanges were begun, which is the same on all processes.
"""

import os
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

from skdistmlp.exceptions import ExchangeError
from skdistmlp.timeouts import CANCEL_POLL_S, SPIN_S
from skdistmlp.wire.packet import HEADER_BYTES, Header, verify_header

SOCKET_BUFFER_BYTES = 4 * 2**20
"""Room for an exchange in the kernel, so that a send seldom waits for its reader."""

WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What a non-blocking socket raises when there is nothing to do yet."""


@dataclass
class Link:
    """The connection to one other shard, and the packets that travel over it.

    Attributes
    ----------
    socket : socket
        Connected and non-blocking.
    name : str
        The other shard, for messages: its rank and its worker.
    sending, receiving : deque of Send, deque of Receive
        What has not been sent or received yet, in the order in which it was begun.
        Only the first of each moves. With TLS this order is vital too: a send that
        would block must be repeated with the same bytes.
    """

    socket: socket.socket
    name: str

    def __post_init__(self) -> None:
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            self.socket.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        self.header = memoryview(bytearray(HEADER_BYTES))
        self.sending: deque[Send] = deque()
        self.receiving: deque[Receive] = deque()
        encrypted = isinstance(self.socket, ssl.SSLSocket)
        self.send = self._send_first if encrypted else self.socket.sendmsg

    @property
    def events(self) -> int:
        """What to poll for; 0 if there is nothing to send or receive."""
        heads = [queue[0].event for queue in (self.sending, self.receiving) if queue]
        return reduce(or_, heads, 0)

    def drop_all(self) -> None:
        """Forget all packets, and with them the arrays that they were to fill."""
        self.sending.clear()
        self.receiving.clear()

    def _send_first(self, views: Sequence[memoryview]) -> int:
        """Send of the first array what goes: TLS has no `sendmsg`."""
        return self.socket.send(views[0])


def advance(links: Iterable[Link]) -> None:
    """Send and receive what can be over some connections without waiting."""
    for link in links:
        if link.sending:
            _advance(link.sending)
        if link.receiving:
            _advance(link.receiving)


def advance_sending(links: Iterable[Link]) -> None:
    """Send what can be over some connections without waiting."""
    for link in links:
        _advance(link.sending)


def _advance(queue: "deque[Send] | deque[Receive]") -> None:
    """Advance the first packet, and the next whenever one is done."""
    while queue:
        try:
            if not queue[0].advance():
                return
        except ExchangeError as error:
            message = f"{error} in {queue[0].exchange}"
            raise ExchangeError(message) from error.__cause__
        queue.popleft()


def carry_out(
    transfers: Sequence["Send | Receive"],
    links: Collection[Link],
    timeout_s: float,
    is_cancelled: Callable[[], bool],
    exchange: str,
) -> None:
    """Advance all links until each of some transfers is done.

    Sends and receives advance together: if every shard sent everything first, two
    with arrays larger than the kernel's buffers would wait for each other to read.
    So do the packets of other exchanges, before and after these: a peer may wait for
    one of them before it reads these.

    Parameters
    ----------
    transfers : sequence of Send or Receive
        Those of one exchange.
    links : collection of Link
        All connections, whether or not they carry one of them.
    timeout_s : float
        For how long nothing may arrive or leave.
    is_cancelled : callable
        Says whether to stop waiting at once.
    exchange : str
        What messages call it.
    """
    # Most transfers of small layers end here, without a system call to wait.
    advance(links)
    pending = [transfer for transfer in transfers if not transfer.done]
    if not pending:
        return
    spin_until = time.monotonic() + SPIN_S
    while pending and time.monotonic() < spin_until:
        # The peer may need this core in order to send what is waited for.
        os.sched_yield()
        advance(links)
        pending = [transfer for transfer in pending if not transfer.done]
    deadline = time.monotonic() + timeout_s
    while pending:
        # A new one each time: with TLS the event of a transfer changes as it
        # advances. With one poll for reads and writes of a link, whose send and
        # receive share a socket, their events are combined.
        poll = select.poll()
        busy = {link.socket.fileno(): link for link in links if link.events}
        for fileno, link in busy.items():
            poll.register(fileno, link.events)
        ready = [fileno for fileno, _ in poll.poll(1000 * CANCEL_POLL_S)]
        if is_cancelled():
            raise ExchangeError(f"cancelled because the fit ended in {exchange}")
        # The timeout is for silence: a large array over a slow network may take
        # longer, as long as some bytes arrive.
        if ready:
            deadline = time.monotonic() + timeout_s
        # A closed or broken socket is ready too, and `advance` raises its error.
        advance(busy[fileno] for fileno in ready)
        pending = [transfer for transfer in pending if not transfer.done]
        if pending and time.monotonic() > deadline:
            names = ", ".join(sorted({t.link.name for t in pending}))
            raise ExchangeError(
                f"waited more than {timeout_s:g} s "
                f"(skdistmlp.exchange-timeout) for {names} in {exchange}"
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
    """An array that is being sent to a peer.

    Attributes
    ----------
    link : Link
        The connection.
    exchange : str
        What messages call the exchange that it belongs to.
    event : int
        What to poll for.
    done : bool
        Whether all has been sent. Until then, the array must not be written to.
    """

    def __init__(self, link: Link, views: list[memoryview], exchange: str) -> None:
        self.link = link
        self.exchange = exchange
        self.event = select.POLLOUT
        self.done = False
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
        self.done = True
        return True


class Receive:
    """A packet that is being received: its header is verified before the rest is read.

    So a packet that the plan does not expect never reaches an array of the training.
    The attributes are those of `Send`, and `flags`: those of the packet.
    """

    def __init__(
        self, link: Link, expected: Header, views: list[memoryview], exchange: str
    ) -> None:
        self.link = link
        self.exchange = exchange
        self.event = select.POLLIN
        self.done = False
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
        self.done = True
        return True


def _closed(link: Link) -> ExchangeError:
    return ExchangeError(f"{link.name} closed its connection")
