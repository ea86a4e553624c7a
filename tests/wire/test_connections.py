"""Stops, deadlines and errors that every exchange over sockets has in common."""

import threading
import time
from typing import get_args

import numpy as np
import pytest

from skdistmlp.exceptions import ExchangeError
from skdistmlp.parallel.communicators import Label, StopRequested
from skdistmlp.parallel.grid import Axis
from skdistmlp.parallel.split import split_neurons
from tests.parallel.test_communicators import GRIDS
from tests.wire.test_communicator import LONG_S, connected, run


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("when", ["while training", "while predicting"])
def test_all_processes_of_a_grid_stop_at_the_same_step(grid, when):
    """Whoever asks, and whether gradients or outputs are exchanged."""

    def process(communicator):
        neurons, replicas = (communicator.along(a) for a in get_args(Axis))
        for step in range(1000):
            if step == 5 and communicator.rank == grid.n_ranks - 1:
                communicator.request_stop()
            try:
                communicator.begin_step()
            except StopRequested:
                return step
            if when == "while predicting":
                # Of averaged parameters, before any exchange of shards.
                replicas.all_reduce(np.ones(1), Label.AVERAGE, None)
            neurons.all_reduce(np.ones(1), 0, None)
            replicas.all_reduce(np.ones(1), Label.GRADIENT, None)
        return None

    assert run(connected(grid), process) == [6] * grid.n_ranks


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_stop_waits_for_a_step_with_an_exchange(grid):
    """L-BFGS evaluates several blocks of rows before replicas of one shard meet."""

    def process(communicator):
        replicas = communicator.along("replicas")
        for step in range(100):
            if step == 5 and communicator.rank == grid.n_ranks - 1:
                communicator.request_stop()
            try:
                communicator.begin_step()
            except StopRequested:
                return step
            communicator.along("neurons").all_reduce(np.ones(1), 0, None)
            if step % 4 == 3:
                replicas.all_reduce(np.ones(1), Label.GRADIENT, None)
        return None

    # Without replicas every step has an exchange.
    expected = 6 if grid.n_replicas == 1 else 8
    assert run(connected(grid), process) == [expected] * grid.n_ranks


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
            "the exchange of parameters",
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
            communicator._connections._run = b"another fit....."
        array = np.ones((2, 2 if wrong and late == "shape" else 3))
        if wrong and late == "dtype":
            array = array.astype(np.float32)
        if wrong and late == "operation":
            return communicator.reduce_scatter(array, split_neurons(3, [3, 0]), 0, None)
        return communicator.all_reduce(array, int(wrong and late == "label"), None)

    with pytest.raises(ExchangeError, match="a packet has"):
        run(connected(2), shard)


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
