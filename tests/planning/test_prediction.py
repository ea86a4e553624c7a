import math
import re
from dataclasses import replace

import numpy as np
import pytest

from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.candidates import MARGIN
from skdistmlp.planning.cost import (
    StepCost,
    bytes_sent_by_neurons,
    bytes_sent_by_rows,
)
from skdistmlp.planning.machines import Machines, Speed, reference_machines
from skdistmlp.planning.memory import WorkerMemory
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


def plan_of(n_rows, engine="auto", workers=WORKERS, free=None, machines=None):
    """Return the plan where each worker may allocate some bytes, or all as many."""
    cost = cost_of("prediction", n_rows)
    machines = machines or reference_machines(len(workers), math.inf)
    if not isinstance(free, list):
        free = [free] * len(workers)
    memory = {
        worker: WorkerMemory(n_bytes)
        for worker, n_bytes in zip(workers, free, strict=True)
        if n_bytes is not None
    }
    return plan_shared_prediction(UNITS, engine, workers, cost, memory, machines)


def workers_of(*times, bits_per_s=math.inf):
    """Return workers that are slower than a reference core by these times."""
    machines = reference_machines(len(times), bits_per_s)
    speeds = tuple(Speed(REFERENCE, {Grid(1): slower}) for slower in times)
    names = [f"tcp://{number}:1" for number in range(len(times))]
    return names, replace(machines, workers=speeds)


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
    ("free", "split_by", "n_shards", "n_tasks", "numbers_sent"),
    [
        (None, "rows", 1, TASKS_BY_ROWS, (2, 784)),
        (ROOMY, "rows", 1, TASKS_BY_ROWS, (2, 784)),
        (NARROW, "neurons", 2, N_TASKS["prediction"], (1, 2 * 784 + 4096 + 2 * 10)),
    ],
)
def test_auto_distributes_what_saves_more_time_than_it_costs(
    free, split_by, n_shards, n_tasks, numbers_sent
):
    """By rows where the whole network fits a worker, else by neurons."""
    of_parameters, of_a_row = numbers_sent
    border = 10_000
    # The products are as wide as the rate says, whatever the number of rows.
    byte_s = DASK_BYTE_S + 8 / MACHINES.links[0].bits_per_s
    costs_s = n_tasks * TASK_S + of_parameters * NETWORK_BYTES * byte_s
    costs_s += border * 4 * of_a_row * byte_s
    saved_s = seconds_of(border) / (1 + MARGIN) - seconds_of(border, split_by, 2)
    # As fast as that makes it a draw.
    draw = Speed(REFERENCE, {Grid(1): costs_s / saved_s})

    def plan_with(times):
        speed = Speed(REFERENCE, {Grid(1): times * draw.correction(Grid(1))})
        machines = Machines(speed, (speed, speed), MACHINES.links[:2])
        return plan_of(border, free=free, machines=machines)

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
    assert plan_of(n_rows, machines=replace(MACHINES, workers=(equal, equal))).workers
    far = reference_machines(2, 1e7)
    assert plan_of(n_rows, machines=far).engine == "local"
    links = [replace(link, here_bits_per_s=1e7) for link in MACHINES.links]
    far_from_here = replace(MACHINES, links=tuple(links))
    assert plan_of(n_rows, machines=far_from_here).engine == "local"
    many_threads = Speed(REFERENCE, {Grid(1): 0.4})
    here = replace(MACHINES, here=many_threads)
    assert plan_of(n_rows, machines=here).engine == "local"


@pytest.mark.parametrize("free", [None, NARROW])
@pytest.mark.parametrize("workers", [WORKERS, WORKERS[:1]], ids=len)
def test_engine_futures_is_used_for_predictions(workers, free):
    plan = plan_of(1, "futures", workers, free)
    assert (plan.engine, plan.workers) == ("futures", tuple(workers))
    assert plan.reason == "engine='futures' was asked for"


