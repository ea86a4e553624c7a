import re

import numpy as np
import pytest

from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.cost import (
    StepCost,
    bytes_sent_by_neurons,
    bytes_sent_by_rows,
)
from skdistmlp.planning.prediction import (
    FLOP_PER_BYTE_SENT,
    FLOP_PER_CHAINED_TASK,
    TASKS_BY_ROWS,
    plan_shared_prediction,
    reason_to_predict_locally,
)
from tests.planning.test_plan import (
    N_PARAMETERS,
    N_TASKS,
    UNITS,
    WORKERS,
    cost_of,
    flop_by_hand,
)

NETWORK_BYTES = 4 * N_PARAMETERS
# Twice for a moment, when it arrives.
ROOMY, NARROW = 2 * NETWORK_BYTES, 2 * NETWORK_BYTES - 1


def plan_of(n_rows, engine="auto", workers=WORKERS, memory_limit=None):
    cost = cost_of("prediction", n_rows)
    return plan_shared_prediction(UNITS, engine, workers, cost, memory_limit)


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize(
    # A column with each stored number.
    ("nnz_per_row", "n_numbers"),
    [(None, 784), (49.0, 2 * 49)],
)
def test_bytes_sent_by_a_prediction_are_counted(nnz_per_row, n_numbers, itemsize):
    """By neurons: each parameter once, all rows to both; by rows: the reverse."""
    cost = StepCost.of_prediction(100, itemsize=itemsize, nnz_per_row=nnz_per_row)
    by_neurons = N_PARAMETERS + 2 * 100 * n_numbers
    by_rows = 2 * N_PARAMETERS + 100 * n_numbers
    split = NetworkSplit.even(UNITS, 2)
    assert bytes_sent_by_neurons(split, cost) == by_neurons * itemsize
    assert bytes_sent_by_rows(split, cost, n_workers=2) == by_rows * itemsize


@pytest.mark.parametrize(
    ("memory_limit", "split_by", "n_shards", "n_tasks", "parameters_and_rows"),
    [
        (None, "rows", 1, TASKS_BY_ROWS, (2, 1)),
        (ROOMY, "rows", 1, TASKS_BY_ROWS, (2, 1)),
        (NARROW, "neurons", 2, N_TASKS["prediction"], (1, 2)),
    ],
)
def test_auto_distributes_what_saves_more_time_than_it_costs(
    memory_limit, split_by, n_shards, n_tasks, parameters_and_rows
):
    """By rows where the whole network fits a worker, else by neurons."""
    of_parameters, of_rows = parameters_and_rows
    cost = n_tasks * FLOP_PER_CHAINED_TASK
    cost += of_parameters * NETWORK_BYTES * FLOP_PER_BYTE_SENT[split_by]
    saved_by_a_row = flop_by_hand(1, "prediction") / 2
    saved_by_a_row -= of_rows * 4 * 784 * FLOP_PER_BYTE_SENT[split_by]
    border = int(cost / saved_by_a_row)
    local = plan_of(border, memory_limit=memory_limit)
    assert (local.engine, local.n_shards, local.workers) == ("local", 1, ())
    shared = plan_of(border + 1, memory_limit=memory_limit)
    assert (shared.engine, shared.split_by) == ("futures", split_by)
    assert shared.n_shards == n_shards
    assert shared.workers == tuple(WORKERS)


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
                r"a prediction of [\d,]+ rows? takes .* GFLOP, less", reason
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
    assert plan.reason == (
        "sharing a prediction of 200 rows among 2 workers by rows saves 1.06 GFLOP; "
        "its 2 chained tasks and 43.2 MB to send cost as much time as 20.9 GFLOP"
    )
    plan = plan_of(200, memory_limit=NARROW)
    assert plan.reason == (
        "sharing a prediction of 200 rows among 2 workers by neurons (the whole "
        "network takes 42,545,232 bytes on its arrival, and a worker has 42,545,231) "
        "saves 1.06 GFLOP; its 4 chained tasks and 22.5 MB to send cost as much time "
        "as 18.5 GFLOP"
    )


def test_a_plan_by_rows_lists_its_workers():
    lines = str(plan_of(10**5)).splitlines()
    assert lines[0].startswith(
        "futures, split by rows: sharing a prediction of 100,000"
    )
    assert lines[1:] == [
        "network 784-4096-512-10, 5,318,154 parameters, 1 shard",
        "the whole network on tcp://a:1",
        "the whole network on tcp://b:2",
    ]
