import math
import re
from dataclasses import replace

import numpy as np
import pytest

from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.cost import (
    StepCost,
    bytes_sent_by_neurons,
    bytes_sent_by_rows,
)
from skdistmlp.planning.machines import Machines, Speed, reference_machines
from skdistmlp.planning.prediction import (
    TASKS_BY_ROWS,
    plan_shared_prediction,
    reason_to_predict_locally,
)
from skdistmlp.planning.rates import DASK_BYTE_S, REFERENCE, TASK_S
from skdistmlp.planning.step_time import computation_s
from tests.planning.test_plan import (
    N_PARAMETERS,
    N_TASKS,
    UNITS,
    WORKERS,
    cost_of,
)

NETWORK_BYTES = 4 * N_PARAMETERS
# Twice for a moment, when it arrives.
ROOMY, NARROW = 2 * NETWORK_BYTES, 2 * NETWORK_BYTES - 1


MACHINES = reference_machines(2, math.inf)


def plan_of(n_rows, engine="auto", workers=WORKERS, memory_limit=None, machines=None):
    cost = cost_of("prediction", n_rows)
    machines = machines or reference_machines(len(workers), math.inf)
    return plan_shared_prediction(UNITS, engine, workers, cost, memory_limit, machines)


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize(
    # A column with each stored number.
    ("nnz_per_row", "n_numbers"),
    [(None, 784), (49.0, 2 * 49)],
)
def test_bytes_sent_by_a_prediction_are_counted(nnz_per_row, n_numbers, itemsize):
    """By neurons: each parameter once, all rows to both; by rows: the reverse."""
    cost = StepCost.of_prediction(100, itemsize=itemsize, nnz_per_row=nnz_per_row)
    # What the first hidden layer sends the other, and both of the outputs.
    exchanged = 4096 + 2 * 10
    by_neurons = N_PARAMETERS + 100 * (2 * n_numbers + exchanged)
    by_rows = 2 * N_PARAMETERS + 100 * n_numbers
    split = NetworkSplit.even(UNITS, 2)
    assert bytes_sent_by_neurons(split, cost) == by_neurons * itemsize
    assert bytes_sent_by_rows(split, cost, n_workers=2) == by_rows * itemsize


@pytest.mark.parametrize(
    ("memory_limit", "split_by", "n_shards", "n_tasks", "numbers_sent"),
    [
        (None, "rows", 1, TASKS_BY_ROWS, (2, 784)),
        (ROOMY, "rows", 1, TASKS_BY_ROWS, (2, 784)),
        (NARROW, "neurons", 2, N_TASKS["prediction"], (1, 2 * 784 + 4096 + 2 * 10)),
    ],
)
def test_auto_distributes_what_saves_more_time_than_it_costs(
    memory_limit, split_by, n_shards, n_tasks, numbers_sent
):
    """By rows where the whole network fits a worker, else by neurons."""
    of_parameters, of_a_row = numbers_sent
    border = 10_000
    # The products are as wide as the rate says, whatever the number of rows.
    byte_s = DASK_BYTE_S + 8 / MACHINES.link.bits_per_s
    costs_s = n_tasks * TASK_S + of_parameters * NETWORK_BYTES * byte_s
    costs_s += border * 4 * of_a_row * byte_s
    saved_s = seconds_of(border) - seconds_of(border, split_by, 2)
    # As fast as that makes it a draw.
    draw = Speed(REFERENCE, {Grid(1): costs_s / saved_s})

    def plan_with(times):
        speed = Speed(REFERENCE, {Grid(1): times * draw.correction(Grid(1))})
        machines = Machines(speed, (speed, speed), MACHINES.link)
        return plan_of(border, memory_limit=memory_limit, machines=machines)

    local, shared = plan_with(0.99), plan_with(1.01)
    assert (local.engine, local.n_shards, local.workers) == ("local", 1, ())
    assert (shared.engine, shared.split_by) == ("futures", split_by)
    assert shared.n_shards == n_shards
    assert shared.workers == tuple(WORKERS)


def seconds_of(n_rows, split_by="rows", n_workers=1):
    """Seconds of products and layers, on each of some workers."""
    cost = cost_of("prediction", n_rows)
    if split_by == "rows":
        cost, n_workers = replace(cost, n_rows=n_rows // n_workers), 1
    split = NetworkSplit.even(UNITS, n_workers)
    return computation_s(split, cost, Grid(1), Speed(REFERENCE))


def test_a_slow_worker_and_a_slow_link_count():
    n_rows = 10**5
    assert plan_of(n_rows).engine == "futures"
    slow = Speed(REFERENCE, {Grid(1): 3.0})
    equal = MACHINES.workers[0]
    with_slow = replace(MACHINES, workers=(equal, slow))
    assert plan_of(n_rows, machines=with_slow).engine == "local"
    far = reference_machines(2, 1e7)
    assert plan_of(n_rows, machines=far).engine == "local"
    far_from_here = replace(MACHINES, here_bits_per_s=1e7)
    assert plan_of(n_rows, machines=far_from_here).engine == "local"
    many_threads = Speed(REFERENCE, {Grid(1): 0.4})
    here = replace(MACHINES, here=many_threads)
    assert plan_of(n_rows, machines=here).engine == "local"


@pytest.mark.parametrize("memory_limit", [None, NARROW])
@pytest.mark.parametrize("workers", [WORKERS, WORKERS[:1]], ids=len)
def test_engine_futures_is_used_for_predictions(workers, memory_limit):
    plan = plan_of(1, "futures", workers, memory_limit)
    assert (plan.engine, plan.workers) == ("futures", tuple(workers))
    assert plan.reason == "engine='futures' was asked for"


@pytest.mark.parametrize("memory_limit", [None, NARROW])
@pytest.mark.parametrize("n_workers", [2, 3, 100])
def test_small_predictions_stay_local_without_counting_workers(n_workers, memory_limit):
    workers = [f"tcp://{n}:1" for n in range(n_workers)]
    for n_rows in np.geomspace(1, 1e7, 30).astype(int):
        reason = reason_to_predict_locally(UNITS, cost_of("prediction", int(n_rows)))
        if reason is not None:
            assert re.match(
                r"a prediction of [\d,]+ rows? takes about .* s, and sharing", reason
            )
            plan = plan_of(int(n_rows), workers=workers, memory_limit=memory_limit)
            assert plan.engine == "local"
    assert reason is None, "the largest is worth asking for"


@pytest.mark.parametrize("memory_limit", [None, NARROW])
def test_a_single_worker_is_not_used(memory_limit):
    plan = plan_of(10**9, workers=WORKERS[:1], memory_limit=memory_limit)
    assert plan.engine == "local"


def test_a_plan_explains_its_estimate():
    plan = plan_of(200)
    assert re.fullmatch(
        r"a prediction of 200 rows should take 0.0\d+ s in this process, and 0.\d+ s "
        r"on 2 workers by rows, to which 43.2 MB are sent",
        plan.reason,
    )
    plan = plan_of(200, memory_limit=NARROW)
    assert re.search(
        r" on 2 workers by neurons \(the whole network takes 42,545,232 bytes on its "
        r"arrival, and a worker has 42,545,231\), to which 25.8 MB are sent$",
        plan.reason,
    )


def test_a_plan_by_rows_lists_its_workers():
    lines = str(plan_of(10**5)).splitlines()
    assert lines[0].startswith("futures, split by rows: a prediction of 100,000 rows")
    assert lines[1:] == [
        "network 784-4096-512-10, 5,318,154 parameters, 1 shard",
        "the whole network on tcp://a:1",
        "the whole network on tcp://b:2",
    ]
