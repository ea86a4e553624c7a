import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skdistmlp.exceptions import ExchangeError
from skdistmlp.parallel.communicators import (
    SingleProcess,
    sum_in_order,
    sums_in_parts,
)
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.split import split_neurons
from tests.strategies import seeds, shares
from tests.thread_communicator import Table, ThreadCollectives, run_in_threads

LONG_S = 30
"""Far longer than anything here takes: reaching it is a failure."""


def sum_from_the_first(pieces):
    total = pieces[0].copy()
    for piece in pieces[1:]:
        total = total + piece
    return total


def check_communicator(communicator, ranges, n_rows, dtype=np.float64, seed=0):
    """Assert the contract of `Communicator`; every shard must run this.

    Pieces differ in size by many orders of magnitude, so that the order of a
    sum shows in its bits.
    """
    rank, n_shards = communicator.rank, communicator.n_ranks
    n_columns = ranges[-1].stop
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=(n_rows, len(r))).astype(dtype) for r in ranges]
    shape = (n_shards, n_rows, n_columns)
    pieces = rng.normal(size=shape) * 10.0 ** rng.integers(-9, 9, size=shape)
    pieces = list(pieces.astype(dtype))
    gathered, total = np.concatenate(parts, axis=1), sum_from_the_first(pieces)
    own = total[:, ranges[rank].columns]
    part, piece = parts[rank].copy(), pieces[rank].copy()

    for give_out in (False, True):

        def room(like, wanted=give_out):
            return np.full_like(like, np.nan) if wanted else None

        for result, expected in [
            (communicator.all_gather(part, ranges, 0, room(gathered)), gathered),
            (communicator.reduce_scatter(piece, ranges, 0, room(own)), own),
            (communicator.all_reduce(piece, 0, room(total)), total),
        ]:
            assert result.dtype == dtype
            assert_array_equal(result, expected)
        under_way = [
            communicator.begin_all_gather(part, ranges, 0, room(gathered)),
            communicator.begin_reduce_scatter(piece, ranges, 0, room(own)),
            communicator.begin_all_gather(-part, ranges, 0, room(gathered)),
            communicator.begin_reduce_scatter(-piece, ranges, 0, room(own)),
        ]
        for exchange in under_way:
            exchange.advance()
        for exchange, expected in zip(
            under_way, [gathered, own, -gathered, -own], strict=True
        ):
            assert_array_equal(exchange.finish(), expected)
            exchange.advance()
        assert_array_equal(part, parts[rank])
        assert_array_equal(piece, pieces[rank])
    scalar = communicator.all_reduce(np.array([float(rank)]), 0, np.empty(1))
    assert_array_equal(scalar, [sum(range(n_shards))])
    assert_array_equal(communicator.broadcast(np.array([rank + 7.0]), 0), [7.0])


COMMUNICATORS = {
    "nobody else": lambda shard: [shard(SingleProcess())],
    **{
        f"in memory, {n}": lambda shard, n=n: run_in_threads(n, shard)
        for n in (1, 2, 3)
    },
}


@pytest.mark.parametrize("run", COMMUNICATORS.values(), ids=COMMUNICATORS.keys())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_neurons", [0, 2, 50], ids="{} neurons".format)
@pytest.mark.parametrize("n_rows", [0, 1, 40], ids="{} rows".format)
def test_communicators_meet_their_contract(run, dtype, n_neurons, n_rows):
    def shard(communicator):
        ranges = split_neurons(n_neurons, [1.0] * communicator.n_ranks)
        check_communicator(communicator, ranges, n_rows, dtype)
        return communicator.rank, communicator.n_ranks

    ranks = run(shard)
    assert ranks == [(rank, len(ranks)) for rank in range(len(ranks))]


GRIDS = [Grid(1, 2), Grid(2, 1), Grid(2, 2), Grid(3, 2), Grid(2, 3)]


def check_axes(communicator, grid):
    """Assert the contract along each axis; all processes of a grid must run this."""
    world = communicator.rank
    for axis, n_ranks in [("neurons", grid.n_shards), ("replicas", grid.n_replicas)]:
        along, members = communicator.along(axis), grid.along(axis, world)
        assert (along.rank, along.n_ranks) == (members.index(world), n_ranks)
        check_communicator(along, split_neurons(7, [1.0] * n_ranks), 3)
        # Ranks in the run: whoever takes part is of the same row or column.
        total = along.all_reduce(np.array([float(world)]), 0, None)
        assert_array_equal(total, [sum(members)])


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_axes_of_a_grid_meet_the_contract(grid):
    run_in_threads(grid, lambda communicator: check_axes(communicator, grid))


@pytest.mark.parametrize("give_part_of_out", [False, True])
def test_a_part_may_be_a_view_of_the_whole(give_part_of_out):
    check_parts = part_of_out_in_place(give_part_of_out)
    run_in_threads(3, check_parts)


def part_of_out_in_place(is_view):
    """Return what gathers one row, each process's part of which is in place or not."""
    ranges = split_neurons(10, [1.0] * 3)

    def check_parts(communicator):
        columns = ranges[communicator.rank].columns
        out, part = np.zeros((1, 10)), np.arange(10.0)[np.newaxis, columns]
        if is_view:
            out[:, columns] = part
            part = out[:, columns]
        assert communicator.all_gather(part, ranges, 0, out) is out
        assert_array_equal(out, [np.arange(10.0)])

    return check_parts


