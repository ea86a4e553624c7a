"""How the shards of a network find each other, and prove that they belong together.

Each pair of shards talks, encrypted if the cluster is::

    who connects:  header, nonce
    who listens:   header, nonce, proof
    who connects:  proof

A proof is an HMAC (RFC 2104) over the side, both headers and both nonces. Its key is
the secret of the run, which travels with Dask's messages and never over these
connections.
"""

import errno
import hmac
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
from skdistmlp.wire.communicator import (
    CANCEL_POLL_S,
    WOULD_BLOCK,
    Link,
    event_to_wait_for,
)
from skdistmlp.wire.packet import HEADER_BYTES, Header, Operation

Address = tuple[str, int]
"""Host and port."""

CONNECT_S = 5.0
"""Seconds in which a machine that is there takes a connection."""

HANDSHAKE_TIMEOUT_S = 30.0
"""Seconds in which whoever connects has to prove that it belongs to the fit."""

MAX_UNVERIFIED = 128
"""Conversations with others than shards at a time, so that a crowd cannot use up
memory. Who has waited longest makes room for who comes."""

LISTEN_BACKLOG = 1024
"""Connections that the system keeps for a shard that does not take them yet."""

ARRIVALS_AT_ONCE = 16
"""Connections taken before those taken earlier have their turn: a shard proves who it
is before a crowd behind it can push it out."""

PORT_FREE_WITHIN_S = 3.0
"""Seconds in which the shard of a fit that has ended gives up a port that is fixed."""

NONCE_BYTES = 32
PROOF_BYTES = 32
HELLO_BYTES = HEADER_BYTES + NONCE_BYTES

Talk: TypeAlias = Generator[int, None, int]
"""A conversation: yields what to poll for, and `KNOWN` once the other has named this
run; returns the rank of the other."""


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
        label = Label.HANDSHAKE
        return Header(self.run, 0, 0, Operation.HELLO, label, rank, 0, 0, 0).pack()

    def hello(self, rank: int) -> bytes:
        """Return what a shard begins with: the header and a nonce."""
        return self.header(rank) + secrets.token_bytes(NONCE_BYTES)

    def proof(self, side: bytes, connecting: bytes, listening: bytes) -> bytes:
        """Return the proof of one side, given what both began with."""
        return hmac.digest(self.secret, side + connecting + listening, "sha256")


