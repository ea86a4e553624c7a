import socket
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.split import split_neurons
from skdistmlp.wire.communicator import SocketCommunicator
from skdistmlp.wire.transfers import Link
from tests.parallel.test_communicators import (
    GRIDS,
    check_axes,
    check_communicator,
    part_of_out_in_place,
)
from tests.strategies import seeds, shares

RUN = b"a fit of a test."

LONG_S = 30
"""Far longer than anything here takes: reaching it is a failure."""


def connected(grid, timeout_s=LONG_S, is_cancelled=lambda: False):
    """Return communicators that are connected with each other, over real sockets."""
    if isinstance(grid, int):
        grid = Grid(grid)
    links = [{} for _ in range(grid.n_ranks)]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for rank in range(grid.n_ranks):
            for peer in range(rank):
                mine = socket.create_connection(listener.getsockname())
                theirs, _ = listener.accept()
                links[rank][peer] = Link(mine, f"shard {peer}")
                links[peer][rank] = Link(theirs, f"shard {rank}")
    return [
        SocketCommunicator(rank, own, RUN, timeout_s, is_cancelled, grid)
        for rank, own in enumerate(links)
    ]


def run(communicators, work):
    """Run `work` on every shard at once; return results, or raise what came first."""
    errors = []

    def shard(communicator):
        try:
            return work(communicator)
        except BaseException as error:
            errors.append(error)
            # As in a fit: the others learn of it by that.
            communicator.close()
            raise

    with ThreadPoolExecutor(len(communicators)) as pool:
        shards = [pool.submit(shard, communicator) for communicator in communicators]
        try:
            wait(shards, 2 * LONG_S)
            if errors:
                raise errors[0]
            return [shard.result(0) for shard in shards]
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


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_axes_of_a_grid_meet_the_contract(grid):
    def process(communicator):
        communicator.begin_step()
        check_axes(communicator, grid)

    run(connected(grid), process)


@pytest.mark.parametrize("is_view", [False, True])
def test_parts_of_one_row_are_received_in_place(is_view):
    run(connected(3), part_of_out_in_place(is_view))


@pytest.mark.parametrize("n_shards", [2, 3])
def test_arrays_far_larger_than_any_buffer_do_not_block_each_other(n_shards):
    piece = np.arange(6_000_000.0)

    def shard(communicator):
        communicator.begin_step()
        return communicator.all_reduce(piece, 0, None)

    for total in run(connected(n_shards), shard):
        assert_array_equal(total, n_shards * piece)


def test_some_processes_exchange_while_others_do_not_take_part():
    def work(communicator):
        if communicator.rank == 1:
            return None
        some = communicator.among([0, 2, 3])
        total = some.all_reduce(np.array([float(communicator.rank)]), 0, np.empty(1))
        return some.rank, some.n_ranks, total[0]

    found = run(connected(Grid(4)), work)
    assert found == [(0, 3, 5.0), None, (1, 3, 5.0), (2, 3, 5.0)]
