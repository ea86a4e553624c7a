"""Several exchanges under way at once, over sockets."""

import threading
from typing import get_args
from unittest.mock import patch

import numpy as np
import pytest
import trustme
from numpy.testing import assert_array_equal

from skdistmlp.exceptions import ExchangeError
from skdistmlp.parallel import communicators
from skdistmlp.parallel.communicators import Label, StopRequested
from skdistmlp.parallel.grid import Axis, Grid
from skdistmlp.parallel.split import split_neurons
from skdistmlp.wire.communicator import SocketCommunicator
from skdistmlp.wire.handshake import listen
from tests.parallel.test_communicators import GRIDS, check_communicator
from tests.wire.test_communicator import LONG_S, connected, run
from tests.wire.test_handshake import OURS, all_meet
from tests.wire.test_handshake_tls import tls_of

N_LARGE = 2_000_000
"""Numbers of a packet that takes more than all buffers of the kernel."""


def connected_with_tls(n_shards):
    listeners = [listen("127.0.0.1") for _ in range(n_shards)]
    try:
        met = all_meet(listeners, tls=tls_of(trustme.CA()))
    finally:
        for listener in listeners:
            listener.close()
    return [
        SocketCommunicator(rank, links, OURS.run, LONG_S)
        for rank, links in enumerate(met)
    ]


CONNECTED = {
    "2 shards": lambda: connected(2),
    "3 shards": lambda: connected(3),
    "3 shards, TLS": lambda: connected_with_tls(3),
}


@pytest.mark.parametrize("connect", CONNECTED.values(), ids=CONNECTED.keys())
def test_packets_larger_than_any_buffer_travel_at_once(connect):
    """Both ways, two under way: one process waits while the others compute."""

    def shard(communicator):
        communicator.begin_step()
        rank, n_ranks = communicator.rank, communicator.n_ranks
        ranges = split_neurons(N_LARGE, range(1, n_ranks + 1))
        whole = np.arange(float(N_LARGE))[np.newaxis]
        part, piece = whole[:, ranges[rank].columns].copy(), whole * (rank + 1)
        gather = communicator.begin_all_gather(part, ranges, 1, None)
        scatter = communicator.begin_reduce_scatter(piece, ranges, 1, None)
        for _ in range(20 * rank):
            scatter.advance()
        assert_array_equal(gather.finish(), whole)
        total = whole[:, ranges[rank].columns] * sum(range(1, n_ranks + 1))
        assert_array_equal(scatter.finish(), total)

    run(connect(), shard)


def test_the_contract_holds_over_tls():
    def shard(communicator):
        communicator.begin_step()
        check_communicator(communicator, split_neurons(7, [1, 2, 1]), 3)

    run(connected_with_tls(3), shard)