@settings(max_examples=50)
@given(st.integers(0, 30), shares, st.integers(0, 5), seeds)
def test_collectives_equal_numpys_concatenate_and_sum(n_neurons, shares, n_rows, seed):
    ranges = split_neurons(n_neurons, shares)
    run_in_threads(
        len(shares),
        lambda communicator: check_communicator(
            communicator, ranges, n_rows, seed=seed
        ),
    )


def test_a_single_process_copies_nothing():
    array, ranges = np.ones((2, 3)), split_neurons(3, [1])
    alone = SingleProcess()
    assert alone.all_gather(array, ranges, 0, np.empty((2, 3))) is array
    assert alone.reduce_scatter(array, ranges, 0, np.empty((2, 3))) is array
    assert alone.all_reduce(array, 0, np.empty((2, 3))) is array


@pytest.mark.parametrize(
    ("n_ranks", "n_bytes", "in_parts"),
    [
        (1, 10**9, False),
        (2, 10**9, False),
        (3, 95_999, False),
        (3, 96_000, True),
        (64, 1_000, False),
        (64, 1_100, True),
    ],
)
def test_large_sums_of_many_are_cut_in_parts(n_ranks, n_bytes, in_parts):
    assert sums_in_parts(n_ranks, n_bytes) == in_parts


def test_results_are_written_to_out():
    ranges = split_neurons(3, [1, 1])

    def shard(communicator):
        own = len(ranges[communicator.rank])
        part, piece = np.ones((2, own)), np.ones((2, 3))
        for collective, out in [
            (
                lambda out: communicator.all_gather(part, ranges, 0, out),
                np.empty((2, 3)),
            ),
            (
                lambda out: communicator.reduce_scatter(piece, ranges, 0, out),
                np.empty((2, own)),
            ),
            (lambda out: communicator.all_reduce(piece, 0, out), np.empty((2, 3))),
        ]:
            assert collective(out) is out

    run_in_threads(2, shard)


def test_sums_run_in_shard_order():
    pieces = [np.array([1e16]), np.array([-1e16]), np.array([1.0])]
    for order, expected in [((0, 1, 2), 1.0), ((0, 2, 1), 0.0)]:
        ordered = [pieces[i] for i in order]
        assert_array_equal(sum_in_order(ordered), [expected])
        out = np.empty(1)
        assert sum_in_order(ordered, out) is out
        results = run_in_threads(
            3,
            lambda communicator, ordered=ordered: communicator.all_reduce(
                ordered[communicator.rank], 0, None
            ),
        )
        assert_array_equal(results, [[expected]] * 3)


def test_inputs_may_be_overwritten_after_the_exchange():
    """No shard may leave while another still reads: many turns give a race room."""
    n_turns, n_shards = 300, 3

    def shard(communicator):
        piece = np.empty(2000)
        for turn in range(n_turns):
            piece[:] = turn
            total = communicator.all_reduce(piece, 0, None)
            piece[:] = np.nan
            assert_array_equal(total, np.full(2000, float(n_shards * turn)))
        return turn

    assert run_in_threads(n_shards, shard) == [n_turns - 1] * n_shards


class ShardFailedError(Exception):
    """What a shard of these tests fails with."""


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_failing_shard_ends_all_others(failing):
    ended = {}

    def shard(communicator):
        try:
            communicator.broadcast(np.zeros(1), 0)
            if communicator.rank == failing:
                raise ShardFailedError
            communicator.all_reduce(np.ones(2), 0, None)
        except ExchangeError as error:
            ended[communicator.rank] = str(error)
            raise

    began = time.monotonic()
    with pytest.raises(ShardFailedError):
        run_in_threads(3, shard, timeout_s=LONG_S)
    assert time.monotonic() - began < LONG_S, "ended by the timeout, not the failure"
    assert ended == {
        rank: f"shard {rank} of 3 waited for a shard that has failed, or that did "
        "not answer within 30 s"
        for rank in {0, 1, 2} - {failing}
    }


def test_the_first_failure_is_the_one_raised():
    failed_first = threading.Event()

    def shard(communicator):
        if communicator.rank == 1:
            failed_first.set()
            raise ShardFailedError("first")
        assert failed_first.wait(LONG_S)
        try:
            communicator.broadcast(np.zeros(1), 0)
        except ExchangeError:
            raise ShardFailedError("later") from None

    with pytest.raises(ShardFailedError, match="first"):
        run_in_threads(2, shard)


def test_an_interrupt_ends_all_shards_too():
    def shard(communicator):
        if communicator.rank == 1:
            raise KeyboardInterrupt
        communicator.broadcast(np.zeros(1), 0)

    with pytest.raises(KeyboardInterrupt):
        run_in_threads(2, shard)


def test_a_silent_shard_is_waited_for_until_the_timeout():
    others_have_given_up = threading.Barrier(3)

    def shard(communicator):
        if communicator.rank == 0:
            others_have_given_up.wait(LONG_S)
            return None
        with pytest.raises(ExchangeError, match=r"did not answer within 0\.01 s"):
            communicator.broadcast(np.zeros(1), 0)
        others_have_given_up.wait(LONG_S)
        return "gave up"

    assert run_in_threads(3, shard, timeout_s=0.01) == [None, "gave up", "gave up"]


def test_a_shard_that_comes_too_late_gets_an_error():
    table = Table(2, timeout_s=0.01)
    early, late = (ThreadCollectives(rank, table) for rank in range(2))
    with pytest.raises(ExchangeError):
        early.broadcast(np.zeros(1), 0)
    with pytest.raises(ExchangeError):
        late.broadcast(np.zeros(1), 0)
