import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skdistmlp.exceptions import ExchangeError, StopRequested
from skdistmlp.parallel.mesh import Link, Mesh
from skdistmlp.parallel.split import split_neurons
from tests.parallel.test_communicators import check_communicator
from tests.strategies import seeds, shares

RUN = b"a fit of a test."

LONG_S = 30
"""Far longer than anything here takes: reaching it is a failure."""


def connected(n_shards, timeout_s=LONG_S, given_up=lambda: False):
    """Return meshes that are connected with each other, over real sockets."""
    links = [{} for _ in range(n_shards)]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for rank in range(n_shards):
            for peer in range(rank):
                mine = socket.create_connection(listener.getsockname())
                theirs, _ = listener.accept()
                links[rank][peer] = Link(mine, f"shard {peer}")
                links[peer][rank] = Link(theirs, f"shard {rank}")
    return [Mesh(rank, own, RUN, timeout_s, given_up) for rank, own in enumerate(links)]


def run(meshes, work):
    """Run `work` on every shard at once; return results, or raise what came first."""
    with ThreadPoolExecutor(len(meshes)) as pool:
        try:
            return list(pool.map(work, meshes, timeout=2 * LONG_S))
        finally:
            for mesh in meshes:
                mesh.close()


@settings(max_examples=30)
@given(shares, st.integers(0, 9), st.integers(1, 12), seeds)
def test_it_meets_the_contract_of_communicators(shares, n_rows, n_columns, seed):
    ranges = split_neurons(n_columns, shares)

    def shard(mesh):
        mesh.begin_step()
        check_communicator(mesh, ranges, n_rows, seed=seed)
        check_communicator(mesh, ranges, n_rows, np.float32, seed)

    run(connected(len(shares)), shard)


@pytest.mark.parametrize("n_shards", [2, 3])
def test_arrays_far_larger_than_any_buffer_do_not_block_each_other(n_shards):
    piece = np.arange(6_000_000.0)

    def shard(mesh):
        mesh.begin_step()
        return mesh.all_reduce(piece, 0, None)

    for total in run(connected(n_shards), shard):
        assert_array_equal(total, n_shards * piece)


def test_all_stop_at_the_same_step_whoever_was_asked():
    def shard(mesh):
        for step in range(1000):
            if step == 5 and mesh.rank == 2:
                mesh.request_stop()
            try:
                mesh.begin_step()
            except StopRequested:
                return step
            mesh.all_reduce(np.ones(1), 0, None)
        return None

    assert run(connected(3), shard) == [6, 6, 6]


def test_a_shard_without_others_stops_too():
    (mesh,) = connected(1)
    mesh.begin_step()
    mesh.request_stop()
    mesh.begin_step()
    with pytest.raises(StopRequested):
        mesh.begin_step()


def test_who_closes_ends_all_others_at_once():
    def shard(mesh):
        mesh.begin_step()
        mesh.all_reduce(np.ones(1), 0, None)
        if mesh.rank == 1:
            mesh.close()
            return "closed"
        with pytest.raises(
            ExchangeError, match=r"shard [012] closed its connection in the sum"
        ):
            mesh.all_reduce(np.ones(1), 0, None)
        mesh.close()
        return "told"

    assert run(connected(3), shard) == ["told", "closed", "told"]


def test_who_says_nothing_is_named_after_the_timeout():
    waited = threading.Event()

    def shard(mesh):
        mesh.begin_step()
        if mesh.rank == 1:
            assert waited.wait(LONG_S)
            return None
        try:
            with pytest.raises(
                ExchangeError,
                match=r"0.01 s .* for shard 1 in the forward exchange of layer 2",
            ):
                mesh.all_gather(np.ones((1, 1)), split_neurons(2, [1, 1]), 2, None)
        finally:
            waited.set()
        return "named"

    assert run(connected(2, timeout_s=0.01), shard) == ["named", None]


def test_who_is_told_to_give_up_does_not_wait():
    told = threading.Event()
    meshes = connected(2, given_up=told.is_set)

    def shard(mesh):
        mesh.begin_step()
        if mesh.rank == 1:
            told.set()
            return
        with pytest.raises(ExchangeError, match="told to give up"):
            mesh.broadcast(np.ones(1)) if mesh.rank else mesh.all_reduce(
                np.ones(1), 0, None
            )

    run(meshes, shard)


@pytest.mark.parametrize(
    "late", ["step", "operation", "layer", "shape", "dtype", "run"]
)
def test_a_packet_that_belongs_elsewhere_is_refused(late):
    def shard(mesh):
        mesh.begin_step()
        wrong = mesh.rank == 1
        if wrong and late == "step":
            mesh.begin_step()
        if wrong and late == "run":
            mesh._run = b"another fit....."
        array = np.ones((2, 2 if wrong and late == "shape" else 3))
        if wrong and late == "dtype":
            array = array.astype(np.float32)
        if wrong and late == "operation":
            return mesh.reduce_scatter(array, split_neurons(3, [3, 0]), 0, None)
        return mesh.all_reduce(array, int(wrong and late == "layer"), None)

    with pytest.raises(ExchangeError, match="a packet has"):
        run(connected(2), shard)
