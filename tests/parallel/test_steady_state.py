"""After the first steps, a shard works in memory that it has: nothing comes or goes.

Dask starts its workers with a small ``MALLOC_TRIM_THRESHOLD_``, under which every
large temporary goes back to the operating system, and its pages fault again at the
next step. So faults are counted, in a process that is started like a worker and,
as there, outside its main thread.
"""

import multiprocessing
import sys
import threading
import tracemalloc
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from skdistmlp.nn.update_rules import Adam
from skdistmlp.parallel.blas import blas_threads
from skdistmlp.parallel.communicators import SingleProcess
from skdistmlp.parallel.local_network import open_local_network
from skdistmlp.parallel.shard import split_state
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.training.step import training_step
from tests.parallel.ops_contract import make_problem
from tests.thread_communicator import run_in_threads
from tests.wire.test_communicator import connected, run

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="is about glibc's malloc"
)

N_ROWS, BATCH = 500, 200
HIDDEN = 600, 500
N_STEPS = 20

TEMPORARY_BYTES = BATCH * min(HIDDEN) // 2 * 4
"""Half a hidden layer of one mini-batch, the smallest array worth a buffer."""

FAULTS_OF_A_TEMPORARY = TEMPORARY_BYTES // 4096

COMMUNICATORS = {
    "nobody else": lambda work: run_in_threads(1, lambda _: work(SingleProcess())),
    "in memory": lambda work: run_in_threads(2, work),
    "sockets": lambda work: run(connected(2), work),
}


def count_faults(of_a_step):
    """Return the page faults a step of this process, when it has settled down."""
    import resource

    def so_far():
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    for _ in range(3):
        of_a_step()
    before = so_far()
    for _ in range(N_STEPS):
        of_a_step()
    return (so_far() - before) / N_STEPS


def faults_of_a_step(communicators, activation, output, n_outputs):
    """Return the page faults that a step of all shards causes."""

    def shard(communicator):
        split = NetworkSplit.even((784, *HIDDEN, n_outputs), communicator.n_ranks)
        problem = make_problem(
            split,
            activation,
            output,
            Adam(),
            weighted=True,
            dtype=np.float32,
            n_rows=N_ROWS,
        )
        state = split_state(split, problem.start())[communicator.rank]
        shard = open_local_network(
            problem.network, problem.split, state, problem.dataset, communicator, BATCH
        )
        order = np.random.default_rng(0)

        def step():
            training_step(shard.ops, order.permutation(N_ROWS)[:BATCH], 1e-4)
            shard.loss.pop()

        return count_faults(step)

    with blas_threads(1):
        return max(COMMUNICATORS[communicators](shard))


def faults_of_a_temporary():
    counted = []

    def touch():
        np.empty(TEMPORARY_BYTES, np.uint8).fill(1)

    thread = threading.Thread(target=lambda: counted.append(count_faults(touch)))
    thread.start()
    thread.join()
    return counted[0]


@pytest.fixture(scope="module")
def like_a_worker():
    with pytest.MonkeyPatch.context() as patch:
        # Of Dask's `distributed.nanny.pre-spawn-environ`.
        patch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
        patch.setenv("OPENBLAS_NUM_THREADS", "1")
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, spawn) as process:
            process.submit(int).result(60)
            yield lambda *call: process.submit(*call).result(60)


def test_a_temporary_of_an_activations_size_is_detected(like_a_worker):
    assert like_a_worker(faults_of_a_temporary) >= FAULTS_OF_A_TEMPORARY


@pytest.mark.parametrize("communicators", COMMUNICATORS)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize(("output", "n_outputs"), [("softmax", 10), ("identity", 1)])
def test_steps_cause_no_page_faults(
    like_a_worker, communicators, activation, output, n_outputs
):
    n_faults = like_a_worker(
        faults_of_a_step, communicators, activation, output, n_outputs
    )
    assert n_faults < FAULTS_OF_A_TEMPORARY / 4


@pytest.mark.parametrize("output", ["logistic", "identity", "exp", "softmax"])
def test_losses_of_many_outputs_are_computed_in_blocks(output):
    """Not even one array of all outputs in float64 is needed in addition."""
    n_outputs = 400
    split = NetworkSplit.even((20, n_outputs), 1)
    problem = make_problem(
        split, "relu", output, Adam(), weighted=True, dtype=np.float32, n_rows=N_ROWS
    )
    (state,) = split_state(split, problem.start())
    shard = open_local_network(
        problem.network, problem.split, state, problem.dataset, SingleProcess(), BATCH
    )
    rows = np.arange(BATCH)
    training_step(shard.ops, rows, 1e-4)
    tracemalloc.start()
    try:
        training_step(shard.ops, rows, 1e-4)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < BATCH * n_outputs * 8