def test_a_send_that_blocked_over_tls_is_repeated_first():
    """OpenSSL refuses another send before the one that would have blocked."""

    def shard(communicator):
        communicator.begin_step()
        ranges = split_neurons(N_LARGE, [1, 1])
        part = np.full((1, N_LARGE // 2), 1.0 + communicator.rank)
        exchanges = [
            communicator.begin_all_gather(part * n, ranges, n, None) for n in (1, 2, 3)
        ]
        for n, exchange in enumerate(exchanges, 1):
            assert_array_equal(exchange.finish()[0, [0, -1]], [n, 2 * n])

    run(connected_with_tls(2), shard)


@pytest.mark.parametrize("grid", [Grid(2, 2), Grid(3, 2)], ids=str)
def test_exchanges_along_both_axes_travel_at_once(grid):
    def process(communicator):
        communicator.begin_step()
        world, begun = communicator.rank, []
        for turn in range(3):
            for axis in get_args(Axis):
                along = communicator.along(axis)
                ranges = split_neurons(along.n_ranks, [1.0] * along.n_ranks)
                part = np.full((2, 1), world + 100.0 * turn)
                exchange = along.begin_all_gather(part, ranges, 5, None)
                begun.append((exchange, grid.along(axis, world), turn))
        for exchange, members, turn in begun:
            assert_array_equal(exchange.finish(), [np.add(members, 100.0 * turn)] * 2)

    run(connected(grid), process)


def test_exchanges_may_end_in_another_step():
    def shard(communicator):
        ranges, pending = split_neurons(2, [1, 1]), None
        for step in range(50):
            communicator.begin_step()
            if pending is not None:
                assert_array_equal(pending.finish(), [[step - 1, step - 1]])
            part = np.full((1, 1), float(step))
            pending = communicator.begin_all_gather(part, ranges, 9, None)
            total = communicator.all_reduce(np.full(3, float(step)), 0, None)
            assert_array_equal(total, np.full(3, 2.0 * step))
        pending.finish()

    run(connected(2), shard)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("crossing", [False, True], ids=["in a step", "across steps"])
def test_all_stop_at_the_same_step_while_exchanges_are_under_way(grid, crossing):
    """A stop that came with an exchange of the step before counts nowhere."""

    def process(communicator):
        neurons, replicas = (communicator.along(a) for a in get_args(Axis))
        ranges = split_neurons(neurons.n_ranks, [1.0] * neurons.n_ranks)
        pending = None
        for step in range(1000):
            if step == 5 and communicator.rank == grid.n_ranks - 1:
                communicator.request_stop()
            try:
                communicator.begin_step()
            except StopRequested:
                return step
            if pending is not None:
                pending.finish()
            pending = neurons.begin_all_gather(np.ones((1, 1)), ranges, 1, None)
            if not crossing:
                pending.finish()
                pending = None
            several = [
                neurons.begin_all_gather(np.ones((1, 1)), ranges, 0, None)
                for _ in range(2)
            ]
            finish_all(several)
            replicas.all_reduce(np.ones(1), Label.GRADIENT, None)
        return None

    assert run(connected(grid), process) == [6] * grid.n_ranks


def test_an_exchange_of_the_step_before_does_not_say_when_to_stop():
    """Whoever asked for a stop would believe that the others had been told."""

    def shard(communicator):
        ranges, pending = split_neurons(2, [1, 1]), None
        for step in range(20):
            if step == 5 and communicator.rank == 1:
                communicator.request_stop()
            try:
                communicator.begin_step()
            except StopRequested:
                return step
            if pending is not None:
                pending.finish()
            pending = communicator.begin_all_gather(np.ones((1, 1)), ranges, 1, None)
            if step == 10:
                communicator.all_reduce(np.ones(1), 0, None)
        return None

    assert run(connected(2), shard) == [11, 11]


def begin_two(communicator):
    """Begin a gather of layer 1 and a sum of deltas of layer 2."""
    ranges = split_neurons(2, [1, 1])
    return [
        communicator.begin_all_gather(np.ones((1, 1)), ranges, 1, None),
        communicator.begin_reduce_scatter(np.ones((1, 2)), ranges, 2, None),
    ]


def finish_all(exchanges):
    for exchange in exchanges:
        exchange.finish()


def assert_nothing_is_queued(communicator):
    for link in communicator._connections.links.values():
        assert not link.sending
        assert not link.receiving


def test_an_error_ends_all_exchanges_that_are_under_way():
    begun = threading.Event()

    def shard(communicator):
        communicator.begin_step()
        if communicator.rank == 1:
            assert begun.wait(LONG_S)
            communicator.close()
            return
        match = r"shard 1 closed its connection in the forward exchange of layer 1$"
        exchanges = begin_two(communicator)
        begun.set()
        for exchange in exchanges:
            with pytest.raises(ExchangeError, match=match):
                exchange.finish()
            with pytest.raises(ExchangeError, match=match):
                exchange.advance()
        with pytest.raises(ExchangeError, match=match):
            communicator.all_reduce(np.ones(1), 0, None)
        assert_nothing_is_queued(communicator)

    run(connected(2), shard)


def test_an_error_names_the_exchange_that_failed_not_the_one_waited_for():
    begun = threading.Event()

    def shard(communicator):
        communicator.begin_step()
        exchanges = begin_two(communicator)
        if communicator.rank == 1:
            assert begun.wait(LONG_S)
            # Behind the packets of the first two there is no third.
            finish_all(exchanges)
            communicator.close()
            return
        ranges = split_neurons(2, [1, 1])
        third = communicator.begin_all_gather(np.ones((1, 1)), ranges, 3, None)
        begun.set()
        with pytest.raises(ExchangeError, match=r"the forward exchange of layer 3$"):
            finish_all([*exchanges, third])

    run(connected(2), shard)


def test_the_exchange_that_a_silent_shard_has_not_begun_is_named():
    waited = threading.Event()

    def shard(communicator):
        communicator.begin_step()
        if communicator.rank == 1:
            ranges = split_neurons(2, [1, 1])
            communicator.begin_all_gather(np.ones((1, 1)), ranges, 1, None).finish()
            assert waited.wait(LONG_S)
            return
        gather, scatter = begin_two(communicator)
        try:
            assert_array_equal(gather.finish(), [[1, 1]])
            match = r"0.01 s .* for shard 1 in the backward exchange of layer 2$"
            with pytest.raises(ExchangeError, match=match):
                scatter.finish()
        finally:
            waited.set()
        assert_nothing_is_queued(communicator)

    run(connected(2, timeout_s=0.01), shard)


def test_a_cancelled_shard_leaves_all_exchanges():
    told = threading.Event()

    def shard(communicator):
        communicator.begin_step()
        if communicator.rank == 1:
            told.set()
            return
        exchanges = begin_two(communicator)
        match = r"cancelled because the fit ended in the forward exchange of layer 1$"
        for exchange in exchanges:
            with pytest.raises(ExchangeError, match=match):
                exchange.finish()
        assert_nothing_is_queued(communicator)

    run(connected(2, is_cancelled=told.is_set), shard)


def test_a_packet_of_an_exchange_that_is_not_next_is_refused():
    def shard(communicator):
        communicator.begin_step()
        ranges = split_neurons(2, [1, 1])
        labels = [1, 2] if communicator.rank else [2, 1]
        exchanges = [
            communicator.begin_all_gather(np.ones((1, 1)), ranges, label, None)
            for label in labels
        ]
        finish_all(exchanges)

    with pytest.raises(ExchangeError, match="a packet has label"):
        run(connected(2), shard)


@pytest.mark.parametrize("n_shards", [2, 3, 5])
@pytest.mark.parametrize("shape", [(1,), (7,), (4, 5), (0, 3)], ids=str)
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_sum_in_parts_has_the_same_bits(n_shards, shape, order):
    """Also where there are fewer numbers than processes, or `out` is not contiguous."""
    rng = np.random.default_rng(0)
    pieces = rng.normal(size=(n_shards, *shape))
    pieces *= 10.0 ** rng.integers(-9, 9, size=pieces.shape)
    n_sent = []

    def shard(communicator):
        communicator.begin_step()
        begin = communicator._connections.begin

        def counted(operation, label, sent, received, *, relay):
            n_sent.append(sum(array.size for array in sent.values()))
            return begin(operation, label, sent, received, relay=relay)

        communicator._connections.begin = counted
        piece = np.asarray(pieces[communicator.rank], order=order)
        before = piece.copy()
        out = np.full_like(piece, np.nan)
        assert communicator.all_reduce(piece, 0, out) is out
        assert_array_equal(piece, before)
        assert_array_equal(communicator.all_reduce(piece, 0, None), out)
        return out

    whole = run(connected(n_shards), shard)
    n_in_one, n_sent = sum(n_sent), []
    with patch.object(communicators, "SAVED_BYTES", 0):
        in_parts = run(connected(n_shards), shard)
    for total in whole + in_parts:
        assert_array_equal(total, whole[0])
    size = pieces[0].size
    assert n_in_one == 2 * n_shards * (n_shards - 1) * size
    assert sum(n_sent) == 2 * 2 * (n_shards - 1) * size