@pytest.mark.parametrize("free", [None, NARROW])
@pytest.mark.parametrize("n_workers", [2, 3, 100])
def test_small_predictions_stay_local_without_counting_workers(n_workers, free):
    workers = [f"tcp://{n}:1" for n in range(n_workers)]
    for n_rows in np.geomspace(1, 1e7, 30).astype(int):
        reason = reason_to_predict_locally(UNITS, cost_of("prediction", int(n_rows)))
        if reason is not None:
            assert re.match(
                r"a prediction of [\d,]+ rows? takes about .* s, and sharing", reason
            )
            plan = plan_of(int(n_rows), workers=workers, free=free)
            assert plan.engine == "local"
    assert reason is None, "the largest is worth asking for"


@pytest.mark.parametrize("free", [None, NARROW])
def test_a_single_worker_is_not_used(free):
    plan = plan_of(10**9, workers=WORKERS[:1], free=free)
    assert plan.engine == "local"


def test_a_slow_worker_is_left_out():
    workers, machines = workers_of(4.0, 1.0, 1.0, 1.0)
    plan = plan_of(10**5, workers=workers, machines=machines)
    assert (plan.split_by, list(plan.workers)) == ("rows", workers[1:])
    assert plan.reason.endswith(
        "; tcp://0:1 is left out, 4.0 times as slow as the others"
    )


def test_one_fast_worker_predicts_alone():
    workers, machines = workers_of(0.1, 1.0)
    plan = plan_of(10**5, workers=workers, machines=machines)
    assert (plan.split_by, plan.workers) == ("rows", ("tcp://0:1",))


@pytest.mark.parametrize("n_workers", [3, 5, 8])
def test_many_rows_are_shared_by_all(n_workers):
    workers, machines = workers_of(*[1e3] * n_workers)
    machines = replace(machines, here=machines.workers[0])
    plan = plan_of(10**7, workers=workers, machines=machines)
    assert (plan.split_by, plan.n_shards, len(plan.workers)) == ("rows", 1, n_workers)


def test_more_workers_have_to_be_worth_their_copies_of_the_network():
    """With few rows, what is sent to another one takes longer than what it saves."""
    workers, machines = workers_of(*[1.0] * 8, bits_per_s=1e10)
    machines = replace(machines, here=Speed(REFERENCE, {Grid(1): 10.0}))
    plan = plan_of(5000, workers=workers, machines=machines)
    assert plan.split_by == "rows"
    assert 1 <= len(plan.workers) < 8


@pytest.mark.parametrize(("n_rows", "split_by"), [(200, "neurons"), (10**4, "rows")])
def test_few_rows_are_cheaper_to_send_than_copies_of_the_network(n_rows, split_by):
    workers, machines = workers_of(20.0, 20.0, bits_per_s=1e9)
    machines = replace(machines, here=Speed(REFERENCE, {Grid(1): 1e3}))
    plan = plan_of(n_rows, workers=workers, machines=machines)
    assert (plan.split_by, len(plan.workers)) == (split_by, 2)


def test_a_network_that_fits_some_workers_is_copied_to_those():
    workers, machines = workers_of(1.0, 1.0, 1.0, 1.0)
    free = [ROOMY, NARROW, ROOMY, None]
    plan = plan_of(10**5, workers=workers, free=free, machines=machines)
    assert plan.split_by == "rows"
    assert plan.workers == ("tcp://0:1", "tcp://2:1", "tcp://3:1")


def test_shards_go_to_the_workers_that_have_room_for_them():
    workers, machines = workers_of(*[1.0] * 4)
    machines = replace(machines, here=Speed(REFERENCE, {Grid(1): 10.0}))
    shard_bytes = int(0.51 * ROOMY)
    free = [shard_bytes, 1000, shard_bytes, 1000]
    plan = plan_of(10**5, workers=workers, free=free, machines=machines)
    assert (plan.split_by, plan.n_shards) == ("neurons", 2)
    assert plan.workers == ("tcp://0:1", "tcp://2:1")
    nowhere = plan_of(10**5, workers=workers, free=1000, machines=machines)
    assert nowhere.engine == "local"
    assert nowhere.reason.endswith("and no worker has more than 1,000")


