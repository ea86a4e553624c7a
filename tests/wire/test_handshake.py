import pickle
import select
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skdistmlp.exceptions import ExchangeError
from skdistmlp.wire import handshake
from skdistmlp.wire.handshake import (
    HELLO_BYTES,
    NONCE_BYTES,
    PROOF_BYTES,
    Credentials,
    listen,
    meet,
)
from skdistmlp.wire.packet import Header, Operation

OURS = Credentials(b"a fit of a test.", b"s" * 32)
THEIRS = replace(OURS, secret=b"t" * 32)
"""The same run, which can be overheard, without its secret."""


@pytest.fixture
def listeners():
    opened = [listen("127.0.0.1") for _ in range(3)]
    yield opened
    for listener in opened:
        listener.close()


def never():
    return False


def meeting(listeners, rank, credentials=OURS, is_cancelled=never, tls=None):
    addresses = [listener.getsockname() for listener in listeners]
    names = [f"shard {rank}" for rank in range(len(listeners))]
    return meet(rank, listeners[rank], addresses, names, credentials, is_cancelled, tls)


def all_meet(listeners, credentials=OURS, tls=None):
    """Let all shards meet; return their links."""
    with ThreadPoolExecutor(len(listeners)) as pool:
        met = [
            pool.submit(meeting, listeners, rank, credentials, tls=tls)
            for rank in range(len(listeners))
        ]
        return [future.result(30) for future in met]


def close(links):
    for link in links.values():
        link.socket.close()


def assert_complete(results):
    for rank, links in enumerate(results):
        others = set(range(len(results))) - {rank}
        assert {peer: link.name for peer, link in links.items()} == {
            peer: f"shard {peer}" for peer in others
        }


def test_all_shards_connect_in_any_order(listeners):
    """Shard 0 comes last: those that wait for it are not in its way."""
    late = threading.Event()

    def shard(rank):
        if rank == 0:
            assert late.wait(30)
        return meeting(listeners, rank)

    with ThreadPoolExecutor(3) as pool:
        met = [pool.submit(shard, rank) for rank in range(3)]
        late.set()
        results = [future.result(30) for future in met]
    assert_complete(results)
    for links in results:
        close(links)


# Uninvited guests.


def said(data):
    """Return a guest that says something, and listens to what comes."""

    def guest(address, let_go):
        connection = socket.create_connection(address)
        connection.sendall(data)
        return connection

    return guest


def hello(credentials, rank):
    return credentials.hello(rank)


STRANGERS = {
    "a browser": b"GET / HTTP/1.1\r\n\r\n" + b" " * HELLO_BYTES,
    "another fit": hello(replace(OURS, run=b"another fit....."), 1),
    "itself": hello(OURS, 0),
    "another operation": Header(OURS.run, 0, 0, Operation.BROADCAST, 0, 1, 0, 0, 0)
    .pack()
    .ljust(HELLO_BYTES),
    "without the secret": hello(THEIRS, 1) + b"p" * PROOF_BYTES,
}


@pytest.mark.parametrize("data", STRANGERS.values(), ids=STRANGERS)
def test_connections_without_the_secret_are_dropped(listeners, data):
    listeners = listeners[:2]
    with closing(socket.create_connection(listeners[0].getsockname())) as uninvited:
        uninvited.sendall(data)
        results = all_meet(listeners)
        assert_complete(results)
        uninvited.settimeout(30)
        with suppress(ConnectionResetError):  # turned away with bytes unread
            while uninvited.recv(4096):
                pass
    for links in results:
        close(links)


def test_a_recorded_proof_cannot_be_replayed(listeners):
    """A recorded conversation is said again: the nonces are new."""
    recorded = {"guest": b"", "host": b""}
    listeners = listeners[:2]

    def relay(relayed, ends, host):
        guest, _ = relayed.accept()
        with guest, socket.create_connection(host) as onward:
            while not ends.is_set():
                for one, other, who in (
                    (guest, onward, "guest"),
                    (onward, guest, "host"),
                ):
                    if select.select([one], [], [], 0.01)[0]:
                        data = one.recv(4096)
                        recorded[who] += data
                        other.sendall(data)

    ends = threading.Event()
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as relayed,
        ThreadPoolExecutor(3) as pool,
    ):
        relaying = pool.submit(relay, relayed, ends, listeners[0].getsockname())
        addresses = [relayed.getsockname(), listeners[1].getsockname()]
        names = ["shard 0", "shard 1"]
        host = pool.submit(meeting, listeners, 0)
        guest = pool.submit(meet, 1, listeners[1], addresses, names, OURS, never)
        first = [host.result(30), guest.result(30)]
        ends.set()
        relaying.result(30)
    for links in first:
        close(links)
    assert len(recorded["guest"]) == HELLO_BYTES + PROOF_BYTES

    is_cancelled = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        host = pool.submit(meeting, listeners, 0, is_cancelled=is_cancelled.is_set)
        with closing(socket.create_connection(listeners[0].getsockname())) as replayed:
            replayed.sendall(recorded["guest"])
            replayed.settimeout(30)
            answer = b""
            with suppress(ConnectionResetError):
                while more := replayed.recv(4096):
                    answer += more
        assert not host.done(), "the shard still waits for the real one"
        is_cancelled.set()
        with pytest.raises(ExchangeError, match="cancelled"):
            host.result(30)
    assert len(answer) == HELLO_BYTES + PROOF_BYTES


