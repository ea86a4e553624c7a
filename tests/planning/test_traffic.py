"""What each process sends, by the formulas and over real sockets."""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from skdistmlp.nn.update_rules import Adam, Sgd
from skdistmlp.parallel import communicators, overlap
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.local_network import open_local_network
from skdistmlp.parallel.rows import RowHolding, dealt_rows
from skdistmlp.parallel.shard import split_state
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.cost import StepCost
from skdistmlp.planning.traffic import Traffic, bytes_exchanged, exchanges, traffic
from skdistmlp.training.lbfgs import evaluation_of
from skdistmlp.training.step import training_step
from skdistmlp.wire.packet import HEADER_BYTES, Header
from tests.marks import only_quick
from tests.parallel.ops_contract import Problem, make_problem
from tests.wire.test_communicator import connected, run

N_ROWS = 21
"""Replicas have different numbers of them."""


class CountingLink:
    """A link's socket, and what was sent through it."""

    def __init__(self, link, sent):
        self._socket = link.socket
        self._sent = sent
        link.socket, link.send = self, self.sendmsg

    def __getattr__(self, name):
        return getattr(self._socket, name)

    def sendmsg(self, views):
        if views[0].nbytes == HEADER_BYTES:
            Header.unpack(bytes(views[0]))
            self._sent["messages"] += 1
            self._sent["bytes"] -= HEADER_BYTES
        n_bytes = self._socket.sendmsg(views)
        # A header is never sent without the beginning of its array, or in parts: the
        # buffers of the kernel are empty enough.
        self._sent["bytes"] += n_bytes
        return n_bytes


def sent_by_each(grid, work):
    """Return what each process really sends while it does some work."""
    communicators = connected(grid)
    sent = []
    for communicator in communicators:
        counter = Counter()
        for link in communicator._connections.links.values():
            CountingLink(link, counter)
        sent.append(counter)
    run(communicators, work)
    return [Traffic(each["bytes"], each["messages"]) for each in sent]


GRIDS = [(2, 1), (1, 2), (2, 2), (3, 1), (1, 3), (3, 2), (2, 3)]
NETWORKS = [(7, 9, 4), (7, 9, 5, 4), (7, 2, 5, 6, 1)]
NNZ_PER_ROW = 3
"""Of sparse features: alike in all rows, so that it is known what a process sends."""


def sparse_rows(dtype):
    columns = np.arange(N_ROWS * NNZ_PER_ROW, dtype=np.int32) % 7
    ends = np.arange(0, N_ROWS * NNZ_PER_ROW + 1, NNZ_PER_ROW, dtype=np.int32)
    return csr_array((np.ones(len(columns), dtype), columns, ends), (N_ROWS, 7))


@dataclass(frozen=True)
class Job:
    """What some processes do together: train, with rows in some form."""

    split: NetworkSplit
    grid: Grid
    problem: Problem
    rows: RowHolding

    @classmethod
    def of(
        cls,
        units,
        n_shards,
        n_replicas,
        form="copies",
        is_sparse=False,
        shares=(),
        **options,
    ):
        split = NetworkSplit.even(units, n_shards)
        problem = make_problem(split, n_rows=N_ROWS, **options)
        if is_sparse:
            X = sparse_rows(options["dtype"])
            problem = replace(problem, dataset=replace(problem.dataset, X=X))
        rows = RowHolding(form, shares=shares)
        return cls(split, Grid(split.n_shards, n_replicas), problem, rows)

    def open(self, communicator, max_rows, max_grad_norm=None):
        starts = split_state(self.split, self.problem.start(), self.grid.n_replicas)
        datasets = self.problem.dataset.parts(self.grid, self.rows)
        return open_local_network(
            replace(self.problem.network, max_grad_norm=max_grad_norm),
            self.split,
            starts[communicator.rank],
            datasets[communicator.rank],
            communicator,
            max_rows,
        )

    def check(self, cost, work):
        """Compare what each process sends with the formulas."""
        if self.problem.dataset.nnz_per_row is not None:
            cost = replace(cost, nnz_per_row=NNZ_PER_ROW)
        sent = sent_by_each(self.grid, work)
        n_replicas = self.grid.n_replicas
        assert sent == [
            traffic(self.split, cost, n_replicas, rank, self.rows)
            for rank in range(self.grid.n_ranks)
        ]
        total = bytes_exchanged(self.split, cost, n_replicas, self.rows)
        assert sum(each.n_bytes for each in sent) == total


