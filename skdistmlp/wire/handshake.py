"""Connect the shards of a network, and have each prove that it belongs to the fit.

Each pair of shards exchanges these messages, encrypted if the cluster is::

    connecting side:  header, nonce
    accepting side:   header, nonce, proof
    connecting side:  proof

A proof is an HMAC (RFC 2104) over the side, both headers and both nonces. Its key is
the secret of the run, which travels with Dask's messages and never over these
connections.
"""

import errno
import hmac
import os
import secrets
import select
import socket
import ssl
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, TypeAlias

from skdistmlp.exceptions import ExchangeError
from skdistmlp.parallel.communicators import Label
from skdistmlp.timeouts import (
    CANCEL_POLL_S,
    HANDSHAKE_TIMEOUT_S,
    PORT_FREE_S,
    PORT_POLL_S,
)
from skdistmlp.wire.packet import HEADER_BYTES, Header, Operation
from skdistmlp.wire.transfers import WOULD_BLOCK, Link, event_to_wait_for, reason

Address = tuple[str, int]
"""Host and port."""

MAX_UNVERIFIED = 128
"""Unverified connections that a shard keeps open, besides one per shard, so that a
flood of them cannot use up memory and file descriptors. The oldest is closed first."""

LISTEN_BACKLOG = 1024
"""Connections that the system queues for a shard that does not accept them yet."""

ACCEPTED_AT_ONCE = 16
"""Connections accepted before the open handshakes advance again: a shard can prove who
it is before a flood of connections behind it pushes it out."""

NONCE_BYTES = 32
PROOF_BYTES = 32
HELLO_BYTES = HEADER_BYTES + NONCE_BYTES

Steps: TypeAlias = Generator[int, None, int]
"""One side of a handshake: yields the event to poll for, and `NAMED_RUN` once the peer
has named this run; returns the peer's rank when it is verified."""


class Tls(NamedTuple):
    """How connections are encrypted, on either side."""

    listening: ssl.SSLContext
    connecting: ssl.SSLContext


@dataclass(frozen=True)
class Credentials:
    """What the shards of one run know.

    Attributes
    ----------
    run : bytes
        Sixteen bytes that name the fit; they are sent.
    secret : bytes
        Thirty-two bytes that are not.
    """

    run: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def new(cls) -> "Credentials":
        """Return those of a new run."""
        return cls(secrets.token_bytes(16), secrets.token_bytes(32))

    def header(self, rank: int) -> bytes:
        """Return the packet header that a shard begins with."""
        # Generation 0, as in every packet until recovery uses it; step 0, no array.
        label = Label.HANDSHAKE
        return Header(self.run, 0, 0, Operation.HELLO, label, rank, 0, 0, 0).pack()

    def hello(self, rank: int) -> bytes:
        """Return what a shard begins with: the header and a nonce."""
        return self.header(rank) + secrets.token_bytes(NONCE_BYTES)

    def proof(self, side: bytes, connecting: bytes, listening: bytes) -> bytes:
        """Return the proof of one side, given what both began with."""
        return hmac.digest(self.secret, side + connecting + listening, "sha256")


def listen(host: str, ports: Sequence[int] = (0,)) -> socket.socket:
    """Return a socket that listens on one address, at the first free port.

    Parameters
    ----------
    host : str
        The address.
    ports : sequence of int
        Ports to try in this order; 0 stands for any free one.

    Raises
    ------
    ExchangeError
        If no port is free or allowed, or the address is another machine's.
    """
    try:
        listener = _server(host, ports, _family(host))
    except OSError as error:
        tried = f"{ports[0]}" if len(ports) == 1 else f"{ports[0]}:{ports[-1]}"
        raise ExchangeError(
            f"cannot listen for other shards on port {tried} of {host}: "
            f"{reason(error)}. skdistmlp.listen-port is {tried} there; set it to a "
            f"free port or a range of ports on each worker, or to 0 for any free port. "
            f"{host} is the worker's address in its cluster; if that address belongs "
            f"to another machine, use engine='futures'."
        ) from error
    listener.setblocking(False)
    return listener