def test_the_secret_is_never_sent(listeners, monkeypatch):
    sent = []
    original = handshake._send

    def send(connection, data):
        sent.append(data)
        return original(connection, data)

    monkeypatch.setattr(handshake, "_send", send)
    for links in all_meet(listeners[:2]):
        close(links)
    assert len(sent) == 3
    assert OURS.secret not in b"".join(sent)
    assert "s" * 32 not in repr(OURS)


@given(data=st.binary(max_size=3 * HELLO_BYTES), began=st.booleans())
@settings(max_examples=60, deadline=None)
def test_invalid_connections_do_not_disturb_a_handshake(data, began):
    """Whatever comes, before or behind a valid beginning."""
    if began:
        data = hello(THEIRS, 1)[: HELLO_BYTES - NONCE_BYTES] + data
    opened = [listen("127.0.0.1") for _ in range(2)]
    try:
        stranger = socket.create_connection(opened[0].getsockname())
        with closing(stranger):
            stranger.sendall(data)
            results = all_meet(opened)
            assert_complete(results)
            for links in results:
                close(links)
    finally:
        for listener in opened:
            listener.close()


def test_a_silent_connection_blocks_nobody(listeners):
    listeners = listeners[:2]
    with closing(socket.create_connection(listeners[0].getsockname())):
        results = all_meet(listeners)
    assert_complete(results)
    for links in results:
        close(links)


def test_the_oldest_unverified_connection_is_dropped_first(listeners):
    """So shards get through, and no more connections are open than there is room."""
    room = handshake.MAX_UNVERIFIED + len(listeners)
    with ExitStack() as opened:
        pool = opened.enter_context(ThreadPoolExecutor(3))
        met = [pool.submit(meeting, listeners, 0)]
        # Beyond the length of the listener's queue, each has to be taken first.
        crowd = [
            opened.enter_context(
                socket.create_connection(listeners[0].getsockname(), 30)
            )
            for _ in range(300)
        ]
        for stranger in crowd[:-room]:
            assert stranger.recv(1) == b""
        for stranger in crowd[-room:]:
            stranger.setblocking(False)
            with pytest.raises(BlockingIOError):
                stranger.recv(1)
        met += [pool.submit(meeting, listeners, rank) for rank in (1, 2)]
        results = [future.result(30) for future in met]
    assert_complete(results)
    for links in results:
        close(links)


def test_connections_that_named_the_run_are_dropped_last(listeners):
    """However long a shard takes for its next step."""
    with ExitStack() as opened:
        pool = opened.enter_context(ThreadPoolExecutor(3))
        met = [pool.submit(meeting, listeners, 0)]
        host = listeners[0].getsockname()
        slow = opened.enter_context(socket.create_connection(host, 30))
        slow.sendall(OURS.hello(1))
        assert len(slow.recv(HELLO_BYTES, socket.MSG_WAITALL)) == HELLO_BYTES
        crowd = [
            opened.enter_context(socket.create_connection(host, 30)) for _ in range(300)
        ]
        assert crowd[0].recv(1) == b""
        slow.recv(PROOF_BYTES, socket.MSG_WAITALL)
        slow.setblocking(False)
        with pytest.raises(BlockingIOError):
            slow.recv(1)
        met += [pool.submit(meeting, listeners, rank) for rank in (1, 2)]
        results = [future.result(30) for future in met]
    assert_complete(results)
    for links in results:
        close(links)


def test_a_port_in_use_is_retried_until_it_is_free(monkeypatch):
    before = listen("127.0.0.1")
    port = before.getsockname()[1]
    tried = threading.Event()
    sleep = time.sleep

    def sleep_and_tell(seconds):
        tried.set()
        sleep(seconds)

    monkeypatch.setattr(handshake.time, "sleep", sleep_and_tell)
    with ThreadPoolExecutor(1) as pool:
        after = pool.submit(listen, "127.0.0.1", [port])
        assert tried.wait(30)
        before.close()
        with closing(after.result(30)) as listener:
            assert listener.getsockname()[1] == port


def test_unverified_connections_time_out(listeners, monkeypatch):
    monkeypatch.setattr(handshake, "HANDSHAKE_TIMEOUT_S", 0.05)
    is_cancelled = threading.Event()
    with (
        ThreadPoolExecutor(1) as pool,
        closing(socket.create_connection(listeners[0].getsockname())) as stranger,
    ):
        host = pool.submit(meeting, listeners[:2], 0, is_cancelled=is_cancelled.is_set)
        stranger.settimeout(30)
        began = time.monotonic()
        assert stranger.recv(1) == b""
        assert time.monotonic() - began < 30
        is_cancelled.set()
        assert isinstance(host.exception(30), ExchangeError)