@pytest.mark.parametrize("units", NETWORKS, ids=str)
@pytest.mark.parametrize(("n_shards", "n_replicas"), GRIDS)
@pytest.mark.parametrize(
    ("form", "rule", "dtype", "max_grad_norm", "is_sparse"),
    only_quick(
        *(0, 2, 4),
        cases=[
            ("copies", Adam(), np.float32, None, False),
            ("copies", Sgd(), np.float64, None, True),
            ("once", Adam(), np.float64, 0.1, False),
            ("once", Sgd(), np.float32, None, True),
            ("once", Adam(), np.float64, None, True),
            ("all", Adam(), np.float32, 0.1, False),
        ],
    ),
)
def test_a_step_sends_what_the_formulas_say(
    units, n_shards, n_replicas, form, rule, dtype, max_grad_norm, is_sparse
):
    job = Job.of(units, n_shards, n_replicas, form, is_sparse, rule=rule, dtype=dtype)

    def step(communicator):
        network = job.open(communicator, N_ROWS, max_grad_norm)
        training_step(network.ops, np.arange(N_ROWS), 0.01)

    cost = StepCost.of_step(
        N_ROWS,
        itemsize=np.dtype(dtype).itemsize,
        clips_gradient=max_grad_norm is not None,
    )
    job.check(cost, step)


@pytest.mark.parametrize("form", ["copies", "once"])
def test_replicas_with_more_rows_send_more(form):
    shares = (3, 1)
    job = Job.of((7, 9, 5, 4), 2, 2, form, shares=shares, dtype=np.float32)

    def step(communicator):
        network = job.open(communicator, N_ROWS)
        training_step(network.ops, np.arange(N_ROWS), 0.01)

    job.check(StepCost.of_step(N_ROWS, itemsize=4), step)


def test_activations_are_those_of_the_rows_of_the_replica():
    split = NetworkSplit.even((784, 256, 256, 10), 2)
    rows = RowHolding(shares=(24, 8))
    cost = StepCost.of_step(2_000, itemsize=4)
    found = [
        next(e.whole for e in exchanges(split, cost, 2, rank, rows) if e.layer == 1)
        for rank in (0, 2)
    ]
    assert found == [1_500 * 256 * 4, 500 * 256 * 4]


@pytest.mark.parametrize(("n_shards", "n_replicas"), GRIDS)
@pytest.mark.parametrize("method", ["step", "evaluation"])
def test_large_layers_travel_in_halves_and_logits_in_parts(
    method, n_shards, n_replicas, monkeypatch
):
    """From sizes on that a test can have; a replica without rows sends none."""
    monkeypatch.setattr(overlap, "HALVED_BYTES", 200)
    # More than a number that all processes sum.
    monkeypatch.setattr(communicators, "SAVED_BYTES", 30)
    job = Job.of((7, 9, 5, 4), n_shards, n_replicas, dtype=np.float32)

    def step(communicator):
        network = job.open(communicator, N_ROWS)
        training_step(network.ops, np.arange(N_ROWS), 0.01)

    def evaluation(communicator):
        network = job.open(communicator, 8)
        is_first = communicator.rank == 0
        parameters = np.ones(job.split.n_parameters) if is_first else None
        network.objective.set_parameters(parameters)
        blocks = [slice(0, 8), slice(8, 16), slice(16, N_ROWS)]
        evaluation_of(network, blocks)()

    if method == "step":
        job.check(StepCost.of_step(N_ROWS, itemsize=4), step)
    else:
        cost = StepCost.of_evaluation(N_ROWS, itemsize=4, buffer_rows=8)
        job.check(cost, evaluation)
    first = exchanges(job.split, StepCost.of_step(N_ROWS, itemsize=4), n_replicas)
    if n_shards == 3:
        assert [e.collective for e in first if e.what == "logits"] == [
            *("reduce_scatter", "all_gather")
        ]
    if n_shards > 1:
        assert [e.times for e in first if e.what == "activations"] == [2]


