import dataclasses
import pickle

import pytest

from skdistmlp.parallel.plan import (
    FLOP_PER_BYTE_SENT,
    FLOP_PER_CHAINED_TASK,
    Work,
    bytes_sent,
    chained_tasks,
    cluster_plan,
    flop,
    local_plan,
    reason_to_stay_local,
)
from skdistmlp.parallel.split import NetworkSplit

UNITS = (784, 4096, 512, 10)
N_PARAMETERS = 784 * 4096 + 4096 * 512 + 512 * 10 + 4096 + 512 + 10
WORKERS = ["tcp://a:1", "tcp://b:2"]


def flop_by_hand(n_rows, training):
    """Return two operations a multiplication, for every product of a step."""
    forward = [784 * 4096, 4096 * 512, 512 * 10]
    products = list(forward)
    if training:
        products += forward  # the gradients
        products += forward[1:]  # the deltas of all layers but the first
    return 2 * n_rows * sum(products)


def work_of(n_rows, *, training):
    return Work(n_rows, training, itemsize=4)


def rows_around_the_border(*, training):
    """Return the most rows that two workers do not share, and the fewest they do."""
    cost, saved_by_a_row = 6 * FLOP_PER_CHAINED_TASK, flop_by_hand(1, training) / 2
    if not training:
        cost = 4 * FLOP_PER_CHAINED_TASK + 4 * N_PARAMETERS * FLOP_PER_BYTE_SENT
        saved_by_a_row -= 2 * 4 * 784 * FLOP_PER_BYTE_SENT
    border = int(cost / saved_by_a_row)
    return border, border + 1


@pytest.mark.parametrize(
    ("engine", "threshold", "reason"),
    [
        ("local", 0, "engine='local' was asked for"),
        ("auto", N_PARAMETERS, None),
        ("auto", 0, None),
        (
            "auto",
            N_PARAMETERS + 1,
            "5,318,154 parameters are fewer than the threshold of 5,318,155",
        ),
        ("futures", N_PARAMETERS, None),
        (
            "futures",
            N_PARAMETERS + 1,
            "5,318,154 parameters are fewer than the threshold of 5,318,155",
        ),
    ],
)
def test_reason_to_stay_local(engine, threshold, reason):
    assert reason_to_stay_local(UNITS, engine, threshold) == reason


@pytest.mark.parametrize("training", [False, True])
def test_operations_and_chained_tasks_are_counted(training):
    split, work = NetworkSplit.even(UNITS, 2), Work(100, training)
    assert flop(split, work) == flop_by_hand(100, training)
    # Forward through three layers; then the outputs, or backward through two
    # layers and the update.
    assert chained_tasks(split, work) == (6 if training else 4)


@pytest.mark.parametrize("itemsize", [4, 8])
def test_a_prediction_sends_weights_once_and_rows_to_every_shard(itemsize):
    split = NetworkSplit.even(UNITS, 2)
    assert bytes_sent(split, Work(100, training=True, itemsize=itemsize)) == 0
    assert (
        bytes_sent(split, Work(100, training=False, itemsize=itemsize))
        == (N_PARAMETERS + 2 * 100 * 784) * itemsize
    )


@pytest.mark.parametrize("training", [False, True])
def test_auto_shares_what_saves_more_than_its_tasks_cost(training):
    local, shared = (
        cluster_plan(UNITS, "auto", WORKERS, work_of(n_rows, training=training))
        for n_rows in rows_around_the_border(training=training)
    )
    assert (local.engine, local.n_shards, local.workers) == ("local", 1, ())
    assert (shared.engine, shared.n_shards) == ("futures", 2)
    assert shared.workers == tuple(WORKERS)


def test_auto_never_shares_with_a_single_worker():
    plan = cluster_plan(UNITS, "auto", WORKERS[:1], Work(10**9, training=True))
    assert plan.engine == "local"


@pytest.mark.parametrize("n_rows", [1, 10**6])
@pytest.mark.parametrize("workers", [WORKERS, WORKERS[:1]], ids=len)
def test_futures_are_obeyed_whatever_the_work(n_rows, workers):
    plan = cluster_plan(UNITS, "futures", workers, Work(n_rows, training=True))
    assert plan.engine == "futures"
    assert plan.workers == tuple(workers)
    assert plan.reason == "engine='futures' was asked for"


def test_workers_that_would_hold_nothing_are_left_out():
    plan = cluster_plan((5, 2, 3), "futures", ["a", "b", "c"], Work(1, training=True))
    assert (plan.n_shards, plan.workers) == (2, ("a", "b"))


def test_a_local_plan_says_why():
    assert str(local_plan([5, 2, 3], "there is no cluster")) == (
        "local: there is no cluster\nnetwork 5-2-3, 21 parameters, 1 shard"
    )


def test_a_plan_says_who_holds_which_neurons():
    plan = cluster_plan((5, 5, 1, 3), "futures", WORKERS, Work(1, training=True))
    assert str(plan) == (
        "futures: engine='futures' was asked for\n"
        "network 5-5-1-3, 42 parameters, 2 shards\n"
        "shard 0 on tcp://a:1: layer 0: neurons 0-1, layer 1: no neurons, "
        "layer 2 (output): no inputs\n"
        "shard 1 on tcp://b:2: layer 0: neurons 2-4, layer 1: neurons 0-0, "
        "layer 2 (output): inputs 0-0"
    )


def test_a_plan_without_hidden_layers_says_that_one_worker_holds_all():
    plan = cluster_plan((5, 3), "futures", WORKERS, Work(1, training=False))
    assert str(plan).splitlines()[1:] == [
        "network 5-3, 18 parameters, 1 shard",
        "shard 0 on tcp://a:1: all of it",
    ]


@pytest.mark.parametrize(
    ("training", "sums"),
    [
        (
            True,
            "sharing a step of 200 rows among 2 saves 2.55 GFLOP, its 6 chained tasks "
            "cost as much time as 10.8 GFLOP",
        ),
        (
            False,
            "sharing a prediction of 200 rows among 2 saves 1.06 GFLOP, its 4 chained "
            "tasks and 22.5 MB to send cost as much time as 18.5 GFLOP",
        ),
    ],
)
def test_auto_gives_its_sums_as_the_reason(training, sums, monkeypatch):
    monkeypatch.setattr("skdistmlp.parallel.plan.FLOP_PER_CHAINED_TASK", 1.8e9)
    monkeypatch.setattr("skdistmlp.parallel.plan.FLOP_PER_BYTE_SENT", 500.0)
    work = work_of(200, training=training)
    assert cluster_plan(UNITS, "auto", WORKERS, work).reason == sums


@pytest.mark.parametrize(
    "plan",
    [
        local_plan([5, 2, 3], "because"),
        cluster_plan([5, 4, 3], "futures", WORKERS, Work(1, training=True)),
    ],
    ids=["local", "futures"],
)
def test_a_plan_is_a_value(plan):
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.engine = "auto"
    woken = pickle.loads(pickle.dumps(plan))
    assert woken == plan
    assert hash(woken) == hash(plan)
    assert str(woken) == str(plan)
    assert woken != dataclasses.replace(plan, reason="another")
