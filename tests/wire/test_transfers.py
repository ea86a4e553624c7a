"""The communicator of a shard whose peer may send anything."""

import select
import socket
import time
import tracemalloc
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import cycle
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skdistmlp.exceptions import ExchangeError
from skdistmlp.parallel.communicators import StopRequested
from skdistmlp.parallel.split import split_neurons
from skdistmlp.wire import transfers
from skdistmlp.wire.communicator import SocketCommunicator
from skdistmlp.wire.packet import DTYPES, HEADER_BYTES, STOP, Header, Operation
from skdistmlp.wire.transfers import Link
from tests.strategies import seeds

RUN = b"a fit of a test."


@dataclass(frozen=True)
class Exchange:
    """One collective among two shards, and what it makes of their arrays."""

    operation: Operation
    label: int
    n_rows: int
    n_columns: int
    dtype: np.dtype
    in_new_step: bool

    def ranges(self):
        return split_neurons(self.n_columns, [1, 1])

    def shapes(self, rank):
        """Return the shapes of what a shard has, and of what the other sends it."""
        whole = (self.n_rows, self.n_columns)
        parts = [(self.n_rows, len(part)) for part in self.ranges()]
        if self.operation == Operation.ALL_GATHER:
            return parts[rank], parts[1 - rank]
        if self.operation == Operation.REDUCE_SCATTER:
            return whole, parts[rank]
        return whole, whole

    def of(self, communicator, mine):
        """Carry it out."""
        if self.operation == Operation.ALL_GATHER:
            return communicator.all_gather(mine, self.ranges(), self.label, None)
        if self.operation == Operation.REDUCE_SCATTER:
            return communicator.reduce_scatter(mine, self.ranges(), self.label, None)
        if self.operation == Operation.ALL_REDUCE:
            return communicator.all_reduce(mine, self.label, None)
        return communicator.broadcast(mine, self.label)

    def result(self, rank, mine, theirs):
        """Return what should come of it."""
        if self.operation == Operation.ALL_GATHER:
            return np.concatenate([mine, theirs] if rank == 0 else [theirs, mine], 1)
        if self.operation == Operation.REDUCE_SCATTER:
            mine = mine[:, self.ranges()[rank].columns]
        return theirs if self.operation == Operation.BROADCAST else mine + theirs


exchanges = st.builds(
    Exchange,
    operation=st.sampled_from(
        [Operation.ALL_GATHER, Operation.REDUCE_SCATTER, Operation.ALL_REDUCE]
    ),
    label=st.integers(0, 3),
    n_rows=st.integers(0, 9),
    n_columns=st.integers(1, 12),
    dtype=st.sampled_from(DTYPES),
    in_new_step=st.booleans(),
)

broadcasts = st.builds(
    Exchange,
    operation=st.just(Operation.BROADCAST),
    label=st.just(0),
    n_rows=st.integers(1, 9),
    n_columns=st.integers(1, 12),
    dtype=st.sampled_from(DTYPES),
    in_new_step=st.booleans(),
)

FIELDS = {
    "run": st.binary(min_size=16, max_size=16),
    "generation": st.integers(0, 2**32 - 1),
    "step": st.integers(0, 2**64 - 1),
    "operation": st.integers(0, 255),
    "label": st.integers(0, 2**16 - 1),
    "shard": st.integers(0, 2**16 - 1),
    "dtype": st.integers(0, 255),
    "n_rows": st.integers(0, 2**32 - 1),
    "n_columns": st.integers(0, 2**32 - 1),
    "flags": st.integers(0, 255),
}


@st.composite
def conversations(draw):
    """What shard `rank` expects of its peer, and the bytes that come instead."""
    rank = draw(st.integers(0, 1))
    kinds = exchanges | broadcasts if rank == 1 else exchanges
    plan = draw(st.lists(kinds, min_size=1, max_size=4))
    values = np.random.default_rng(draw(seeds))
    step, steps, packets = 1, [], []
    for exchange in plan:
        step += exchange.in_new_step
        steps.append(step)
        array = values.random(exchange.shapes(rank)[1]).astype(exchange.dtype)
        header = Header(
            RUN,
            0,
            step,
            exchange.operation,
            exchange.label,
            1 - rank,
            DTYPES.index(exchange.dtype),
            *array.shape,
            draw(st.sampled_from([0, 0, 0, STOP])),
        )
        packets.append((header, array.tobytes()))
    return rank, plan, steps, draw(disturbed(packets))


@st.composite
def disturbed(draw, packets):
    """Return the headers that are expected, and a stream of bytes."""
    expected = [header for header, _ in packets]
    whole = b"".join(header.pack() + data for header, data in packets)
    where = draw(st.integers(0, len(packets) - 1))
    header, data = packets[where]
    kind = draw(
        st.sampled_from(["right", "field", "cut", "more", "bytes", "repeated", "any"])
    )
    stream = whole
    if kind == "field":
        name = draw(st.sampled_from(list(FIELDS)))
        header = header._replace(**{name: draw(FIELDS[name])})
        packets = [*packets[:where], (header, data), *packets[where + 1 :]]
        stream = b"".join(header.pack() + data for header, data in packets)
    elif kind == "cut":
        stream = whole[: draw(st.integers(0, len(whole)))]
    elif kind == "more":
        stream = whole + draw(st.binary(min_size=1, max_size=200))
    elif kind == "bytes":
        at = draw(st.integers(0, len(whole) - 1))
        stream = whole[:at] + draw(st.binary(max_size=20)) + whole[at + 1 :]
    elif kind == "repeated":
        again = packets[: where + 1] + packets[where:]
        stream = b"".join(header.pack() + data for header, data in again)
    elif kind == "any":
        stream = draw(st.binary(max_size=400))
    return expected, stream


