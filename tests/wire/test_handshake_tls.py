"""How shards find each other where the cluster is encrypted."""

import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import trustme
from numpy.testing import assert_array_equal

from skdistmlp.exceptions import ExchangeError
from skdistmlp.wire.communicator import SocketCommunicator
from skdistmlp.wire.handshake import Tls, listen
from tests.wire.test_handshake import (
    OURS,
    all_meet,
    assert_complete,
    close,
    hello,
    meeting,
)


@pytest.fixture
def listeners():
    opened = [listen("127.0.0.1") for _ in range(3)]
    yield opened
    for listener in opened:
        listener.close()


def tls_of(authority):
    """Return contexts as Dask makes them: both sides show a certificate."""
    contexts = []
    for purpose in (ssl.Purpose.CLIENT_AUTH, ssl.Purpose.SERVER_AUTH):
        context = ssl.create_default_context(purpose)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(context)
        authority.issue_cert("worker.test").configure_cert(context)
        contexts.append(context)
    return Tls(*contexts)


@pytest.fixture(scope="module")
def tls():
    return tls_of(trustme.CA())


@pytest.fixture(scope="module")
def foreign_tls():
    return tls_of(trustme.CA())


def test_arrays_of_any_size_are_exchanged_over_tls(listeners, tls):
    """Far more than any buffer holds goes both ways at once."""
    results = all_meet(listeners, tls=tls)
    assert_complete(results)
    assert all(
        isinstance(link.socket, ssl.SSLSocket)
        for links in results
        for link in links.values()
    )
    communicators = [
        SocketCommunicator(rank, links, OURS.run, 30)
        for rank, links in enumerate(results)
    ]
    pieces = [np.random.default_rng(r).normal(size=(1000, 700)) for r in range(3)]

    def reduced(rank):
        communicators[rank].begin_step()
        return communicators[rank].all_reduce(pieces[rank], 0, None)

    with ThreadPoolExecutor(3) as pool:
        for total in pool.map(reduced, range(3), timeout=60):
            assert_array_equal(total, pieces[0] + pieces[1] + pieces[2])
    for communicator in communicators:
        communicator.close()


def test_plain_or_untrusted_connections_are_dropped(listeners, tls, foreign_tls):
    listeners = listeners[:2]
    strangers = [socket.create_connection(listeners[0].getsockname()) for _ in range(2)]
    strangers[0].sendall(hello(OURS, 1))
    with ThreadPoolExecutor(1) as pool:
        shaken = pool.submit(_handshake, strangers[1], foreign_tls)
        results = all_meet(listeners, tls=tls)
        assert isinstance(shaken.exception(30), OSError)
    assert_complete(results)
    for links in results:
        close(links)
    strangers[0].close()


def _handshake(connection, tls):
    connection.settimeout(30)
    with tls.connecting.wrap_socket(connection) as encrypted:
        # In TLS 1.3 the other's verdict comes after the handshake.
        encrypted.sendall(b"x")
        while encrypted.recv(4096):
            pass
        raise ConnectionError("turned away")


@pytest.mark.parametrize("here", ["plain", "foreign"])
def test_a_shard_refuses_plain_or_untrusted_peers(listeners, tls, foreign_tls, here):
    is_cancelled = threading.Event()
    listeners = listeners[:2]
    with ThreadPoolExecutor(1) as pool:
        host = pool.submit(
            meeting, listeners, 0, is_cancelled=is_cancelled.is_set, tls=tls
        )
        mine = None if here == "plain" else foreign_tls
        with pytest.raises(ExchangeError, match="shard 0"):
            meeting(listeners, 1, tls=mine)
        assert not host.done()
        is_cancelled.set()
        with pytest.raises(ExchangeError, match="cancelled"):
            host.result(30)