# Shards that were sought.


@pytest.mark.parametrize("rank", [0, 1])
def test_a_cancelled_shard_stops_waiting(listeners, rank):
    with pytest.raises(ExchangeError, match="cancelled while waiting for"):
        meeting(listeners[:2], rank, is_cancelled=lambda: True)


def test_an_unreachable_shard_is_named_with_advice(listeners):
    addresses = [listener.getsockname() for listener in listeners[:2]]
    names = ["shard 0 on tcp://10.0.0.1:1", "shard 1 on tcp://10.0.0.2:2"]
    listeners[0].close()
    with pytest.raises(ExchangeError) as refused:
        meet(1, listeners[1], addresses, names, OURS, never)
    # The documented class, not an internal one.
    assert refused.type is ExchangeError
    assert isinstance(refused.value.__cause__, ConnectionRefusedError)
    # Which is known in the client too.
    assert pickle.loads(pickle.dumps(refused.value)).apart == ((1, 0),)
    assert str(refused.value).startswith(
        f"{names[1]} cannot connect to {names[0]} at port {addresses[0][1]} of "
        f"127.0.0.1: connection refused. "
    )
    for advice in ("skdistmlp.listen-port", "--contact-address", "engine='futures'"):
        assert advice in str(refused.value)


def test_a_shard_out_of_reach_is_waited_for_until_the_fit_ends(listeners):
    """As behind a firewall that drops packets: its queue of connections is full."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        addresses = [full.getsockname(), *(one.getsockname() for one in listeners[1:])]
        ends_at = time.monotonic() + 0.3
        met = []

        def meet_others(rank, has_ended):
            names = ["shard 0", "shard 1", "shard 2"]
            listener = listeners[rank]
            return meet(
                rank, listener, addresses, names, OURS, has_ended, None, met.append
            )

        with ThreadPoolExecutor(2) as pool:
            waiting = [
                pool.submit(
                    meet_others,
                    rank,
                    lambda: len(met) == 2 and time.monotonic() > ends_at,
                )
                for rank in (1, 2)
            ]
            for one in waiting:
                with pytest.raises(ExchangeError, match="cancelled while waiting for"):
                    one.result(30)
    # The others have found each other meanwhile.
    assert sorted(met) == [1, 2]


def test_an_address_of_another_machine_is_reported():
    """As a worker's contact address may be: 192.0.2.1 is nobody's (RFC 5737)."""
    with pytest.raises(ExchangeError, match=r"192\.0\.2\.1.*'futures'"):
        listen("192.0.2.1")


def somebody_else(listener, data):
    """Take a connection, say something and leave."""
    select.select([listener], [], [], 30)
    connection, _ = listener.accept()
    with connection:
        connection.setblocking(True)
        connection.recv(4096)
        connection.sendall(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "shard 0 closed its connection while connecting to the others"),
        (b"HTTP/1.1 400 ".ljust(HELLO_BYTES + PROOF_BYTES), "belongs to another fit"),
        (
            hello(THEIRS, 0) + b"p" * PROOF_BYTES,
            "shard 0 cannot prove that it belongs to this fit",
        ),
    ],
    ids=["leaves", "another program", "an impostor"],
)
def test_a_peer_that_is_not_the_expected_shard_is_named(listeners, data, message):
    with ThreadPoolExecutor(1) as pool:
        left = pool.submit(somebody_else, listeners[0], data)
        with pytest.raises(ExchangeError, match=message) as failed:
            meeting(listeners[:2], 1)
        left.result(30)
    # It was there.
    assert not failed.value.apart


def test_a_port_in_use_is_reported(listeners):
    port = listeners[0].getsockname()[1]
    with pytest.raises(ExchangeError, match=rf"port {port} .*skdistmlp.listen-port"):
        listen("127.0.0.1", [port])


def free_ports(number):
    """Return consecutive ports that are free at the moment."""
    for first in range(42_000, 60_000, number):
        ports = range(first, first + number)
        try:
            for port in ports:
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return ports
    raise AssertionError("no free ports")


def test_a_shard_listens_at_the_first_free_port_of_a_range(monkeypatch):
    monkeypatch.setattr(handshake, "PORT_FREE_S", 0.0)
    ports = free_ports(3)
    with ExitStack() as stack:
        found = [
            stack.enter_context(listen("127.0.0.1", ports)).getsockname()[1]
            for _ in ports
        ]
        assert found == list(ports)
        with pytest.raises(ExchangeError) as refused:
            listen("127.0.0.1", ports)
    tried = f"{ports[0]}:{ports[-1]}"
    assert str(refused.value).startswith(
        f"cannot listen for other shards on port {tried} of 127.0.0.1: address already "
        f"in use. skdistmlp.listen-port is {tried} there; set it"
    )