class Dribbling(socket.socket):
    """A socket that delivers a few bytes at a time; 0 means that none are there yet."""

    def __init__(self, connection, portions):
        super().__init__(fileno=connection.detach())
        self._portions = cycle(portions)

    def recv_into(self, room):
        portion = next(self._portions)
        if portion == 0:
            raise BlockingIOError
        return super().recv_into(room[:portion])


HANG_S = 5
"""A thousand times the timeout of the exchange: it should have ended long before."""

GUARD = 64
"""Bytes on either side of an array, where nobody may write."""

NOISE_BYTES = 2**22
"""What else may be allocated meanwhile: messages, and by threads of other tests."""


class PolledTime:
    """A clock that runs while there is nothing to read or write.

    It stands while this process waits for a core: on a busy machine, a packet that has
    arrived would otherwise be late. It stands for the modules `time` and `select`.
    """

    POLLIN, POLLOUT = select.POLLIN, select.POLLOUT

    def __init__(self):
        self._now = 0.0

    def monotonic(self):
        self._now += 1e-6  # whoever asks again and again has to come to an end
        return self._now

    def poll(self):
        polled = select.poll()

        def wait(milliseconds):
            ready = polled.poll(milliseconds)
            self._now += 0 if ready else milliseconds / 1000
            return ready

        return SimpleNamespace(register=polled.register, poll=wait)


@contextmanager
def communicator_and_peer(rank, portions):
    """Give a communicator of two shards, and the other end of its only connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = socket.create_connection(server.getsockname())
        mine, _ = server.accept()
    hang = time.monotonic() + HANG_S
    communicator = SocketCommunicator(
        rank,
        {1 - rank: Link(Dribbling(mine, portions), "the peer")},
        RUN,
        timeout_s=0.005,
        is_cancelled=lambda: time.monotonic() > hang,
    )
    with closing(communicator), peer:
        yield communicator, peer


@contextmanager
def allocating_at_most(n_bytes):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < n_bytes
    finally:
        tracemalloc.stop()


@settings(max_examples=100)
@given(
    conversation=conversations(),
    closes=st.booleans(),
    portions=st.lists(st.integers(0, 70), min_size=1, max_size=9).filter(any),
)
def test_any_bytes_from_a_peer_give_the_right_array_or_an_error(
    conversation, closes, portions
):
    """Judged by what the bytes say: a packet is right in all, or it is refused."""
    rank, plan, steps, (expected, stream) = conversation
    n_bytes = sum(8 * e.n_rows * e.n_columns for e in plan)
    with (
        patch.object(transfers, "CANCEL_POLL_S", 0.002),
        patch.object(transfers, "time", clock := PolledTime()),
        patch.object(transfers, "select", clock),
        communicator_and_peer(rank, portions) as (communicator, peer),
        np.errstate(all="ignore"),
        allocating_at_most(NOISE_BYTES + 6 * n_bytes),
    ):
        peer.sendall(stream)
        if closes:
            peer.shutdown(socket.SHUT_WR)
        communicator.begin_step()
        step, stops = 1, False
        for exchange, its_step, header in zip(plan, steps, expected, strict=True):
            if its_step > step:
                if stops:
                    with pytest.raises(StopRequested):
                        communicator.begin_step()
                    return
                communicator.begin_step()
                step = its_step
            room, mine = guarded(exchange, rank)
            before = mine.copy()
            head, data, stream = taken(stream, header)
            is_right = head[:-1] == header.pack()[:-1] and head[-1] in (0, STOP)
            if is_right and len(data) == header_bytes(header):
                stops = stops or head[-1] == STOP
                theirs = np.frombuffer(data, exchange.dtype)
                theirs = theirs.reshape(exchange.shapes(rank)[1])
                wanted = exchange.result(rank, before, theirs)
                assert_array_equal(exchange.of(communicator, mine), wanted)
                assert_untouched(room)
                continue
            with pytest.raises(
                ExchangeError, match=r"^(a packet|expected|the p(acket|eer) |waited)"
            ):
                exchange.of(communicator, mine)
            assert_untouched(room)
            if not is_right or exchange.operation != Operation.BROADCAST:
                assert_array_equal(mine, before)
            return


def guarded(exchange, rank):
    """Return an array to take part with, in the middle of a larger one."""
    n_rows, n_columns = exchange.shapes(rank)[0]
    room = np.full(2 * GUARD + n_rows * n_columns, 7, exchange.dtype)
    mine = room[GUARD : GUARD + n_rows * n_columns].reshape(n_rows, n_columns)
    mine[:] = 0.25
    return room, mine


def assert_untouched(room):
    assert (room[:GUARD] == 7).all()
    assert (room[-GUARD:] == 7).all()


def header_bytes(header):
    return header.n_rows * header.n_columns * DTYPES[header.dtype].itemsize


def taken(stream, header):
    """Cut off what a packet with that header takes."""
    end = HEADER_BYTES + header_bytes(header)
    return stream[:HEADER_BYTES].ljust(1), stream[HEADER_BYTES:end], stream[end:]
