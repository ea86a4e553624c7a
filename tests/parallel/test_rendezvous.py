import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from skdistmlp.exceptions import ExchangeError
from skdistmlp.parallel import rendezvous
from skdistmlp.parallel.packet import Header, Operation
from skdistmlp.parallel.rendezvous import listen, meet

RUN = b"a fit of a test."


@pytest.fixture
def listeners():
    opened = [listen("127.0.0.1") for _ in range(3)]
    yield opened
    for listener in opened:
        listener.close()


def meeting(listeners, rank, run=RUN, given_up=lambda: False):
    addresses = [listener.getsockname() for listener in listeners]
    names = [f"shard {rank}" for rank in range(len(listeners))]
    return meet(rank, listeners[rank], addresses, names, run, given_up)


def close(links):
    for link in links.values():
        link.socket.close()


def test_every_shard_meets_every_other_whoever_comes_first(listeners):
    """Shard 0 comes last: those that wait for it are not in its way."""
    late = threading.Event()

    def shard(rank):
        if rank == 0:
            assert late.wait(30)
        links = meeting(listeners, rank)
        return {peer: link.name for peer, link in links.items()}, links

    with ThreadPoolExecutor(3) as pool:
        met = [pool.submit(shard, rank) for rank in range(3)]
        late.set()
        results = [future.result(30) for future in met]
    for rank, (names, links) in enumerate(results):
        assert names == {peer: f"shard {peer}" for peer in {0, 1, 2} - {rank}}
        close(links)


GUESTS = {
    "another fit": Header(b"another fit.....", 0, 0, Operation.HELLO, 0, 1, 0, 0, 0),
    "itself": Header(RUN, 0, 0, Operation.HELLO, 0, 0, 0, 0, 0),
    "another operation": Header(RUN, 0, 0, Operation.BROADCAST, 0, 1, 0, 0, 0),
}


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n" + b" " * 99, *GUESTS.values()]
)
def test_who_was_not_invited_is_turned_away(listeners, data):
    listeners = listeners[:2]
    uninvited = socket.create_connection(listeners[0].getsockname())
    uninvited.sendall(data if isinstance(data, bytes) else data.pack())
    with ThreadPoolExecutor(2) as pool:
        met = [pool.submit(meeting, listeners, rank) for rank in range(2)]
        results = [future.result(30) for future in met]
    assert [set(links) for links in results] == [{1}, {0}]
    uninvited.settimeout(30)
    with suppress(ConnectionResetError):  # turned away with bytes unread
        assert uninvited.recv(1) == b""
    uninvited.close()
    for links in results:
        close(links)


def test_who_says_nothing_does_not_hold_the_others_up_for_long(listeners, monkeypatch):
    monkeypatch.setattr(rendezvous, "GREETING_S", 0.05)
    listeners = listeners[:2]
    with (
        socket.create_connection(listeners[0].getsockname()),
        ThreadPoolExecutor(2) as pool,
    ):
        met = [pool.submit(meeting, listeners, rank) for rank in range(2)]
        for future in met:
            close(future.result(30))


@pytest.mark.parametrize("rank", [0, 1])
def test_who_is_told_to_give_up_waits_no_longer(listeners, rank):
    with pytest.raises(ExchangeError, match="told to give up while waiting for"):
        meeting(listeners[:2], rank, given_up=lambda: True)


def test_a_shard_that_is_gone_is_named(listeners):
    addresses = [listener.getsockname() for listener in listeners[:2]]
    listeners[0].close()
    with pytest.raises(ExchangeError, match="cannot reach shard 0 at port"):
        meet(1, listeners[1], addresses, ["shard 0", "shard 1"], RUN, lambda: False)


def test_a_shard_that_leaves_before_training_is_named(listeners):
    def leave():
        listeners[0].setblocking(True)
        connection, _ = listeners[0].accept()
        connection.close()

    with ThreadPoolExecutor(1) as pool:
        left = pool.submit(leave)
        with pytest.raises(ExchangeError, match="shard 0 closed its connection before"):
            meeting(listeners[:2], 1)
        left.result(30)
