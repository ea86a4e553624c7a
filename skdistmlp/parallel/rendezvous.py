"""How the shards of a network find and greet each other."""

import select
import socket
import time
from collections.abc import Callable, Sequence

from skdistmlp.exceptions import ExchangeError
from skdistmlp.parallel.mesh import LOOK_UP_S, Link
from skdistmlp.parallel.packet import HEADER_BYTES, Header, Operation

Address = tuple[str, int]
"""Host and port."""

GREETING_S = 5.0
"""Seconds in which whoever connects must say who it is."""


def listen(host: str) -> socket.socket:
    """Return a socket that takes connections on one address, at any free port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family, backlog=128)
    listener.setblocking(False)
    return listener


def meet(
    rank: int,
    listener: socket.socket,
    addresses: Sequence[Address],
    names: Sequence[str],
    run: bytes,
    given_up: Callable[[], bool],
) -> dict[int, Link]:
    """Connect a shard to all others; return when all are there.

    A shard connects to those of lower rank and is connected to by the others.
    Either side greets the other when it runs, which may be late: it may be queued
    behind other work on its worker. So there is no deadline but `given_up`.

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
    run : bytes
        Sixteen bytes that name the fit; who does not know them is turned away.
    given_up : callable
        Says whether to stop waiting.

    Returns
    -------
    dict of int to Link
        Connections to all other shards, by their rank.

    Raises
    ------
    ExchangeError
        If a shard went away or `given_up` says so.
    """
    links: dict[int, Link] = {}
    try:
        for peer in range(rank):
            try:
                connection = socket.create_connection(addresses[peer], GREETING_S)
                connection.sendall(_greeting(run, rank))
            except OSError as error:
                raise ExchangeError(
                    f"cannot reach {names[peer]} at port {addresses[peer][1]}: {error}"
                ) from error
            links[peer] = Link(connection, names[peer])
        while len(links) < len(addresses) - 1:
            _wait_for(listener, given_up, "shards to connect")
            connection, _ = listener.accept()
            guest = _guest(connection, run)
            if guest is None or guest <= rank or guest in links:
                connection.close()
                continue
            connection.sendall(_greeting(run, rank))
            links[guest] = Link(connection, names[guest])
        for peer in range(rank):
            _read_greeting(links[peer], run, peer, given_up)
    except BaseException:
        for link in links.values():
            link.socket.close()
        raise
    return links


def _greeting(run: bytes, rank: int) -> bytes:
    return Header(run, 0, 0, Operation.HELLO, 0, rank, 0, 0, 0).pack()


def _guest(connection: socket.socket, run: bytes) -> int | None:
    """Return the rank of who has connected, or None if it is not of this run."""
    connection.settimeout(GREETING_S)
    deadline = time.monotonic() + GREETING_S
    data = b""
    try:
        while len(data) < HEADER_BYTES and time.monotonic() < deadline:
            more = connection.recv(HEADER_BYTES - len(data))
            if not more:
                return None
            data += more
        rank = Header.unpack(data).shard
    except (OSError, ExchangeError):
        return None
    return rank if data == _greeting(run, rank) else None


def _read_greeting(
    link: Link, run: bytes, rank: int, given_up: Callable[[], bool]
) -> None:
    """Wait until a shard that was connected to says that it runs."""
    data = b""
    while len(data) < HEADER_BYTES:
        _wait_for(link.socket, given_up, link.name)
        try:
            more = link.socket.recv(HEADER_BYTES - len(data))
        except OSError:
            more = b""
        if not more:
            raise ExchangeError(f"{link.name} closed its connection before training")
        data += more
    if data != _greeting(run, rank):
        raise ExchangeError(f"{link.name} belongs to another fit")


def _wait_for(readable: socket.socket, given_up: Callable[[], bool], who: str) -> None:
    poll = select.poll()
    poll.register(readable, select.POLLIN)
    while not poll.poll(1000 * LOOK_UP_S):
        if given_up():
            raise ExchangeError(f"told to give up while waiting for {who}")