def _server(host: str, ports: Sequence[int], family: int) -> socket.socket:
    """Return a listening socket; wait for a port that the last fit still holds.

    Workers of one machine may try the same ports at the same time: the system gives
    each port to one of them, and the others go on to the next.
    """
    deadline = time.monotonic() + PORT_FREE_S
    while True:
        for port in ports:
            try:
                return socket.create_server(
                    (host, port), family=family, backlog=LISTEN_BACKLOG
                )
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                # Python adds the address to the words of a failed bind, but not to
                # those of a failed listen; `listen` names it anyway.
                in_use = OSError(error.errno, os.strerror(error.errno))
        if time.monotonic() > deadline:
            raise in_use
        time.sleep(PORT_POLL_S)


def meet(
    rank: int,
    listener: socket.socket,
    addresses: Sequence[Address],
    names: Sequence[str],
    credentials: Credentials,
    is_cancelled: Callable[[], bool],
    tls: Tls | None = None,
    note_met: Callable[[int], object] = lambda _: None,
) -> dict[int, Link]:
    """Connect a shard to all others; return when all are there.

    A shard connects to those of lower rank, and those of higher rank connect to it, so
    that no pair connects twice. The task of any of them may be queued behind other work
    on its worker for a long time, so the only end of the wait is `is_cancelled`.
    Connections that cannot prove that they belong to the run are dropped, and never
    block those that can.

    Parameters
    ----------
    rank : int
        Number of this shard.
    listener : socket
        Where this shard takes connections.
    addresses : sequence of (str, int)
        Where each shard takes connections.
    names : sequence of str
        What to call each shard in messages.
    credentials : Credentials
        Those of the run.
    is_cancelled : callable
        Says whether to stop waiting.
    tls : Tls, optional
        Encrypts the connections; plain ones are then dropped.
    note_met : callable, optional
        Called with the rank of each shard that has been found.

    Returns
    -------
    dict of int to Link
        Connections to all other shards, by their rank.

    Raises
    ------
    ExchangeError
        If a shard is lost or is not who it should be, or `is_cancelled` returns True.
    """
    links: dict[int, Link] = {}
    handshakes: list[_Handshake] = []
    # Room for all shards, whatever else connects.
    max_accepted = MAX_UNVERIFIED + len(addresses)
    try:
        # All shards listen before the first of them learns the addresses, and the
        # system completes connections that nobody accepts yet.
        for peer in range(rank):
            connection = _connecting_socket(addresses[peer], tls)
            parties = f"{names[rank]} cannot connect to {names[peer]}"
            steps = _connect_side(
                connection, addresses[peer], parties, rank, peer, credentials
            )
            pair = rank, peer
            handshakes.append(_Handshake(connection, steps, names[peer], pair))
        # All handshakes advance in turns, none of them blocks: a peer that is silent,
        # malicious or out of reach delays no other, and no order of waiting can form a
        # cycle.
        while len(links) < len(addresses) - 1:
            ready = _wait(listener, handshakes)
            # Before anything else is read: the task may have been cancelled long ago.
            if is_cancelled():
                raise ExchangeError(
                    "cancelled while waiting for other shards, because the fit ended"
                )
            if listener.fileno() in ready:
                for connection in islice(_accepted(listener, tls), ACCEPTED_AT_ONCE):
                    steps = _accept_side(connection, rank, credentials)
                    handshakes.append(_Handshake(connection, steps))
            for handshake in handshakes:
                if (
                    handshake.event == NOT_BEGUN
                    or handshake.connection.fileno() in ready
                ):
                    handshake.advance()
            _drop_excess(handshakes, max_accepted)
            # Files are closed after the loop over `ready` only: the system gives their
            # numbers to new connections at once.
            over = [handshake for handshake in handshakes if handshake.is_over()]
            handshakes = [h for h in handshakes if h not in over]
            for handshake in over:
                peer_rank = handshake.peer
                # The first connection of a peer counts. A second one that proves the
                # same rank, such as a task that Dask runs twice, is closed.
                if peer_rank is not None and peer_rank not in links:
                    links[peer_rank] = Link(handshake.connection, names[peer_rank])
                    note_met(peer_rank)
                else:
                    handshake.connection.close()
    except BaseException:
        for link in links.values():
            link.socket.close()
        raise
    finally:
        for handshake in handshakes:
            handshake.connection.close()
    return links