def test_all_workers_that_have_room_for_a_shard_are_considered():
    """Also if they are a number that is not considered of all workers."""
    workers, machines = workers_of(*[1e3] * 16)
    machines = replace(machines, here=Speed(REFERENCE, {Grid(1): 1e6}))
    split = NetworkSplit.even(UNITS, 11)
    most = max(split.layout(shard).n_parameters for shard in range(11))
    # Twice for a moment, when it arrives.
    shard_bytes = 2 * 4 * most
    free = [1000, shard_bytes] * 5 + [shard_bytes] * 6
    plan = plan_of(10**5, workers=workers, free=free, machines=machines)
    assert (plan.split_by, plan.n_shards) == ("neurons", 11)
    assert plan.workers == (*workers[1:10:2], *workers[10:])


def test_of_equally_fast_workers_those_with_faster_links_are_taken():
    workers, machines = workers_of(*[1.0] * 8, bits_per_s=1e10)
    slow = reference_machines(1, 1e9).links
    machines = replace(
        machines,
        here=Speed(REFERENCE, {Grid(1): 10.0}),
        links=slow + machines.links[1:],
    )
    plan = plan_of(5000, workers=workers, machines=machines)
    n_taken = len(plan.workers)
    assert plan.split_by == "rows"
    assert 1 <= n_taken < 8
    assert plan.workers == tuple(workers[1 : 1 + n_taken])


def test_a_layer_has_no_more_shards_than_neurons():
    workers, machines = workers_of(*[1.0] * 5)
    machines = replace(machines, here=Speed(REFERENCE, {Grid(1): 1e6}))
    cost = cost_of("prediction", 10**6)
    # For one of the three neurons.
    memory = dict.fromkeys(workers, WorkerMemory(2 * 4 * 1200))
    plan = plan_shared_prediction(
        (1000, 3, 10), "auto", workers, cost, memory, machines
    )
    assert (plan.split_by, plan.n_shards, len(plan.workers)) == ("neurons", 3, 3)


def test_a_plan_explains_its_estimate():
    plan = plan_of(200)
    assert re.fullmatch(
        r"a prediction of 200 rows should take 0.0\d+ s in this process, 0.\d+ s on "
        r"1 worker by rows \(21.9 MB are sent\) and 0.\d+ s on 2 workers by neurons "
        r"\(25.8 MB are sent\)",
        plan.reason,
    )
    plan = plan_of(200, free=NARROW)
    assert re.search(
        r" s in this process and 0.\d+ s on 2 workers by neurons \(25.8 MB are "
        r"sent\); the whole network takes 42,545,232 bytes on its arrival, and no "
        r"worker has more than 42,545,231$",
        plan.reason,
    )


def test_a_plan_on_fewer_machines_says_what_more_would_have_to_save():
    workers, machines = workers_of(1.0, 1.0)
    here_s, shared_s = seconds_of(10**5), seconds_of(10**5, "rows", 2)
    sent_s = 4 * (2 * N_PARAMETERS + 10**5 * 784) * DASK_BYTE_S
    # 5% faster than this process.
    times = (shared_s + TASKS_BY_ROWS * TASK_S + sent_s) * 1.05 / here_s
    machines = replace(machines, here=Speed(REFERENCE, {Grid(1): times}))
    plan = plan_of(10**5, workers=workers, machines=machines)
    assert plan.engine == "local"
    assert plan.reason.endswith(
        "; more machines are taken only if they are more than 10% faster"
    )


def test_a_plan_by_rows_lists_its_workers():
    lines = str(plan_of(10**5)).splitlines()
    assert lines[0].startswith("futures, split by rows: a prediction of 100,000 rows")
    assert lines[1:] == [
        "network 784-4096-512-10, 5,318,154 parameters, 1 shard",
        "the whole network on tcp://a:1",
        "the whole network on tcp://b:2",
    ]