@pytest.mark.parametrize("units", NETWORKS, ids=str)
@pytest.mark.parametrize(("n_shards", "n_replicas"), GRIDS)
@pytest.mark.parametrize("form", only_quick(0, cases=["once", "copies"]))
def test_an_evaluation_sends_what_the_formulas_say(units, n_shards, n_replicas, form):
    job = Job.of(units, n_shards, n_replicas, form, dtype=np.float32)
    # Of as many rows on each process, so that those of all blocks add up.
    blocks = [slice(0, 6), slice(6, 12), slice(12, 18), slice(18, N_ROWS)]

    def evaluation(communicator):
        network = job.open(communicator, 6)
        is_first = communicator.rank == 0
        parameters = np.ones(job.split.n_parameters) if is_first else None
        network.objective.set_parameters(parameters)
        evaluation_of(network, blocks)()

    job.check(StepCost.of_evaluation(N_ROWS, itemsize=4, buffer_rows=6), evaluation)


@pytest.mark.parametrize("n_shards", [1, 2, 4])
def test_shards_exchange_hidden_layers_after_the_first_and_logits(n_shards):
    split = NetworkSplit.even((7, 6, 4, 3), n_shards)
    expected = (2 * 6 + n_shards * 3) * N_ROWS * (n_shards - 1) * 8
    assert bytes_exchanged(split, StepCost.of_step(N_ROWS)) == expected
    evaluated = bytes_exchanged(split, StepCost.of_evaluation(N_ROWS))
    # The loss, which all sum up, and two decisions of the first.
    n_scalars = (n_shards + 2) * (n_shards - 1)
    parameters = 2 * split.n_parameters * (n_shards - 1)
    assert evaluated == expected + (parameters + n_scalars) * 8


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=5),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(1, 30),
    st.sampled_from(["copies", "once"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([StepCost.of_step, StepCost.of_evaluation]),
)
def test_what_is_sent_is_received_and_adds_up(
    units, n_shards, n_replicas, n_rows, form, unequal, clips, make_cost
):
    split = NetworkSplit.even(units, n_shards)
    cost = make_cost(n_rows, clips_gradient=clips, buffer_rows=max(1, n_rows // 2))
    grid = Grid(split.n_shards, n_replicas)
    shares = tuple(range(1, n_replicas + 1)) if unequal else ()
    rows = RowHolding(form, shares=shares)
    of_each = [
        exchanges(split, cost, n_replicas, rank, rows) for rank in range(grid.n_ranks)
    ]
    sent, received = (
        [sum(column) for column in zip(*found, strict=True)]
        for found in (
            [each.sent for process in of_each for each in process] or [(0, 0)],
            [each.received for process in of_each for each in process] or [(0, 0)],
        )
    )
    assert sent == received
    assert sent[0] == bytes_exchanged(split, cost, n_replicas, rows)


def test_rows_of_unequal_replicas_are_dealt_once_for_all(monkeypatch):
    """A round of many replicas is long, and takes as long as they to deal."""
    holdings = []

    def deal(grid, rows):
        holdings.append(rows)
        return dealt_rows(grid, rows)

    monkeypatch.setattr("skdistmlp.planning.traffic.dealt_rows", deal)
    rows, split = RowHolding(shares=(4,) * 63 + (1,)), NetworkSplit.even((8, 4, 2), 1)
    assert bytes_exchanged(split, StepCost.of_step(200), 64, rows) > 0
    assert holdings == [rows]


def test_one_process_sends_nothing():
    split = NetworkSplit.even((7, 9, 5, 4), 1)
    for cost in (StepCost.of_step(5, clips_gradient=True), StepCost.of_evaluation(5)):
        assert not exchanges(split, cost, rows=RowHolding("once"))
        assert traffic(split, cost, rows=RowHolding("once")) == (0, 0)


def test_traffic_of_a_thousand_workers_is_counted_quickly():
    """The planner compares many grids: each process is counted by itself."""
    split = NetworkSplit.even((784, 1024, 1024, 10), 32)
    cost = StepCost.of_step(6400, itemsize=4)
    whole = sum(traffic(split, cost, 32, rank).n_bytes for rank in range(1024))
    assert whole == bytes_exchanged(split, cost, 32)