def listen(host: str, port: int = 0) -> socket.socket:
    """Return a socket that takes connections on one address; port 0 is any free one.

    Raises
    ------
    ExchangeError
        If the port is taken or not allowed, or the address is another machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = _server(host, port, family)
    except OSError as error:
        raise ExchangeError(
            f"cannot take connections from other shards at port {port} of {host}: "
            f"{error}. Set skdistmlp.listen-port to a free port on each worker, or to "
            f"0 for any. {host} is the worker's address in its cluster; where that is "
            f"another machine's, use engine='futures'."
        ) from error
    listener.setblocking(False)
    return listener


def _server(host: str, port: int, family: int) -> socket.socket:
    """Return a socket that listens; wait for the shard of a fit that has just ended."""
    deadline = time.monotonic() + PORT_FREE_WITHIN_S
    while True:
        try:
            return socket.create_server(
                (host, port), family=family, backlog=LISTEN_BACKLOG
            )
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def meet(
    rank: int,
    listener: socket.socket,
    addresses: Sequence[Address],
    names: Sequence[str],
    credentials: Credentials,
    is_cancelled: Callable[[], bool],
    tls: Tls | None = None,
) -> dict[int, Link]:
    """Connect a shard to all others; return when all are there.

    A shard connects to those of lower rank, and the others connect to it. Any of
    them may be queued behind other work on its worker for long, so there is no
    deadline but `is_cancelled`. Who connects and cannot prove that it belongs to the
    run is turned away, and is in nobody's way meanwhile, nor is a crowd of such.

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
        With it connections are encrypted, and plain ones turned away.

    Returns
    -------
    dict of int to Link
        Connections to all other shards, by their rank.

    Raises
    ------
    ExchangeError
        If a shard went away or is not who it should be, or `is_cancelled` says so.
    """
    links: dict[int, Link] = {}
    talks: list[_Handshake] = []
    n_guests = MAX_UNVERIFIED + len(addresses)
    try:
        for peer in range(rank):
            connection = _connected(addresses[peer], names[rank], names[peer], tls)
            steps = _connect_side(connection, rank, peer, credentials)
            talks.append(_Handshake(connection, steps, names[peer]))
        while len(links) < len(addresses) - 1:
            ready = _wait(listener, talks)
            if is_cancelled():
                raise ExchangeError("told to give up while waiting for other shards")
            if listener.fileno() in ready:
                for connection in islice(_arrivals(listener, tls), ARRIVALS_AT_ONCE):
                    steps = _accept_side(connection, rank, credentials)
                    talks.append(_Handshake(connection, steps))
            for talk in talks:
                if talk.event == NOT_BEGUN or talk.connection.fileno() in ready:
                    talk.advance()
            guests = [talk for talk in talks if talk.is_guest and not talk.is_over()]
            # Else in the order of arrival.
            guests.sort(key=lambda guest: guest.is_known)
            for talk in guests[: max(0, len(guests) - n_guests)]:
                talk.event = OVER
            over = [talk for talk in talks if talk.is_over()]
            talks = [talk for talk in talks if talk not in over]
            for talk in over:
                if talk.peer is not None and talk.peer not in links:
                    links[talk.peer] = Link(talk.connection, names[talk.peer])
                else:
                    talk.connection.close()
    except BaseException:
        for link in links.values():
            link.socket.close()
        raise
    finally:
        for talk in talks:
            talk.connection.close()
    return links


NOT_BEGUN, OVER, KNOWN = -1, -2, -3


class _Handshake:
    """A conversation under way, with a shard that was sought or with a stranger.

    Attributes
    ----------
    connection : socket
        Non-blocking.
    event : int
        What to poll for, or `NOT_BEGUN`, or `OVER`.
    peer : int or None
        Rank of the other, when it has proved it.
    is_guest : bool
        Whether the other has connected to this shard.
    is_known : bool
        Whether it has named this run: strangers make room before it.
    """

    def __init__(
        self, connection: socket.socket, steps: Talk, name: str | None = None
    ) -> None:
        self.connection = connection
        self.event = NOT_BEGUN
        self.peer: int | None = None
        self.is_guest = name is None
        self.is_known = False
        self._steps = steps
        self._name = name
        self._deadline = time.monotonic() + HANDSHAKE_TIMEOUT_S

    def advance(self) -> None:
        """Go on until there is something to wait for.

        Raises
        ------
        ExchangeError
            If a shard that was sought is not there, or another is.
        """
        try:
            self.event = next(self._steps)
            if self.event == KNOWN:
                self.is_known = True
                self.event = next(self._steps)
        except StopIteration as end:
            self.event, self.peer = OVER, end.value
        except (OSError, ExchangeError) as error:
            self.event = OVER
            if self._name is not None:
                raise ExchangeError(f"{self._name} {error}") from error

    def is_over(self) -> bool:
        """Say whether it has ended; a stranger has only so much time."""
        late = self.is_guest and time.monotonic() > self._deadline
        return late or self.event == OVER


def _connect_side(
    connection: socket.socket, rank: int, host: int, credentials: Credentials
) -> Talk:
    """Talk with a shard that this one has connected to."""
    yield from _encrypted(connection)
    own = credentials.hello(rank)
    yield from _send(connection, own)
    answer = yield from _receive(connection, HELLO_BYTES + PROOF_BYTES)
    theirs, proof = answer[:HELLO_BYTES], answer[HELLO_BYTES:]
    if not theirs.startswith(credentials.header(host)):
        raise ExchangeError("belongs to another fit")
    if not hmac.compare_digest(proof, credentials.proof(b"listening", own, theirs)):
        raise ExchangeError("cannot prove that it belongs to this fit")
    yield from _send(connection, credentials.proof(b"connecting", own, theirs))
    return host


def _accept_side(
    connection: socket.socket, rank: int, credentials: Credentials
) -> Talk:
    """Talk with whoever has connected to this shard."""
    yield from _encrypted(connection)
    theirs = yield from _receive(connection, HELLO_BYTES)
    guest = Header.unpack(theirs[:HEADER_BYTES]).shard
    if guest <= rank or not theirs.startswith(credentials.header(guest)):
        raise ExchangeError("belongs to another fit")
    yield KNOWN
    own = credentials.hello(rank)
    yield from _send(connection, own + credentials.proof(b"listening", theirs, own))
    proof = yield from _receive(connection, PROOF_BYTES)
    if not hmac.compare_digest(proof, credentials.proof(b"connecting", theirs, own)):
        raise ExchangeError("cannot prove that it belongs to this fit")
    return guest


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
            raise ExchangeError("closed its connection before training")
        data += more
    return data


def _connected(
    address: Address, own_name: str, name: str, tls: Tls | None
) -> socket.socket:
    """Return a connection to a shard."""
    try:
        connection = socket.create_connection(address, CONNECT_S)
    except OSError as error:
        host, port = address
        raise ExchangeError(
            f"{own_name} cannot connect to {name} at port {port} of {host}: {error}. "
            f"Workers have to be able to connect to each other. If a firewall is in "
            f"between, let it pass one port, and set skdistmlp.listen-port to that on "
            f"the workers. If others do not reach {host}, start that worker on an "
            f"address that they do (--host or --contact-address). Or use "
            f"engine='futures', which does without."
        ) from error
    return _prepared(connection, None if tls is None else tls.connecting)


def _arrivals(listener: socket.socket, tls: Tls | None) -> Iterator[socket.socket]:
    """Yield the connections that are waiting to be taken."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            # Nobody is left, or has left again.
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


def _wait(listener: socket.socket, talks: Sequence[_Handshake]) -> set[int]:
    """Return the file numbers where something happened; wait a little for one."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    wait_s = CANCEL_POLL_S
    for talk in talks:
        if talk.event == NOT_BEGUN:
            wait_s = 0.0
        else:
            poll.register(talk.connection, talk.event)
    return {number for number, _ in poll.poll(1000 * wait_s)}