def _drop_excess(handshakes: "Sequence[_Handshake]", max_accepted: int) -> None:
    """End the oldest accepted handshakes beyond a number; those of this run go last."""
    accepted = [h for h in handshakes if h.is_accepted and not h.is_over()]
    # A stable sort: otherwise in the order in which they were accepted.
    accepted.sort(key=lambda handshake: handshake.has_named_run)
    for handshake in accepted[: max(0, len(accepted) - max_accepted)]:
        handshake.event = OVER


NOT_BEGUN, OVER, NAMED_RUN = -1, -2, -3
"""In place of an event to poll for, which is positive."""


class _Handshake:
    """A handshake under way, over a connection that was made or accepted.

    Attributes
    ----------
    connection : socket
        Non-blocking.
    event : int
        What to poll for, or `NOT_BEGUN`, or `OVER`.
    peer : int or None
        Rank of the peer, once it is verified.
    is_accepted : bool
        Whether the peer connected to this shard.
    has_named_run : bool
        Whether the peer has named this run. It may have overheard the name, so that
        proves nothing, but others are dropped before it.
    """

    def __init__(
        self,
        connection: socket.socket,
        steps: Steps,
        name: str | None = None,
        pair: tuple[int, int] | None = None,
    ) -> None:
        self.connection = connection
        self.event = NOT_BEGUN
        self.peer: int | None = None
        self.is_accepted = name is None
        self.has_named_run = False
        self._steps = steps
        self._name = name
        self._pair = pair
        self._deadline = time.monotonic() + HANDSHAKE_TIMEOUT_S

    def advance(self) -> None:
        """Go on until there is something to wait for.

        Raises
        ------
        ExchangeError
            If a shard that this one has connected to is lost, or is another.
        """
        try:
            self.event = next(self._steps)
            if self.event == NAMED_RUN:
                self.has_named_run = True
                self.event = next(self._steps)
        except StopIteration as end:
            self.event, self.peer = OVER, end.value
        except _CannotConnectError as error:
            message, cause = error.args
            self._fail(message, cause, apart=True)
        except OSError as error:
            self._fail(f"connection to {self._name} failed: {reason(error)}", error)
        except ExchangeError as error:
            self._fail(f"{self._name} {error}", error)

    def is_over(self) -> bool:
        """Say whether it has ended, or an accepted one has run out of time.

        A connection that this shard has made has no deadline: the peer may be queued
        behind other work, but it is known to be a shard.
        """
        late = self.is_accepted and time.monotonic() > self._deadline
        return late or self.event == OVER

    def _fail(self, message: str, error: Exception, apart: bool = False) -> None:
        self.event = OVER
        # Anybody may connect and fail: only a shard that is needed ends the fit.
        if not self.is_accepted:
            failure = ExchangeError(message)
            if apart and self._pair is not None:
                failure.apart = (self._pair,)
            raise failure from error


class _CannotConnectError(Exception):
    """Of a message that names both shards, as no other does here, and a cause."""


def _connect_side(
    connection: socket.socket,
    address: Address,
    parties: str,
    rank: int,
    peer: int,
    credentials: Credentials,
) -> Steps:
    """Connect to a shard, and shake hands with it."""
    yield from _connect(connection, address, parties)
    yield from _encrypted(connection)
    own = credentials.hello(rank)
    yield from _send(connection, own)
    answer = yield from _receive(connection, HELLO_BYTES + PROOF_BYTES)
    theirs, proof = answer[:HELLO_BYTES], answer[HELLO_BYTES:]
    if not theirs.startswith(credentials.header(peer)):
        raise ExchangeError("belongs to another fit")
    if not hmac.compare_digest(proof, credentials.proof(b"listening", own, theirs)):
        raise ExchangeError("cannot prove that it belongs to this fit")
    yield from _send(connection, credentials.proof(b"connecting", own, theirs))
    return peer


