import select
import socket
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
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
from skdistmlp.parallel.communicators import Label, StopRequested
from skdistmlp.parallel.split import split_neurons
from skdistmlp.wire import communicator as communicator_module
from skdistmlp.wire.communicator import Link, SocketCommunicator
from skdistmlp.wire.packet import DTYPES, HEADER_BYTES, STOP, Header, Operation
from tests.parallel.test_communicators import check_communicator
from tests.strategies import seeds, shares

RUN = b"a fit of a test."

LONG_S = 30
"""Far longer than anything here takes: reaching it is a failure."""


def connected(n_shards, timeout_s=LONG_S, is_cancelled=lambda: False):
    """Return communicators that are connected with each other, over real sockets."""
    links = [{} for _ in range(n_shards)]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for rank in range(n_shards):
            for peer in range(rank):
                mine = socket.create_connection(listener.getsockname())
                theirs, _ = listener.accept()
                links[rank][peer] = Link(mine, f"shard {peer}")
                links[peer][rank] = Link(theirs, f"shard {rank}")
    return [
        SocketCommunicator(rank, own, RUN, timeout_s, is_cancelled)
        for rank, own in enumerate(links)
    ]


def run(communicators, work):
    """Run `work` on every shard at once; return results, or raise what came first."""
    with ThreadPoolExecutor(len(communicators)) as pool:
        try:
            return list(pool.map(work, communicators, timeout=2 * LONG_S))
        finally:
            for communicator in communicators:
                communicator.close()


@settings(max_examples=30)
@given(shares, st.integers(0, 9), st.integers(1, 12), seeds)
def test_the_socket_communicator_meets_the_contract(shares, n_rows, n_columns, seed):
    ranges = split_neurons(n_columns, shares)

    def shard(communicator):
        communicator.begin_step()
        check_communicator(communicator, ranges, n_rows, seed=seed)
        check_communicator(communicator, ranges, n_rows, np.float32, seed)

    run(connected(len(shares)), shard)


@pytest.mark.parametrize("n_shards", [2, 3])
def test_arrays_far_larger_than_any_buffer_do_not_block_each_other(n_shards):
    piece = np.arange(6_000_000.0)

    def shard(communicator):
        communicator.begin_step()
        return communicator.all_reduce(piece, 0, None)

    for total in run(connected(n_shards), shard):
        assert_array_equal(total, n_shards * piece)


def test_all_shards_stop_at_the_same_step():
    def shard(communicator):
        for step in range(1000):
            if step == 5 and communicator.rank == 2:
                communicator.request_stop()
            try:
                communicator.begin_step()
            except StopRequested:
                return step
            communicator.all_reduce(np.ones(1), 0, None)
        return None

    assert run(connected(3), shard) == [6, 6, 6]


def test_a_single_shard_stops_on_request():
    (communicator,) = connected(1)
    communicator.begin_step()
    communicator.request_stop()
    communicator.begin_step()
    with pytest.raises(StopRequested):
        communicator.begin_step()


def test_closing_one_shard_ends_all_others():
    def shard(communicator):
        communicator.begin_step()
        communicator.all_reduce(np.ones(1), 0, None)
        if communicator.rank == 1:
            communicator.close()
            return "closed"
        with pytest.raises(
            ExchangeError, match=r"shard [012] closed its connection in the sum"
        ):
            communicator.all_reduce(np.ones(1), 0, None)
        communicator.close()
        return "told"

    assert run(connected(3), shard) == ["told", "closed", "told"]


def test_a_silent_shard_is_named_after_the_timeout():
    waited = threading.Event()

    def shard(communicator):
        communicator.begin_step()
        if communicator.rank == 1:
            assert waited.wait(LONG_S)
            return None
        try:
            with pytest.raises(
                ExchangeError,
                match=r"0.01 s .* for shard 1 in the forward exchange of layer 2",
            ):
                communicator.all_gather(
                    np.ones((1, 1)), split_neurons(2, [1, 1]), 2, None
                )
        finally:
            waited.set()
        return "named"

    assert run(connected(2, timeout_s=0.01), shard) == ["named", None]


@pytest.mark.parametrize(
    ("exchange", "described"),
    [
        (
            lambda communicator: communicator.all_reduce(np.ones(1), 3, None),
            "the sum of layer 3",
        ),
        (
            lambda communicator: communicator.reduce_scatter(
                np.ones((1, 2)), split_neurons(2, [1, 1]), 1, None
            ),
            "the backward exchange of layer 1",
        ),
        (
            lambda communicator: communicator.all_reduce(np.ones(1), Label.LOSS, None),
            "the sum of the losses",
        ),
        (
            lambda communicator: communicator.all_gather(
                np.ones((1, 1)), split_neurons(2, [1, 1]), Label.GRADIENT, None
            ),
            "the exchange of gradients",
        ),
        (
            lambda communicator: communicator.broadcast(np.ones(1), Label.DECISION),
            "what shard 0 decides",
        ),
        (
            lambda communicator: communicator.broadcast(np.ones(1), Label.PARAMETERS),
            "the parameters from shard 0",
        ),
        (lambda communicator: communicator.wait_for_all(), "the wait for all shards"),
    ],
)
def test_an_error_names_the_exchange(exchange, described):
    def shard(communicator):
        communicator.begin_step()
        if communicator.rank == 0:
            communicator.close()
            return
        with pytest.raises(ExchangeError, match=f" in {described}$"):
            exchange(communicator)

    run(connected(2), shard)


def test_a_cancelled_shard_does_not_wait():
    told = threading.Event()
    communicators = connected(2, is_cancelled=told.is_set)

    def shard(communicator):
        communicator.begin_step()
        if communicator.rank == 1:
            told.set()
            return
        with pytest.raises(ExchangeError, match="cancelled because the fit ended"):
            communicator.broadcast(
                np.ones(1), 0
            ) if communicator.rank else communicator.all_reduce(np.ones(1), 0, None)

    run(communicators, shard)


@pytest.mark.parametrize(
    "late", ["step", "operation", "label", "shape", "dtype", "run"]
)
def test_a_packet_of_another_exchange_is_refused(late):
    def shard(communicator):
        communicator.begin_step()
        wrong = communicator.rank == 1
        if wrong and late == "step":
            communicator.begin_step()
        if wrong and late == "run":
            communicator._run = b"another fit....."
        array = np.ones((2, 2 if wrong and late == "shape" else 3))
        if wrong and late == "dtype":
            array = array.astype(np.float32)
        if wrong and late == "operation":
            return communicator.reduce_scatter(array, split_neurons(3, [3, 0]), 0, None)
        return communicator.all_reduce(array, int(wrong and late == "label"), None)

    with pytest.raises(ExchangeError, match="a packet has"):
        run(connected(2), shard)


# Whatever a peer sends.


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
    """A socket that gives so many bytes at a time; with 0 it has none yet."""

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


@settings(max_examples=300)
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
        patch.object(communicator_module, "CANCEL_POLL_S", 0.002),
        patch.object(communicator_module, "time", clock := PolledTime()),
        patch.object(communicator_module, "select", clock),
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


def test_a_shard_that_is_late_for_a_round_is_waited_for():
    """For longer than an exchange may take."""
    waiting = threading.Event()

    def shard(communicator):
        communicator.begin_step()
        if communicator.rank == 1:
            assert waiting.wait(LONG_S)
            time.sleep(0.1)  # ten times the timeout, in which nothing may happen
        else:
            waiting.set()
        communicator.wait_for_all()
        return True

    assert run(connected(2, timeout_s=0.01), shard) == [True, True]