def _accept_side(
    connection: socket.socket, rank: int, credentials: Credentials
) -> Steps:
    """Shake hands with whoever has connected to this shard."""
    yield from _encrypted(connection)
    # Nothing is sent before the peer has named this run: a stranger learns nothing.
    theirs = yield from _receive(connection, HELLO_BYTES)
    peer = Header.unpack(theirs[:HEADER_BYTES]).shard
    if peer <= rank or not theirs.startswith(credentials.header(peer)):
        raise ExchangeError("belongs to another fit")
    yield NAMED_RUN
    own = credentials.hello(rank)
    yield from _send(connection, own + credentials.proof(b"listening", theirs, own))
    proof = yield from _receive(connection, PROOF_BYTES)
    if not hmac.compare_digest(proof, credentials.proof(b"connecting", theirs, own)):
        raise ExchangeError("cannot prove that it belongs to this fit")
    return peer


def _encrypted(connection: socket.socket) -> Generator[int, None, None]:
    """Agree on the encryption, if the connection has any."""
    while isinstance(connection, ssl.SSLSocket):
        try:
            return connection.do_handshake()
        except WOULD_BLOCK as blocked:
            yield event_to_wait_for(blocked, select.POLLIN)


def _send(connection: socket.socket, data: bytes) -> Generator[int, None, None]:
    while data:
        try:
            data = data[connection.send(data) :]
        except WOULD_BLOCK as blocked:
            yield event_to_wait_for(blocked, select.POLLOUT)


def _receive(connection: socket.socket, n_bytes: int) -> Generator[int, None, bytes]:
    data = b""
    while len(data) < n_bytes:
        try:
            more = connection.recv(n_bytes - len(data))
        except WOULD_BLOCK as blocked:
            yield event_to_wait_for(blocked, select.POLLIN)
            continue
        if not more:
            raise ExchangeError(
                "closed its connection while connecting to the others. Call again to "
                "start over."
            )
        data += more
    return data


def _connect(
    connection: socket.socket, address: Address, parties: str
) -> Generator[int, None, None]:
    """Connect to a shard, for as long as the system tries to."""
    code = connection.connect_ex(address)
    if code in (errno.EINPROGRESS, errno.EWOULDBLOCK):
        yield select.POLLOUT
        code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        host, port = address
        error = OSError(code, os.strerror(code))
        raise _CannotConnectError(
            f"{parties} at port {port} of {host}: {reason(error)}. {ADVICE} If other "
            f"workers cannot reach {host}, start that worker on an address that they "
            f"can reach (--host or --contact-address).",
            error,
        )


ADVICE = (
    "Workers must be able to connect to each other. If there is a firewall, open a "
    "port or a range of ports in it, and set skdistmlp.listen-port to that on the "
    "workers. If it is open at the ports of the workers' addresses only, use "
    "engine='futures'."
)
"""What to do about shards that cannot connect to each other."""


def _connecting_socket(address: Address, tls: Tls | None) -> socket.socket:
    """Return a socket with which to connect to a shard."""
    family = _family(address[0])
    connection = socket.socket(family, socket.SOCK_STREAM)
    return _prepared(connection, None if tls is None else tls.connecting)


def _family(host: str) -> int:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _accepted(listener: socket.socket, tls: Tls | None) -> Iterator[socket.socket]:
    """Yield the connections that the system has queued."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            # The queue is empty, or the peer has left it again.
            return
        with suppress(OSError):
            yield _prepared(connection, None if tls is None else tls.listening, True)


def _prepared(
    connection: socket.socket, context: ssl.SSLContext | None, listening: bool = False
) -> socket.socket:
    connection.setblocking(False)
    if context is None:
        return connection
    return context.wrap_socket(
        connection, server_side=listening, do_handshake_on_connect=False
    )


def _wait(listener: socket.socket, handshakes: Sequence[_Handshake]) -> set[int]:
    """Return the files that are ready; wait at most `CANCEL_POLL_S` for one."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    wait_s = CANCEL_POLL_S
    for handshake in handshakes:
        if handshake.event == NOT_BEGUN:
            # Nothing wakes the poll for it: its first step has still to be made.
            wait_s = 0.0
        else:
            poll.register(handshake.connection, handshake.event)
    return {number for number, _ in poll.poll(1000 * wait_s)}
